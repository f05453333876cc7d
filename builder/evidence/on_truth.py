"""A teacher's predictions of images that people labelled: whether they may be used, and how they come about."""

from __future__ import annotations

from collections.abc import Mapping

from builder.engine import Track, silent
from builder.errors import BuildError
from builder.evidence.holdout import Labels
from builder.evidence.matching import shared_classes
from builder.label.labeller import Labeller
from builder.label.labelling import label_pool, unlabelled
from builder.label.meta import read_meta
from builder.rules.keep import Keep, version_classes
from builder.store.store import Store
from builder.truth.options import LabelOptions, TruthOptions
from teachers.base import fingerprint
from teachers.errors import warn

SPLITS = {
    "val": "on which the best checkpoint is often chosen, so that what it says of the teacher may be too good",
    "train": "from which a teacher has usually learned, so that what it says of the teacher is too good",
}
"""Splits of a data set -> why they are no evidence of new images."""


def check_independent(labels: Labels, options: LabelOptions, certifies: bool) -> None:
    """Warn of labels that are the `val` or `train` split of a data set, unless they are said to be independent.
    options: that they were loaded with. Raises BuildError if they are to certify."""
    certifying = options.certifying if isinstance(options, TruthOptions) else None
    if labels.certify and certifying:
        check_independent(labels.certify, certifying, certifies)
        certifies = False
    check_split(labels.truth.split, labels.source, options, certifies)


def check_split(split: str | None, source: str, options: LabelOptions, certifies: bool) -> None:
    """`check_independent` of labels by the name of their split, None where they are none."""
    reason = SPLITS.get(split or "")
    if reason is None or options.independent:
        return
    mend = f"set truth.independent: true if nothing of this teacher was learned from or chosen on {source}"
    if certifies:
        raise BuildError(
            f"truth {source} is the {split} split, {reason}: keep.precision would certify nothing: give labels that "
            f"the teacher has not seen (new images, or the test split), or {mend}"
        )
    warn(f"truth {source} is the {split} split, {reason}: {mend}")


def check_unseen(labels: Labels, labeller: Labeller) -> None:
    """Raise BuildError if the teacher's record says that it was trained on images of the labels: its scores on them say
    nothing of new images."""
    trained_on = labeller.trained_on
    seen = [image.name for image in labels.pool.images() if image.sha256 in trained_on] if trained_on else []
    if seen:
        raise BuildError(
            f"the teacher was trained on {len(seen)} of the {len(labels.pool)} images of {labels.source} ({seen[0]} "
            "first), so that its scores on them mislead: take them out of the labels"
        )


def label_truth(
    labels: Labels,
    store: Store,
    *,
    predictions: str,
    keep: Keep | None = None,
    labeller: Labeller | None = None,
    spec: str = "",
    license: str = "unknown",
    track: Track = silent,
) -> None:
    """See that the labels' images are labelled by the teacher of `predictions` (a full fingerprint): by `labeller`
    where one is given. What was labelled before is not again. keep: its class map makes the classes to be shared.

    Raises BuildError if the labels are of another kind than the teacher's, or share no class with it, the labeller is
    another teacher, or there is none and images are not labelled.
    """
    made = labeller.description if labeller else read_meta(store.predictions / predictions)["description"]
    shared_classes(version_classes(keep or Keep.default(), made), labels.truth, made["kind"])
    pool, folder = labels.pool, store.predictions / predictions
    if labeller and fingerprint(labeller.description) != predictions:
        raise BuildError(
            f"teacher {spec} is not the one that made predictions {predictions[:12]}: "
            f"{_difference(read_meta(folder)['description'], labeller.description)}"
        )
    if labeller:
        done = label_pool(pool, labeller, store, spec=spec, license=license, track=track)
        if done.failed:
            warn(
                f"{done.failed} of {done.images} images of {labels.source} have no predictions, so that only the "
                f"others are measured ({done.failures[0]}): mend them, or take them out of the labels"
            )
    elif missing := unlabelled(pool, folder):
        again = f"with the teacher {read_meta(folder)['spec']} and the options it was made with"
        if made.get("family") == "ensemble":
            again = "on the RECIPE.yaml of that ensemble"
        raise BuildError(
            f"{missing} of the {len(pool)} images of {labels.source} are not labelled by {predictions[:12]}: run the "
            f"same command {again}"
        )


def _difference(made: Mapping[str, object], given: Mapping[str, object]) -> str:
    """The first key, in order, in which two teachers' descriptions differ, and what to do about it."""
    for name in sorted({*made, *given}):
        before, now = str(made.get(name)), str(given.get(name))
        if before != now:
            values = f"{before}, not {now}" if max(len(before), len(now)) < 40 else "another one"
            return f"its {name} is {values}: give that teacher's own options"
    return "give that teacher's own options"
