"""How a recipe names a set of human labels."""

from __future__ import annotations

from builder.sections import Section
from builder.truth.records import Format


class LabelOptions(Section):
    """A set of human labels: the `truth`, `test` or `labelled` section of a recipe, or just its `source`.

    Args:
        source: the labels, of any format that builder.truth.read.read_truth reads.
        images: the folder of the image files, where it is not the one that the format has them in.
        format: one of `coco`, `voc`, `yolo`, `classes` and `masks`; None to recognise it.
        group: which images belong together, `folder` or a regular expression whose first group names the unit (a video
            sequence, a patient, a site).
    """

    source: str
    images: str | None = None
    format: Format | None = None
    group: str | None = None
