"""The saved views of a browsed version: what is worth looking at, one click away."""

from __future__ import annotations

from typing import Any

from builder.browse.documents import Names

NEAR = 0.1
"""Of score: an image is borderline if one of its objects is so close to its threshold."""
EVALUATION = "eval"

Dataset = Any
"""fiftyone.Dataset, which only builder.browse.app imports."""


def save_views(dataset: Dataset, names: Names, kind: str, *, agree: bool, changed: str | None) -> None:
    """The views of one version; those of labels only if there are some, in the fields that builder.browse.load fills.

    kind: of its labels. agree: whether several teachers said how far they agree. changed: the version that changes are
    counted from.
    """
    title = f" ({names.suffix[1:]})" if names.suffix else ""

    def save(name: str, view: Any, what: str) -> None:
        dataset.save_view(name + title, view, description=what)

    save("borderline", *_borderline(dataset, names, kind))
    save("ignored", dataset.match_tags(names("ignored")), "Images with something between the two thresholds.")
    save("empty", dataset.match_tags(names("empty")), "Images of which nothing is kept.")
    twins = dataset.match_tags(names("near_duplicate")).sort_by(names("why"))
    save("near-duplicates", twins, "Images that were left out, since others in the pool look like them.")
    if dataset.count_sample_tags().get("truth"):
        for name, view, what in _against_truth(dataset, names, kind):
            save(name, view, what)
    if agree:
        field = names("agreement")
        view = dataset.match({field: {"$lt": dataset.max(field)}}).sort_by(field)
        save("ensemble disagreement", view, "Images with an object that not all teachers found, the fewest first.")
    if changed:
        view = dataset.match({names("changes"): {"$gt": 0}}).sort_by(names("changes"), reverse=True)
        save("most changed", view, f"Images of which most labels differ from {changed}.")


def _borderline(dataset: Dataset, names: Names, kind: str) -> tuple[Any, str]:
    """What hangs on thresholds, and what that is."""
    if kind == "semantic":
        unsure = names("unsure")
        view = dataset.match({unsure: {"$gt": 0}, names("shard"): {"$ne": None}}).sort_by(unsure, reverse=True)
        return view, "Images by their pixels that are nearly sure, those with the most first."
    distance = names("distance")
    near = dataset.match({distance: {"$lte": NEAR}, "tags": {"$ne": "truth"}})
    if kind == "classification":  # those that are not sure enough are in no shard
        return near.sort_by(distance), "Images whose class is near its threshold, the nearest first."
    shown = near.match({names("shard"): {"$ne": None}}).sort_by(distance)
    return shown, "Images with an object near its threshold, the nearest first."


def _against_truth(dataset: Dataset, names: Names, kind: str) -> list[tuple[str, Any, str]]:
    """Where a version and human labels disagree: names of views, the views, and what they show."""
    labelled, verdict = dataset.match_tags("truth"), names(EVALUATION)
    if kind == "classification":
        wrong = labelled.match({verdict: False})
        missed = labelled.match({names("pseudo"): None, "ground_truth": {"$ne": None}})
        return [
            ("wrong classes", wrong, "Labelled images whose class is kept and is not the human one."),
            ("misses", missed, "Labelled images whose class is not sure enough to be kept."),
        ]
    if kind == "semantic":
        accuracy = f"{verdict}_accuracy"
        if not dataset.has_sample_field(accuracy):
            return []
        view = labelled.match({accuracy: {"$lt": 1}}).sort_by(accuracy)
        what = "Labelled images by the share of their kept pixels that have the human class, the lowest first."
        return [("wrong pixels", view, what)]
    wrong = labelled.filter_labels(names("pseudo"), {"$eq": [f"$$this.{verdict}", "fp"]})
    missed = labelled.filter_labels("ground_truth", {"$eq": [f"$$this.{verdict}", "fn"]})
    return [
        ("false positives", wrong, "Labelled images with kept objects that no human label matches."),
        ("misses", missed, "Labelled images with human labels that no kept object matches."),
    ]
