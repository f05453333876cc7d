"""What people did to the objects of one image in FiftyOne."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from builder.browse.documents import Names
from builder.browse.pictures import ASIDE
from builder.review.objects import MOVED, Edited, Shown, on_image
from builder.rules.overrides import Box

ACCEPT, REJECT = "accept", "reject"
"""Tags, of objects or of images."""
FIELDS = ("pseudo", "ignored", "teacher")
REVIEWED = "reviewed"
"""A tag of an image that someone went through; it says nothing of its objects."""


def edits_of(sample: Mapping[str, Any], names: Names, shown: Mapping[str, Shown], author: str) -> list[Edited]:
    """sample: a document of FiftyOne's (builder.browse.documents.sample); shown: the objects of its image by id.

    An object stands in up to two fields: a verdict counts wherever it was given, and so does a changed label or box,
    those of `pseudo` before those of the others. Of the kept objects those come back that are still in `pseudo`, of the
    others only those with a verdict or a change. An object without a known id was drawn by a person.
    """
    width, height = sample["metadata"]["width"], sample["metadata"]["height"]
    edits: dict[str, Edited] = {}
    drawn: list[Edited] = []
    for field in FIELDS:
        seen = set[str]()
        for object in (sample.get(names(field)) or {}).get("detections") or []:
            id = object.get("tutelage_id")
            if not object.get("bounding_box") or object.get("label") == ASIDE:
                continue
            known = id if id in shown and id not in seen else None
            box = _pixels(object["bounding_box"], width, height)
            edited = Edited(
                known, sample["key"], object.get("label") or "", box, _verdict(object.get("tags") or ()), author
            )
            if known is None:
                drawn.append(edited)
                continue
            seen.add(known)
            if field == "pseudo" or edited.verdict or _is_changed(edited, shown[known]):
                edits[known] = _merged(edits[known], edited, shown[known]) if known in edits else edited
    of_image = _verdict(sample.get("tags") or ())
    for id, edited in edits.items():
        if of_image and edited.verdict is None and shown[id].outcome == "kept":
            edits[id] = replace(edited, verdict=of_image)
    return [*edits.values(), *drawn]


def class_edits(sample: Mapping[str, Any], names: Names, shown: Mapping[str, Shown], author: str) -> list[Edited]:
    """`edits_of` an image whose class is its label: nothing where its kept class was deleted, else one.

    A verdict counts wherever it was given, on the image too. Its class is that of `pseudo`, else that of the likeliest
    classes (`teacher`) which was accepted; a class that was drawn anew needs no tag, the same one neither where the
    image was left out.
    """
    if not shown:
        return []
    (was,) = shown.values()  # as the teacher names one class of an image
    pseudo, ignored = (sample.get(names(field)) for field in FIELDS[:2])
    likely = (sample.get(names(FIELDS[2])) or {}).get("classifications") or []
    if was.outcome == "kept" and not pseudo:
        return []
    label = next((part["label"] for part in (pseudo, ignored) if part and part.get("label")), was.label)
    tags = [tag for part in (sample, pseudo, ignored, *likely[:1]) if part for tag in part.get("tags") or ()]
    verdict = _verdict(tags)
    if verdict is None and was.outcome != "kept" and pseudo and pseudo.get("label") == was.label:
        verdict = ACCEPT  # type: ignore[assignment]  # a literal
    if label == was.label:
        chosen = [part["label"] for part in likely[1:] if _verdict(part.get("tags") or ()) == ACCEPT]
        label = chosen[0] if chosen else likely[0]["label"] if likely and likely[0].get("label") else label
    return [Edited(was.id, was.key, label, was.box, verdict, author)]


def _pixels(box: Sequence[float], width: int, height: int) -> Box:
    x, y, w, h = box
    return on_image((x * width, y * height, (x + w) * width, (y + h) * height), width, height)


def _verdict(tags: Sequence[str]) -> Literal["accept", "reject"] | None:
    """Of tags; a reject counts before an accept."""
    plain = {tag.strip().lower() for tag in tags}
    return REJECT if REJECT in plain else ACCEPT if ACCEPT in plain else None  # type: ignore[return-value]


def _is_changed(edited: Edited, was: Shown) -> bool:
    return edited.label != was.label or max(abs(a - b) for a, b in zip(edited.box, was.box, strict=True)) > MOVED


def _merged(first: Edited, second: Edited, was: Shown) -> Edited:
    """One object that came back in two fields."""
    change = second if _is_changed(second, was) and not _is_changed(first, was) else first
    verdicts = {first.verdict, second.verdict}
    verdict = REJECT if REJECT in verdicts else ACCEPT if ACCEPT in verdicts else None
    return replace(change, verdict=verdict)
