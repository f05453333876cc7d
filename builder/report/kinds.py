"""What each kind of label looks like in card, report and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from markupsafe import Markup
from PIL import Image

from builder.kinds import kind_of
from builder.label.predictions import MANY
from builder.report.borderline import whole
from builder.report.colours import OUTCOMES
from builder.report.figures import borderline_section, maps_section
from builder.report.paint import draw_boxes, map_legend, outline_masks, painted, resized
from builder.store.manifest import Manifest
from builder.store.version import Version
from builder.words import percent

Feature = dict[str, Any]
"""Of a card's `dataset_info.features`."""
Row = Mapping[str, Any]
"""One row of labels.parquet."""


@dataclass(frozen=True)
class Seen:
    """An image of a version, its label JSON, and the rows of labels.parquet on it. classes: of the version. content: of
    the kind's member (LabelKind.member)."""

    picture: Image.Image
    label: dict[str, Any]
    rows: Sequence[Row]
    classes: Sequence[str]
    content: bytes


@dataclass(frozen=True)
class ReportKind:
    """features: (feature of a class name, number of classes, whether scores are calibrated) -> of the fields that the
    kind adds to the label JSON, and of its member, None without one.
    caption: a few words below a small picture. draw: (image, scale, most dropped boxes or None for all, whether a map
    goes below the image, else beside it) -> the image with its labels. legend: names and colours of what `draw` shows.
    examples: (version) -> the report's section of pictures, in HTML.
    """

    features: Callable[[Feature, int, bool], tuple[list[Feature], Feature | None]]
    caption: Callable[[Seen], str]
    draw: Callable[[Seen, float, int | None, bool], Image.Image]
    legend: Callable[[Manifest], list[tuple[str, str]]]
    examples: Callable[[Version], Iterator[Markup]]


def report_kind(name: str) -> ReportKind:
    """How labels of this kind look. Raises BuildError for one that this Tutelage does not know."""
    match kind_of(name).name:
        case "detection":
            return BOXES
        case "instance":
            return MASKS
        case "semantic":
            return MAPS
        case "classification":
            return CLASSES


def _object_features(names: Feature, classes: int, calibrated: bool, *, masks: bool) -> tuple[list[Feature], None]:
    columns: list[Feature] = [
        {"name": "bbox", "list": {"list": "float32"}},
        {"name": "category", "list": names},
        {"name": "score", "list": "float32"},
        *([{"name": "calibrated", "list": "float32"}] if calibrated else []),
        {"name": "ignore", "list": "bool"},
        {"name": "area", "list": "float32"},
        {"name": "source", "list": "string"},
        *([{"name": "segmentation", "list": "string"}] if masks else []),
    ]
    return [{"name": "objects", "struct": columns}], None


def _map_features(names: Feature, classes: int, calibrated: bool) -> tuple[list[Feature], Feature]:
    counts = [{"name": name, "list": "int32"} for name in OUTCOMES]
    return [{"name": "pixels", "struct": [{"name": "category", "list": names}, *counts]}], {"dtype": "image"}


def _class_features(names: Feature, classes: int, calibrated: bool) -> tuple[list[Feature], Feature]:
    soft: list[Feature] = [{"name": "probabilities", "list": "float32"}]
    if classes > MANY:
        soft = [{"name": "top_label", "list": names}, {"name": "top_probability", "list": "float32"}]
    fields: list[Feature] = [
        {"name": "copy", "dtype": "int32"},
        {"name": "label", "dtype": names},
        {"name": "score", "dtype": "float32"},
        *([{"name": "calibrated", "dtype": "float32"}] if calibrated else []),
        {"name": "source", "dtype": "string"},
        *soft,
    ]
    return fields, {"dtype": names}


def _object_caption(seen: Seen) -> str:
    counts = {outcome: sum(row["outcome"] == outcome for row in seen.rows) for outcome in OUTCOMES}
    return " · ".join(f"{n} {outcome}" for outcome, n in counts.items())


def _map_caption(seen: Seen) -> str:
    pixels = max(1, seen.picture.width * seen.picture.height)
    return f"{percent(sum(seen.label['pixels']['kept']) / pixels)} of the pixels kept"


def _class_caption(seen: Seen) -> str:
    return f"{seen.classes[seen.label['label']]} {seen.label['score']:.2f}"


def _draw_boxes(seen: Seen, scale: float, dropped: int | None, below: bool) -> Image.Image:
    shown = resized(seen.picture, scale)
    draw_boxes(shown, seen.rows, scale, seen.classes, dropped)
    return shown


def _draw_masks(seen: Seen, scale: float, dropped: int | None, below: bool) -> Image.Image:
    shown = resized(seen.picture, scale)
    rows = [row for row in seen.rows if row["outcome"] != "dropped"]
    outline_masks(shown, [row["rle"] for row in rows], seen.picture.size, [OUTCOMES[row["outcome"]] for row in rows])
    draw_boxes(shown, seen.rows, scale, seen.classes, dropped)
    return shown


def _draw_map(seen: Seen, scale: float, dropped: int | None, below: bool) -> Image.Image:
    shown = resized(seen.picture, scale)
    width, height = shown.size
    both = Image.new("RGB", (width, 2 * height + 2) if below else (2 * width + 4, height), "white")
    both.paste(shown, (0, 0))
    both.paste(painted(shown, seen.content), (0, height + 2) if below else (width + 4, 0))
    return both


def _draw_class(seen: Seen, scale: float, dropped: int | None, below: bool) -> Image.Image:
    return resized(seen.picture, scale)


def _no_legend(manifest: Manifest) -> list[tuple[str, str]]:
    """Of outcomes alone, whose legend every sheet has."""
    return []


BOXES = ReportKind(
    features=partial(_object_features, masks=False),
    caption=_object_caption,
    draw=_draw_boxes,
    legend=_no_legend,
    examples=borderline_section,
)
MASKS = ReportKind(
    features=partial(_object_features, masks=True),
    caption=_object_caption,
    draw=_draw_masks,
    legend=_no_legend,
    examples=borderline_section,
)
MAPS = ReportKind(
    features=_map_features,
    caption=_map_caption,
    draw=_draw_map,
    legend=map_legend,
    examples=maps_section,
)
CLASSES = ReportKind(
    features=_class_features,
    caption=_class_caption,
    draw=_draw_class,
    legend=_no_legend,
    examples=partial(borderline_section, tile=whole),
)
