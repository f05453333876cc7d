"""`dataset_info.features` of a dataset card, so that `datasets` infers nothing from the first samples.

It would: empty lists in the first five break it, keys and floats it first sees later are lost.
"""

from __future__ import annotations

from typing import Any

from builder.kinds import kind_of
from builder.label.predictions import MANY
from builder.store.manifest import Manifest

Feature = dict[str, Any]


def features(manifest: Manifest) -> list[Feature]:
    """The image, the label JSON, what the kind has beside it, and what `datasets` adds. With a calibration there is
    `calibrated` after `score`."""
    kind = kind_of(manifest.kind)
    names: Feature = {"class_label": {"names": {str(n): name for n, name in enumerate(manifest.classes)}}}
    calibrated = manifest.provenance.calibration is not None
    scalars = [("key", "string"), ("name", "string"), ("sha256", "string"), ("width", "int32"), ("height", "int32")]
    fields: list[Feature] = [{"name": n, "dtype": d} for n, d in (*scalars, ("reencoded", "string"))]
    members: list[Feature] = []
    match kind.name:
        case "semantic":
            counts = [{"name": name, "list": "int32"} for name in ("kept", "ignored", "dropped")]
            fields.append({"name": "pixels", "struct": [{"name": "category", "list": names}, *counts]})
            members = [{"name": kind.member, "dtype": "image"}]
        case "classification":
            fields += _class_fields(manifest, names, calibrated)
            members = [{"name": kind.member, "dtype": names}]
        case name:
            fields.append({"name": "objects", "struct": _object_fields(names, calibrated, masks=name == "instance")})
    ends = [{"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]
    image = {"name": manifest.features[0], "dtype": "image"}
    return [image, {"name": "json", "struct": fields}, *members, *ends]


def _object_fields(names: Feature, calibrated: bool, masks: bool) -> list[Feature]:
    return [
        {"name": "bbox", "list": {"list": "float32"}},
        {"name": "category", "list": names},
        {"name": "score", "list": "float32"},
        *([{"name": "calibrated", "list": "float32"}] if calibrated else []),
        {"name": "ignore", "list": "bool"},
        {"name": "area", "list": "float32"},
        {"name": "source", "list": "string"},
        *([{"name": "segmentation", "list": "string"}] if masks else []),
    ]


def _class_fields(manifest: Manifest, names: Feature, calibrated: bool) -> list[Feature]:
    soft: list[Feature] = [{"name": "probabilities", "list": "float32"}]
    if len(manifest.classes) > MANY:
        soft = [{"name": "top_label", "list": names}, {"name": "top_probability", "list": "float32"}]
    return [
        {"name": "copy", "dtype": "int32"},
        {"name": "label", "dtype": names},
        {"name": "score", "dtype": "float32"},
        *([{"name": "calibrated", "dtype": "float32"}] if calibrated else []),
        {"name": "source", "dtype": "string"},
        *soft,
    ]
