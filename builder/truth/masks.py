"""Semantic labels: a folder of masks beside the images. A pixel of the value 255 (VOID) counts for nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from builder.errors import BuildError, brief
from builder.store.names import canonical
from builder.truth.class_names import read_class_lines
from builder.truth.listing import READERS, by_stem, list_images, read_lines, upright_sizes
from builder.truth.records import LabelledImage, Truth, TruthError, without_boxes
from teachers.base import VOID
from teachers.files import open_regular


def read_masks(source: Path, images: Path | None = None) -> Truth:
    """Semantic labels from a folder with `images/`, `masks/` and `classes.txt`, or a list of stems (`val.txt`) in it.

    `masks/STEM.png`, 8-bit grey or palette, belongs to `images/STEM.*`; the value of a pixel is its class's line in
    classes.txt, counted from 0, and a value without a line is to be ignored. `background` is a class like any other
    here: a pixel that shows nothing else is a statement. Without a list, images without a mask are left out.
    Raises TruthError for a missing or unusable mask, image or classes.txt, and a mask of another size than its image.
    """
    root = source if source.is_dir() else source.parent
    classes = read_class_lines(root / "classes.txt")
    if not 0 < len(classes) <= VOID:
        raise TruthError(f"{root / 'classes.txt'} has {len(classes)} lines: give 1 to {VOID} classes, one a line")
    listed, masks = list_images(images or root / "images"), list_images(root / "masks")
    wanted = (
        [canonical(line) for line in read_lines(source)]
        if source.is_file()
        else [name.rpartition(".")[0] for name in masks]
    )
    twice = next((stem for stem in wanted if wanted.count(stem) > 1), None) if len(set(wanted)) < len(wanted) else None
    if twice is not None:
        raise TruthError(
            f"{brief(repr(twice))} stands twice in {source if source.is_file() else root / 'masks'}: keep one"
        )
    names, stems = [], by_stem(list(listed))
    for stem in wanted:
        same = stems.get(stem, [])
        if len(same) != 1 or f"{stem}.png" not in masks:
            what = "mask" if len(same) == 1 else "image" if not same else f"single image ({', '.join(same)})"
            raise TruthError(f"{brief(repr(stem))} of {source} has no {what} in {root}: mend the list or the folders")
        names.append(same[0])
    paths, drawn = [listed[name] for name in names], [masks[f"{stem}.png"] for stem in wanted]
    sizes = upright_sizes(paths)
    _check_masks(drawn, sizes)
    labelled = [
        without_boxes(number, name, path, size, mask=mask)
        for number, (name, path, size, mask) in enumerate(zip(names, paths, sizes, drawn, strict=True), 1)
    ]
    return Truth(classes, labelled, tuple(range(len(classes))), kind="semantic")


def read_mask(image: LabelledImage, classes: int) -> np.ndarray:
    """The map of a semantic image: uint8 (H, W), positions in the truth's classes, whose number is `classes`, and 255
    where nothing is said. Raises TruthError if it cannot be read."""
    values = read_mask_values(image)
    return np.where(values < classes, values, VOID).astype(np.uint8)


def read_mask_values(image: LabelledImage) -> np.ndarray:
    """What the mask of a semantic image holds: uint8 (H, W). Raises TruthError if it cannot be read."""
    try:
        return read_plane(Path(str(image.mask)), ("L", "P"), (image.width, image.height))
    except BuildError as error:
        raise TruthError(f"mask {error}") from None


def _check_masks(masks: Sequence[Path], sizes: Sequence[tuple[int, int]]) -> None:
    with ThreadPoolExecutor(READERS) as threads:
        headers = list(threads.map(_mask_header, masks))
    for path, (mode, size), wanted in zip(masks, headers, sizes, strict=True):
        _check_plane(path, mode, ("L", "P"), size, wanted, "mask ")


def _mask_header(path: Path) -> tuple[str, tuple[int, int]]:
    try:
        with _opened(path) as file:
            return file.mode, file.size
    except BuildError as error:
        raise TruthError(f"mask {error}") from None


def read_plane(path: Path, modes: Sequence[str], size: tuple[int, int]) -> np.ndarray:
    """A PNG of a number for each pixel of an image: uint8 (H, W). modes: of Pillow, that it may have; size: width and
    height that it must have, which is looked at before any pixel is. Raises BuildError."""
    with _opened(path) as file:
        _check_plane(path, file.mode, modes, file.size, size)
        return np.array(file)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with open_regular(path) as data, Image.open(data, formats=("PNG",)) as file:
            yield file
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = "it is no PNG" if isinstance(error, UnidentifiedImageError) else brief(error)
        raise BuildError(f"{path} cannot be read ({reason}): replace it or take it out") from None


def _check_plane(
    path: Path, mode: str, modes: Sequence[str], size: tuple[int, int], wanted: tuple[int, int], what: str = ""
) -> None:
    if mode not in modes:
        raise TruthError(
            f"{what}{path} has pixels of mode {mode}: save it as an 8-bit grey {'or palette ' * ('P' in modes)}PNG"
        )
    if size != wanted:
        raise TruthError(
            f"{what}{path} is {size[0]}x{size[1]}, but its image {wanted[0]}x{wanted[1]} upright: correct it"
        )
