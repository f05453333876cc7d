"""Human labels that are exported together with a version: one list of classes, and no image twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import PurePosixPath

import numpy as np

from builder.errors import BuildError
from builder.export.items import Item
from builder.export.yolo import below_images
from builder.kinds import LabelKind
from builder.rules.class_names import compare_names
from builder.truth.read import read_truth
from builder.truth.records import LabelledImage, Truth, check_detection
from teachers.images import ImageError, read_header

LABELLED, VAL = "labelled", "val"


@dataclass(frozen=True)
class HumanLabels:
    """Human labels to train and to measure on, beside a version's.

    classes: theirs in their order, then those of the version that they do not have. seen: SHA-256 of their images that
    were passed on so far; learned: of those to train on.
    """

    train: Truth
    val: Truth
    classes: tuple[str, ...]
    seen: set[str] = field(default_factory=set)
    learned: set[str] = field(default_factory=set)

    def items(self, part: str, counts: Counter[str]) -> Iterator[Item]:
        """The images of `labelled`, then those of `val`. Objects that count neither way (crowds, difficult ones) are
        ignored regions."""
        truth = self.train if part == LABELLED else self.val
        place = [self.classes.index(name) for name in truth.classes]
        for image in truth.images:
            try:
                data = image.path.read_bytes()
                header = read_header(data)
            except (OSError, ImageError) as error:
                why = f"labelled image {image.path} cannot be used: {error}"
                raise BuildError(f"{why}: replace it, or take it out") from None
            if (header.width, header.height) != (image.width, image.height):
                raise BuildError(
                    f"labelled image {image.path} is {header.width}x{header.height} upright, but its labels were made "
                    f"for {image.width}x{image.height}: correct the labels (an EXIF rotation moves boxes)"
                )
            digest = sha256(data).hexdigest()
            if part == LABELLED:
                self.learned.add(digest)
            else:
                counts["both"] += digest in self.learned
            self.seen.add(digest)
            counts[part] += 1
            yield _item(image, data, header.format, digest, place)

    def others(self, items: Iterable[Item], classes: Sequence[str], counts: Counter[str]) -> Iterator[Item]:
        """The items of a version with these classes that are no image of the human labels, which were passed on before,
        with labels in the classes of both."""
        place = [self.classes.index(name) for name in classes]
        for item in items:
            if item.label["sha256"] in self.seen:
                counts["images"] -= 1
                counts["twins"] += 1
                continue
            yield replace(item, category=[c if c < 0 else place[c] for c in item.category])


def read_human(
    labels: str, val: str | None, classes: Sequence[str], kind: LabelKind, note: Callable[[str], None]
) -> HumanLabels:
    """Labels of any format of boxes, or of masks for a version of them; their own `val` where they name one, else that
    given. note: is told of classes that only one side has.

    Raises BuildError without any val, and as reading labels does.
    """
    train = read_truth(labels, outlines=kind.outlines, split="train")
    if val is None and train.split is None:
        raise BuildError(f"{labels} name no images to measure on (val): give labels of such images, too (--val LABELS)")
    measured = read_truth(val or labels, outlines=kind.outlines, split="val")
    for truth, source in ((train, labels), (measured, val or labels)):
        check_detection(truth, source)
    names = [*train.classes, *(name for name in measured.classes if name not in train.classes)]
    told = compare_names(classes, names).sentence(
        "the version's",
        f"in no label of {labels}",
        f"labels of {labels} that no pseudo-label has",
        "map them with keep.classes.map, else they become classes of their own",
    )
    if told:
        note(told)
    names += [name for name in classes if name not in names]
    return HumanLabels(train, measured, tuple(names))


def _item(image: LabelledImage, data: bytes, format: str, digest: str, place: Sequence[int]) -> Item:
    xywh = image.boxes.astype(np.float64)
    xywh = np.clip(xywh, 0, [image.width, image.height, image.width, image.height])
    xywh[:, 2:] -= xywh[:, :2]
    label = {"key": digest[:12], "name": image.name, "sha256": digest, "width": image.width, "height": image.height}
    return Item(
        below_images(PurePosixPath(image.name)),
        format,
        data,
        label,
        xywh,
        [place[category] for category in image.labels.tolist()],
        [1.0] * len(xywh),
        (image.crowd | image.difficult).tolist(),
        ["human"] * len(xywh),
        None if image.masks is None else [code.decode() for code in image.masks],
        b"",
    )
