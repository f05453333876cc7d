"""What FiftyOne shows of each kind of label: its fields, and how they are held against human labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.browse.documents import (
    AGREEMENT,
    FIGURES,
    NUMBERS,
    REASONS,
    STRINGS,
    TRUTH_FIELD,
    Document,
    Names,
    class_fields,
    class_mark,
    map_fields,
    map_mark,
    object_fields,
    object_marks,
)
from builder.browse.pictures import Media, Picture
from builder.browse.truth import Mark
from builder.browse.views import EVALUATION
from builder.kinds import kind_of

LISTS = {"Detections": "detections", "Classifications": "classifications"}
"""FiftyOne's types that hold a list, and its name in them."""


@dataclass(frozen=True)
class ShownKind:
    """fields: of a version's labels: FiftyOne's type, and what they hold; the first is edited. truth: the type of human
    labels. labels: of an image, by field. mark: human labels of an image."""

    fields: Mapping[str, tuple[str, str]]
    truth: str
    labels: Callable[[Picture], Document]
    mark: Callable[[Mark, Media], Document | None]


_OBJECTS = ShownKind(
    {
        "pseudo": (
            "Detections",
            "Objects that are labels of the version. Tag them accept or reject, change, delete or draw them.",
        ),
        "ignored": (
            "Detections",
            "Objects that are ignore regions of the version: neither objects nor background to a student.",
        ),
        "teacher": ("Detections", "Every raw prediction of the teacher, with what became of it and why."),
    },
    "Detections",
    object_fields,
    object_marks,
)
_CLASSES = ShownKind(
    {
        "pseudo": (
            "Classification",
            "Its class in the version. Tag it accept or reject, change or delete it; draw one to take an image in.",
        ),
        "ignored": (
            "Classification",
            "A class that is nearly sure, for which the image was left out. Tag it accept to take it in.",
        ),
        "teacher": ("Classifications", "The likeliest classes; the first says what became of it and why."),
    },
    "Classification",
    class_fields,
    class_mark,
)
_MAPS = ShownKind(
    {
        "pseudo": ("Segmentation", "The version's map of classes; void is not drawn."),
        "teacher": ("Segmentation", "The teacher's own map, whatever its confidence."),
        "confidence": ("Heatmap", "The probability of the teacher's class, 255 for 1."),
    },
    "Segmentation",
    map_fields,
    map_mark,
)


def shown_kind(name: str) -> ShownKind:
    """How a kind of label is shown. Raises BuildError for one that this Tutelage does not know."""
    match kind_of(name).name:
        case "classification":
            return _CLASSES
        case "semantic":
            return _MAPS
        case "detection" | "instance":
            return _OBJECTS


def declare(fo: Any, dataset: Any, kind: ShownKind, names: Names) -> None:
    """The fields that every version has, even where no image has a value."""
    schema = dataset.get_field_schema()

    def add(field: str, type: Any, what: str, **more: Any) -> None:
        dataset.add_sample_field(field, type, description=what, **more)

    def add_labels(field: str, type: str, what: str) -> None:
        add(field, fo.EmbeddedDocumentField, what, embedded_doc_type=getattr(fo, type))

    if "key" not in schema:
        for field, what in (
            ("key", "Its name in shards."),
            ("name", "Its path in the source."),
            ("sha256", "Of its original bytes."),
        ):
            add(field, fo.StringField, what)
        add_labels(TRUTH_FIELD, kind.truth, "Human labels, of the tune half alone.")
        if kind.truth == "Detections":
            add(f"{TRUTH_FIELD}.detections.iscrowd", fo.BooleanField, "Counts neither as found nor as missed.")
    for field, what in STRINGS.items():
        add(names(field), fo.StringField, what)
    for field, what in FIGURES.items():
        add(names(field), fo.FloatField, what)
    add(names(REASONS[0]), fo.ListField, REASONS[1], subfield=fo.StringField)
    for field, (type, what) in kind.fields.items():
        add_labels(names(field), type, what)
    for path in _attributed(kind, names):
        for attribute in ("outcome", "reason", "tutelage_id"):
            dataset.add_sample_field(f"{path}.{attribute}", fo.StringField)


def declare_more(fo: Any, dataset: Any, kind: ShownKind, names: Names, optional: set[str]) -> None:
    """What only some versions say of their objects."""
    for path in _attributed(kind, names):
        for attribute in sorted(optional - {"rle", "pixels"}):
            type = fo.FloatField if attribute in NUMBERS else fo.StringField
            dataset.add_sample_field(f"{path}.{attribute}", type)
    if "agree" in optional:
        dataset.add_sample_field(names(AGREEMENT[0]), fo.FloatField, description=AGREEMENT[1])


def _attributed(kind: ShownKind, names: Names) -> list[str]:
    """Where single labels lie that have attributes."""
    if kind is _MAPS:
        return []
    return [f"{names(f)}.{LISTS[type]}" if type in LISTS else names(f) for f, (type, _) in kind.fields.items()]


def name_pixels(dataset: Any, names: Names, classes: Sequence[str], theirs: Sequence[str]) -> None:
    """Say which pixel of a map stands for which class, of the version and of its teacher (see builder.browse.maps)."""
    ours = dict(enumerate(classes, 1))
    targets = dict(dataset.mask_targets)
    targets |= {TRUTH_FIELD: ours, names("pseudo"): ours, names("teacher"): dict(enumerate(theirs, 1))}
    dataset.mask_targets = targets
    dataset.save()


def evaluate(dataset: Any, kind: ShownKind, names: Names, classes: Sequence[str], *, masks: bool) -> None:
    """Hold what is kept on labelled images against the human labels. masks: of objects, not their boxes."""
    labelled = dataset.match_tags("truth")
    pseudo, key = names("pseudo"), names(EVALUATION)
    if kind is _OBJECTS:
        labelled.evaluate_detections(
            pseudo, gt_field=TRUTH_FIELD, eval_key=key, iscrowd="iscrowd", use_masks=masks, progress=False
        )
        return
    both = labelled.exists(pseudo).exists(TRUTH_FIELD)
    if not len(both):
        return
    if kind is _MAPS:
        targets = dict(enumerate(classes, 1))
        both.evaluate_segmentations(pseudo, gt_field=TRUTH_FIELD, eval_key=key, mask_targets=targets, progress=False)
    else:
        both.evaluate_classifications(pseudo, gt_field=TRUTH_FIELD, eval_key=key, progress=False)
