"""How a recipe names a set of human labels."""

from __future__ import annotations

from builder.sections import Section
from builder.truth.records import Format


class LabelOptions(Section):
    """The `truth`, `test` or `labelled` section, or just its `source`. images: where the files of a COCO JSON lie.
    format: see builder.truth.read.read_truth, recognised if not given. group: which images belong together, `folder` or
    a regular expression whose first group names the unit (a video sequence, a patient, a site)."""

    source: str
    images: str | None = None
    format: Format | None = None
    group: str | None = None
