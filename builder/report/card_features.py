"""`dataset_info.features` of a dataset card, so that `datasets` infers nothing from the first samples.

It would: empty lists in the first five break it, keys and floats it first sees later are lost.
"""

from __future__ import annotations

from builder.kinds import kind_of
from builder.report.kinds import Feature, report_kind
from builder.store.manifest import Manifest


def features(manifest: Manifest) -> list[Feature]:
    """The image, the label JSON, what the kind has beside it, and what `datasets` adds. With a calibration there is
    `calibrated` after `score`."""
    names: Feature = {"class_label": {"names": {str(n): name for n, name in enumerate(manifest.classes)}}}
    calibrated = manifest.provenance.calibration is not None
    scalars = [("key", "string"), ("name", "string"), ("sha256", "string"), ("width", "int32"), ("height", "int32")]
    fields: list[Feature] = [{"name": n, "dtype": d} for n, d in (*scalars, ("reencoded", "string"))]
    more, member = report_kind(manifest.kind).features(names, len(manifest.classes), calibrated)
    members = [{"name": kind_of(manifest.kind).member, **member}] if member else []
    ends = [{"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]
    image = {"name": manifest.features[0], "dtype": "image"}
    return [image, {"name": "json", "struct": [*fields, *more]}, *members, *ends]
