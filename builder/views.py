"""The saved views of a browsed version: what is worth looking at, one click away."""

from __future__ import annotations

from typing import Any

from builder.documents import Names

NEAR = 0.1
"""Of score: an image is borderline if one of its objects is so close to its threshold."""
EVALUATION = "eval"

Dataset = Any
"""fiftyone.Dataset, which only builder.viewer imports."""


def save_views(dataset: Dataset, names: Names, *, agree: bool, changed: str | None) -> None:
    """The views of one version; those of labels only if there are some, in the fields that builder.viewer fills.

    agree: whether several teachers said how far they agree. changed: the version that changes are counted from.
    """
    title = f" ({names.suffix[1:]})" if names.suffix else ""

    def save(name: str, view: Any, what: str) -> None:
        dataset.save_view(name + title, view, description=what)

    distance = names("distance")
    near = dataset.match({distance: {"$lte": NEAR}, names("shard"): {"$ne": None}})
    save("borderline", near.sort_by(distance), "Images with an object near its threshold, the nearest first.")
    save("ignored", dataset.match_tags(names("ignored")), "Images with ignore regions.")
    save("empty", dataset.match_tags(names("empty")), "Images of which no object is kept.")
    twins = dataset.match_tags(names("near_duplicate")).sort_by(names("why"))
    save("near-duplicates", twins, "Images that were left out, since others in the pool look like them.")
    if dataset.count_sample_tags().get("truth"):
        labelled = dataset.match_tags("truth")
        verdict = names(EVALUATION)
        wrong = labelled.filter_labels(names("pseudo"), {"$eq": [f"$$this.{verdict}", "fp"]})
        save("false positives", wrong, "Labelled images with kept objects that no human label matches.")
        missed = labelled.filter_labels("ground_truth", {"$eq": [f"$$this.{verdict}", "fn"]})
        save("misses", missed, "Labelled images with human labels that no kept object matches.")
    if agree:
        view = dataset.match({names("agreement"): {"$ne": None}}).sort_by(names("agreement"))
        save("ensemble disagreement", view, "Images by how little the teachers agree on an object of theirs.")
    if changed:
        view = dataset.match({names("changes"): {"$gt": 0}}).sort_by(names("changes"), reverse=True)
        save("most changed", view, f"Images of which most labels differ from {changed}.")
