"""What FiftyOne shows of each kind of label: its fields, and how they are held against human labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
    map_fields,
    object_fields,
)
from builder.browse.edits import class_edits, edits_of
from builder.browse.marks import class_mark, map_mark, object_marks
from builder.browse.pictures import Media, Picture
from builder.browse.views import (
    EVALUATION,
    View,
    borderline_classes,
    borderline_maps,
    borderline_objects,
    wrong_classes,
    wrong_objects,
    wrong_pixels,
)
from builder.evidence.claims import claims
from builder.kinds import kind_of
from builder.review.objects import Edited, Shown
from builder.store.manifest import Manifest
from builder.truth.records import LabelledImage, Truth

LISTS = {"Detections": "detections", "Classifications": "classifications"}
"""FiftyOne's types that hold a list, and its name in them."""


@dataclass(frozen=True)
class ShownKind:
    """fields: of a version's labels: FiftyOne's type, and what they hold; the first is edited. truth: the type of human
    labels. labels: of an image, by field. mark: (labelled image, its labels, the version's classes, the image) -> its
    human labels. borderline: the view of what hangs on thresholds. errors: (labelled images, names) -> views of where
    version and human labels disagree. evaluate: (labelled images, field of the version, key, classes): hold what is
    kept against the human labels. edits: what people did to one image (builder.browse.edits.edits_of).
    """

    fields: Mapping[str, tuple[str, str]]
    truth: str
    labels: Callable[[Picture], Document]
    mark: Callable[[LabelledImage, Truth, Sequence[str], Media], Document | None]
    borderline: Callable[[Any, Names], tuple[Any, str]]
    errors: Callable[[Any, Names], list[View]]
    evaluate: Callable[[Any, str, str, Sequence[str]], None]
    edits: Callable[[Mapping[str, Any], Names, Mapping[str, Shown], str], list[Edited]]


def shown_kind(name: str) -> ShownKind:
    """How a kind of label is shown. Raises BuildError for one that this Tutelage does not know."""
    match kind_of(name).name:
        case "detection":
            return BOXES
        case "instance":
            return MASKS
        case "semantic":
            return MAPS
        case "classification":
            return CLASSES


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
    """Where single labels lie that have attributes: maps have none."""
    types = {names(field): type for field, (type, _) in kind.fields.items() if type in (*LISTS, "Classification")}
    return [f"{path}.{LISTS[type]}" if type in LISTS else path for path, type in types.items()]


def below_target(dataset: Any, kind: ShownKind, names: Names, manifest: Manifest) -> list[View]:
    """A view of the kept labels of classes that look worse than was asked for (builder.evidence.claims), if any does
    and labels can be told apart by class."""
    flagged = claims(manifest).flagged
    if not flagged or not (paths := _attributed(kind, names)):
        return []
    view = dataset.match({f"{paths[0]}.label": {"$in": [claim.name for claim in flagged]}})
    listed = ", ".join(claim.name for claim in flagged)
    return [("below target", view, f"Images with labels of classes below {flagged[0].target:g} on tune: {listed}.")]


def name_pixels(dataset: Any, names: Names, classes: Sequence[str], theirs: Sequence[str]) -> None:
    """Say which pixel of a map stands for which class, of the version and of its teacher (see builder.browse.maps)."""
    ours = dict(enumerate(classes, 1))
    targets = dict(dataset.mask_targets)
    targets |= {TRUTH_FIELD: ours, names("pseudo"): ours, names("teacher"): dict(enumerate(theirs, 1))}
    dataset.mask_targets = targets
    dataset.save()


def _evaluate_objects(labelled: Any, pseudo: str, key: str, classes: Sequence[str], *, masks: bool) -> None:
    labelled.evaluate_detections(
        pseudo, gt_field=TRUTH_FIELD, eval_key=key, iscrowd="iscrowd", use_masks=masks, progress=False
    )


def _evaluate_classes(labelled: Any, pseudo: str, key: str, classes: Sequence[str]) -> None:
    both = labelled.exists(pseudo).exists(TRUTH_FIELD)
    if len(both):
        both.evaluate_classifications(pseudo, gt_field=TRUTH_FIELD, eval_key=key, progress=False)


def _evaluate_maps(labelled: Any, pseudo: str, key: str, classes: Sequence[str]) -> None:
    both = labelled.exists(pseudo).exists(TRUTH_FIELD)
    if len(both):
        targets = dict(enumerate(classes, 1))
        both.evaluate_segmentations(pseudo, gt_field=TRUTH_FIELD, eval_key=key, mask_targets=targets, progress=False)


def evaluate(dataset: Any, kind: ShownKind, names: Names, classes: Sequence[str]) -> None:
    """Hold what is kept on labelled images against the human labels, where there are some."""
    labelled = dataset.match_tags("truth")
    if len(labelled):
        kind.evaluate(labelled, names("pseudo"), names(EVALUATION), classes)


BOXES = ShownKind(
    fields={
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
    truth="Detections",
    labels=object_fields,
    mark=object_marks,
    borderline=borderline_objects,
    errors=wrong_objects,
    evaluate=partial(_evaluate_objects, masks=False),
    edits=edits_of,
)
MASKS = replace(BOXES, evaluate=partial(_evaluate_objects, masks=True))
CLASSES = ShownKind(
    fields={
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
    truth="Classification",
    labels=class_fields,
    mark=class_mark,
    borderline=borderline_classes,
    errors=wrong_classes,
    evaluate=_evaluate_classes,
    edits=class_edits,
)
MAPS = ShownKind(
    fields={
        "pseudo": ("Segmentation", "The version's map of classes; void is not drawn."),
        "teacher": ("Segmentation", "The teacher's own map, whatever its confidence."),
        "confidence": ("Heatmap", "The probability of the teacher's class, 255 for 1."),
    },
    truth="Segmentation",
    labels=map_fields,
    mark=map_mark,
    borderline=borderline_maps,
    errors=wrong_pixels,
    evaluate=_evaluate_maps,
    edits=edits_of,
)
