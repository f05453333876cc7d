"""Semantic maps of a chunk on disk: 8-bit grey PNGs in a plain tar, read one image at a time; and what is kept of them.

Image n of the chunk has the members `%06d.labels.png`, positions in the teacher's classes with 255 for none, and
`%06d.confidence.png`, 255 times the probability of that class, rounded. Nothing is thresholded, so that another
threshold needs no teacher.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from builder.errors import BuildError
from builder.store.sums import check_sum
from teachers.base import VOID, SemanticMap

MAPS = "maps.tar"
MEND = "run `tutelage fsck --repair`, or remove its folder and label again"
"""What is to be done about a damaged chunk."""
LEVELS = 256
"""Confidences that a map can say."""
MEMBERS = ("labels", "confidence")


@dataclass(frozen=True)
class PackedMap:
    """A semantic map as it is stored, a hundredth of its size in memory.

    labels, confidence: PNG files. size: width, height. label int16, level uint8, pixels int32, (R,) each: how often
    which confidence occurs of which class; pixels without a class are in none.
    """

    labels: bytes
    confidence: bytes
    size: tuple[int, int]
    label: np.ndarray
    level: np.ndarray
    pixels: np.ndarray


def pack(prediction: SemanticMap) -> PackedMap:
    """The map as PNGs, and its levels in order of class and confidence."""
    cell = prediction.labels.astype(np.int32) * LEVELS + prediction.confidence
    counts = np.bincount(cell.ravel(), minlength=(VOID + 1) * LEVELS)[: VOID * LEVELS]
    rows = np.flatnonzero(counts)
    height, width = prediction.labels.shape
    return PackedMap(
        png(prediction.labels),
        png(prediction.confidence),
        (width, height),
        (rows // LEVELS).astype(np.int16),
        (rows % LEVELS).astype(np.uint8),
        counts[rows].astype(np.int32),
    )


def score(level: np.ndarray) -> np.ndarray:
    """The score that a confidence of 0 to 255 stands for; float32."""
    return (level / np.float32(LEVELS - 1)).astype(np.float32)


def level(score: np.ndarray) -> np.ndarray:
    """The confidence, uint8, that a score of `score` came from."""
    return np.rint(score * (LEVELS - 1)).astype(np.uint8)


def png(plane: np.ndarray) -> bytes:
    """uint8 (H, W) as an 8-bit grey PNG, the same bytes whenever the pixels are the same."""
    out = io.BytesIO()
    Image.fromarray(plane).save(out, "PNG", compress_level=6)
    return out.getvalue()


def write_maps(folder: Path, maps: Mapping[int, PackedMap]) -> None:
    """Put the maps of a chunk, by position of their images, in `folder`."""
    with tarfile.open(folder / MAPS, "w", format=tarfile.USTAR_FORMAT) as tar:
        for position, packed in sorted(maps.items()):
            for name, data in zip(MEMBERS, (packed.labels, packed.confidence), strict=True):
                info = tarfile.TarInfo(f"{position:06d}.{name}.png")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


class MapReader:
    """The maps of one chunk, by position of the image; the file is open as long as the reader is in use."""

    def __init__(self, tar: tarfile.TarFile, path: Path) -> None:
        self._tar, self._path = tar, path
        self._members = {member.name: member for member in tar}  # tarfile itself looks through all of them for a name

    def __getitem__(self, position: int) -> SemanticMap:
        """Raises BuildError if it is missing or damaged."""
        planes = []
        for name in MEMBERS:
            try:
                member = self._tar.extractfile(self._members[f"{position:06d}.{name}.png"])
                with Image.open(member) as image:  # type: ignore[arg-type]  # a link, which none of these is, has none
                    planes.append(np.array(image))
            except (OSError, KeyError, ValueError, SyntaxError, AttributeError, tarfile.TarError) as error:
                raise _damaged(self._path, error) from None
        return SemanticMap(planes[0], planes[1])


@contextmanager
def read_maps(folder: Path) -> Iterator[MapReader]:
    """A reader of the maps that `write_maps` put in `folder`. Raises BuildError if they are missing or damaged."""
    path = folder / MAPS
    try:
        check_sum(path, MEND)
        tar = tarfile.open(path, "r:")  # noqa: SIM115 - closed below, after what the caller does with it
    except (OSError, tarfile.TarError) as error:
        raise _damaged(path, error) from None
    with tar:
        try:
            maps = MapReader(tar, path)
        except (OSError, tarfile.TarError) as error:
            raise _damaged(path, error) from None
        yield maps


def kept_map(prediction: SemanticMap, label: np.ndarray, confidence: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """What is taught of an image's pixels: uint8 (H, W), positions in the version's classes and 255 where nothing is.

    label int16, confidence uint8, (K,) each: the teacher's class and the level of what rules kept of it; ours int16
    (K,): the version's class for it. Everything else is 255, be it below its threshold, refused or set aside.
    """
    table = np.full((VOID + 1) * LEVELS, VOID, np.uint8)
    table[label.astype(np.int32) * LEVELS + confidence] = ours
    taught: np.ndarray = table[prediction.labels.astype(np.int32) * LEVELS + prediction.confidence]
    return taught


def _damaged(path: Path, error: Exception) -> BuildError:
    reason = str(error).partition("\n")[0] or type(error).__name__
    return BuildError(f"maps {path} cannot be read ({reason}): {MEND}")
