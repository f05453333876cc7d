"""The saved views of a browsed version: what is worth looking at, one click away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builder.browse.documents import Names

NEAR = 0.1
"""Of score: an image is borderline if one of its objects is so close to its threshold."""
EVALUATION = "eval"

Dataset = Any
"""fiftyone.Dataset, which only builder.browse.app imports."""


View = tuple[str, Any, str]
"""Its name, what FiftyOne saves, and what it shows."""


def save_views(
    dataset: Dataset,
    names: Names,
    borderline: tuple[Any, str],
    errors: Sequence[View],
    *,
    agree: bool,
    changed: str | None,
) -> None:
    """The views of one version; those of labels only if there are some, in the fields that builder.browse.load fills.

    borderline: what hangs on thresholds, and what that is. errors: where version and human labels disagree. agree:
    whether several teachers said how far they agree. changed: the version that changes are counted from.
    """
    title = f" ({names.suffix[1:]})" if names.suffix else ""

    def save(name: str, view: Any, what: str) -> None:
        dataset.save_view(name + title, view, description=what)

    save("borderline", *borderline)
    save("ignored", dataset.match_tags(names("ignored")), "Images with something between the two thresholds.")
    save("empty", dataset.match_tags(names("empty")), "Images of which nothing is kept.")
    twins = dataset.match_tags(names("near_duplicate")).sort_by(names("why"))
    save("near-duplicates", twins, "Images that were left out, since others in the pool look like them.")
    for name, view, what in errors:
        save(name, view, what)
    if agree:
        field = names("agreement")
        view = dataset.match({field: {"$lt": dataset.max(field)}}).sort_by(field)
        save("ensemble disagreement", view, "Images with an object that not all teachers found, the fewest first.")
    if changed:
        view = dataset.match({names("changes"): {"$gt": 0}}).sort_by(names("changes"), reverse=True)
        save("most changed", view, f"Images of which most labels differ from {changed}.")


def borderline_objects(dataset: Dataset, names: Names) -> tuple[Any, str]:
    shown = _near(dataset, names).match({names("shard"): {"$ne": None}}).sort_by(names("distance"))
    return shown, "Images with an object near its threshold, the nearest first."


def borderline_classes(dataset: Dataset, names: Names) -> tuple[Any, str]:
    """Those that are not sure enough are in no shard."""
    shown = _near(dataset, names).sort_by(names("distance"))
    return shown, "Images whose class is near its threshold, the nearest first."


def _near(dataset: Dataset, names: Names) -> Any:
    return dataset.match({names("distance"): {"$lte": NEAR}, "tags": {"$ne": "truth"}})


def borderline_maps(dataset: Dataset, names: Names) -> tuple[Any, str]:
    unsure = names("unsure")
    view = dataset.match({unsure: {"$gt": 0}, names("shard"): {"$ne": None}}).sort_by(unsure, reverse=True)
    return view, "Images by their pixels that are nearly sure, those with the most first."


def wrong_objects(labelled: Dataset, names: Names) -> list[View]:
    verdict = names(EVALUATION)
    wrong = labelled.filter_labels(names("pseudo"), {"$eq": [f"$$this.{verdict}", "fp"]})
    missed = labelled.filter_labels("ground_truth", {"$eq": [f"$$this.{verdict}", "fn"]})
    return [
        ("false positives", wrong, "Labelled images with kept objects that no human label matches."),
        ("misses", missed, "Labelled images with human labels that no kept object matches."),
    ]


def wrong_classes(labelled: Dataset, names: Names) -> list[View]:
    wrong = labelled.match({names(EVALUATION): False})
    missed = labelled.match({names("pseudo"): None, "ground_truth": {"$ne": None}})
    return [
        ("wrong classes", wrong, "Labelled images whose class is kept and is not the human one."),
        ("misses", missed, "Labelled images whose class is not sure enough to be kept."),
    ]


def wrong_pixels(labelled: Dataset, names: Names) -> list[View]:
    accuracy = f"{names(EVALUATION)}_accuracy"
    if not labelled.has_sample_field(accuracy):
        return []
    view = labelled.match({accuracy: {"$lt": 1}}).sort_by(accuracy)
    what = "Labelled images by the share of their kept pixels that have the human class, the lowest first."
    return [("wrong pixels", view, what)]
