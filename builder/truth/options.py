"""How a recipe names a set of human labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator

from builder.sections import Section
from builder.truth.records import CountedFrom, Format, Split

Part = Literal["truth", "test", "labelled"]
"""What human labels are for."""
USUAL: Mapping[Part, Split] = {"truth": "val", "test": "test", "labelled": "train"}
"""Which split of a data set that names several is meant by each."""


class LabelOptions(Section):
    """A set of human labels: the `truth`, `test` or `labelled` section of a recipe, or just its `source`.

    Args:
        source: the labels, of any format that builder.truth.read.read_truth reads.
        images: the folder of the image files, where it is not the one that the format has them in.
        format: one of `coco`, `voc`, `yolo`, `classes` and `masks`; None to recognise it.
        group: which images belong together, `folder` or a regular expression whose first group names the unit (a video
            sequence, a patient, a site).
        split: the part that is meant of a data set that names its parts (a data.yaml), where it is not the usual one:
            `val` for truth, `train` for labelled, `test` for test; as `source: data.yaml#train` does.
        counted_from: what the corners of VOC boxes call the first pixel, where they do not show it.
        independent: of truth that is the `val` (or `train`) split of a data set: nothing of the teacher, not even its
            best checkpoint, was chosen on it, so that it may certify.
    """

    source: str
    images: str | None = None
    format: Format | None = None
    group: str | None = None
    split: Split | None = None
    counted_from: CountedFrom | None = None
    independent: bool = False


class TruthOptions(LabelOptions):
    """The `truth` section: held-out labels, of which one half is looked at, and the other certifies.

    Args:
        certify: freshly labelled images that alone certify, in place of half of these, all of which may then be looked
            at; units as `group` says here, unless it says so itself.
    """

    certify: LabelOptions | None = None

    @field_validator("certify", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @property
    def certifying(self) -> LabelOptions | None:
        """`certify`, with the units of these labels where it names none."""
        if self.certify is None or self.certify.group is not None:
            return self.certify
        return self.certify.model_copy(update={"group": self.group})
