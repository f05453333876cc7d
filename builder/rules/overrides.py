"""What people said of single objects, kept beside a dataset so that it outlives thresholds, teachers and versions.

An override names its object by the image's bytes and by a box, never by a row: builder.rules.overruling finds that
object again among any teacher's. Here are the records, their file `reviews/NAME/overrides.json`, and how a new batch
joins it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import orjson
from pydantic import TypeAdapter, ValidationError

from builder.errors import BuildError
from builder.rules.reasons import BY_ACTION
from builder.store.files import canonical_json, digest, locked, write_file
from builder.store.provenance import OverrideSummary
from builder.store.store import NAME, Store
from builder.store.version import OVERRIDES
from teachers.boxes import iou_matrix

Box = tuple[float, float, float, float]
"""xyxy, pixels of the upright image."""
Action = Literal["accept", "reject", "relabel", "move", "add"]
FORMAT = 1
SAME = 0.99
"""IoU from which on a box that was shown is taken for the one that an override made, or was made for."""
MATCH = 0.5
"""IoU from which on an object may be the one that an override is about."""
APPLIED, ORPHANED, WAITING, ELSEWHERE = "applied", "orphaned", "waiting", "elsewhere"
"""What becomes of an override in a version: it decided; its object is not there; nothing to reject is there; its image
is not in the version."""


@dataclass(frozen=True)
class Override:
    """A person's verdict on one object.

    sha256: of the image's original bytes. box: by which the teacher's object is found; of an `add`, what was drawn.
    label: class name after the verdict; of a `reject`, the class that was refused. drawn: the box after the verdict
    where it is another, always so for `move` and `add`. was: class name before the verdict, "" if it is `label`.
    """

    sha256: str
    box: Box
    action: Action
    label: str
    drawn: Box | None = None
    author: str = ""
    was: str = ""

    @property
    def result(self) -> Box:
        """The box that it leaves."""
        return self.drawn or self.box

    @property
    def before(self) -> str:
        """Class name of the object as it was shown."""
        return self.was or self.label

    @property
    def order(self) -> tuple[Any, ...]:
        """By which overrides are sorted, whoever said them first."""
        return self.sha256, self.box, self.before, self.action, self.label, self.result, self.author


@dataclass(frozen=True)
class Added:
    """What a batch did: overrides that are new, that changed what was said before (or contradicted each other within
    the batch), and that said the same again; total: now in force."""

    added: int
    changed: int
    same: int
    total: int


_RECORDS = TypeAdapter(list[Override])


def overrides_path(store: Store, name: str) -> Path:
    """The file of the overrides of dataset `name`."""
    if not NAME.fullmatch(name):
        raise BuildError(f"dataset name {name!r} must be letters, digits, - and _: give the dataset of a version")
    return store.root / "reviews" / name / OVERRIDES


def read_overrides(store: Store, name: str) -> list[Override]:
    """The overrides in force for dataset `name`, sorted; none if nobody reviewed it. Raises BuildError if the file is
    damaged."""
    path = overrides_path(store, name)
    return load_overrides(path) if path.exists() else []


def load_overrides(path: Path) -> list[Override]:
    """The overrides in a file: a store's, or a version's copy. Raises BuildError if it is not such a file."""
    try:
        content = orjson.loads(path.read_bytes())
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        found = [_normal(one) for one in _RECORDS.validate_python(content["overrides"])]
    except (OSError, ValidationError, ValueError, KeyError) as error:
        reason = f"{error!r}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise BuildError(f"{path} cannot be read as overrides ({reason}): restore it from a copy") from None
    if flaw := next((flaw for one in found if (flaw := _flaw(one))), None):
        raise BuildError(f"{path} holds an override that cannot be: {flaw}: correct it there")
    return sorted(found, key=lambda one: one.order)


def load_fates(path: Path) -> dict[Override, str]:
    """The overrides in a version's copy, sorted, with what became of each. Raises BuildError as `load_overrides`."""
    found = load_overrides(path)
    try:
        rows = orjson.loads(path.read_bytes())["overrides"]
        fates = {_normal(_RECORDS.validate_python([row])[0]): str(row["state"]) for row in rows}
    except KeyError:
        raise BuildError(f"{path} does not say what became of its overrides: repair its version") from None
    return {one: fates[one] for one in found}


def dump_overrides(overrides: Iterable[Override], states: Mapping[Override, str] | None = None) -> bytes:
    """The bytes of such a file: canonical JSON, sorted. states: what became of each in a version, for its copy."""
    rows = [
        asdict(one) | ({"state": states[one]} if states is not None else {})
        for one in sorted(overrides, key=lambda one: one.order)
    ]
    return canonical_json({"format": FORMAT, "overrides": rows}) + b"\n"


def overrides_digest(overrides: Iterable[Override]) -> str | None:
    """SHA-256, hex, of what they say, in any order; None for none."""
    rows = [asdict(one) for one in sorted(overrides, key=lambda one: one.order)]
    return digest(rows) if rows else None


def add_overrides(
    store: Store,
    name: str,
    new: Iterable[Override],
    classes: Sequence[str] | None = None,
    known: Iterable[Override] = (),
) -> Added:
    """Join a batch to the overrides in force for dataset `name` (see `merge`), atomically.

    classes: of the version that was reviewed; a label that they lack is refused. known: see `merge`. Raises BuildError,
    and nothing is written, for that and for an override that cannot be.
    """
    batch = [_normal(one) for one in new]
    path = overrides_path(store, name)
    for one in batch:
        if flaw := _flaw(one):
            raise BuildError(f"override of image {one.sha256[:12]} cannot be: {flaw}: correct it and pull again")
    if classes is not None:
        check_labels(batch, classes, "correct it where it was given, then pull again")
    if not batch:
        return Added(0, 0, 0, len(read_overrides(store, name)))
    with locked(path.parent / ".lock", f"the reviews of {name}", sweep=[path.parent], wait=True):
        merged, counts = merge(read_overrides(store, name), batch, known)
        data = dump_overrides(merged)
        if not path.exists() or path.read_bytes() != data:
            write_file(path, data)
    return Added(counts["added"], counts["changed"], counts["same"], len(merged))


def check_labels(overrides: Iterable[Override], classes: Sequence[str], advice: str) -> None:
    """Raise BuildError if one gives a label that is none of these classes; what is rejected may be of any."""
    known = set(classes)
    for one in overrides:
        if one.action != "reject" and one.label not in known:
            some = ", ".join(classes[:5]) + (", …" if len(classes) > 5 else "")
            raise BuildError(
                f"the override of image {one.sha256[:12]} by {who(one)} gives the label "
                f"{one.label!r}, which is none of the classes ({some}): {advice}"
            )


def merge(
    present: Iterable[Override], new: Iterable[Override], known: Iterable[Override] = ()
) -> tuple[list[Override], Counter[str]]:
    """The overrides in force after a batch, sorted, and how many of the batch are added, changed or same.

    An override of the batch is about what an earlier one left (its resulting box by IoU of at least SAME, and label),
    about the same object of the teacher's, or says what was said already; each earlier one takes part once. It then
    composes with the earlier one, whose object it keeps: the last verdict wins. Two verdicts of a batch on one object
    count as changed; the last by `order` wins. Neither order matters, and a batch that comes twice counts once.

    known: overrides of the version that was reviewed. A box that was drawn where an earlier one of its class was not to
    be seen (IoU of at least MATCH) is that one, drawn again; beside one that was, it is another object.
    """
    counts, batch = Counter[str](), dict[tuple[Any, ...], Override]()
    for one in sorted({_normal(n) for n in new}, key=lambda one: one.order):
        what = (one.sha256, one.box, one.before, one.action == "add")
        if what in batch:
            counts["changed"] += 1
        batch[what] = one
    there, seen = by_image(map(_normal, present)), by_image(one for one in known if one.action == "add")
    for sha256, verdicts in by_image(batch.values()).items():
        before = there.get(sha256, [])
        partner = _partners(before, verdicts, seen.get(sha256, []))
        after = dict(enumerate(before))
        for n, one in enumerate(verdicts):
            if n not in partner:
                after[len(before) + n] = one
                counts["added"] += 1
                continue
            place, kind = partner[n]
            after[place] = _composed(before[place], one, kind)
            counts["same" if after[place] == before[place] else "changed"] += 1
        there[sha256] = list(after.values())
    return sorted({one for group in there.values() for one in group}, key=lambda one: one.order), counts


RESULT, ORIGIN, SAID = 0, 1, 2  # a new override is about what an earlier one left, or its object, or says it again


def _partners(
    before: Sequence[Override], new: Sequence[Override], seen: Sequence[Override]
) -> dict[int, tuple[int, int]]:
    """Position in `new` -> position in `before`, and how it is about it. One to one, the closest boxes first."""
    found = []
    boxes, results, left_by = [one.box for one in new], [one.result for one in new], [old.result for old in before]
    left, said, origin = overlaps(boxes, left_by), overlaps(results, left_by), overlaps(boxes, [o.box for o in before])
    drawn = overlaps(results, [old.result for old in seen])
    for n, one in enumerate(new):
        beside = any(drawn[n, m] >= MATCH and old.label == one.label for m, old in enumerate(seen))
        least = MATCH if one.action == "add" and not beside else SAME
        for place, old in enumerate(before):
            for kind, overlap, labels in (
                (RESULT, left[n, place], one.before == old.label),
                (ORIGIN, origin[n, place], one.before == old.before and "add" not in (one.action, old.action)),
                (SAID, said[n, place], one.label == old.label and one.action != "reject" != old.action),
            ):
                if labels and overlap >= (least if kind == RESULT and old.action == "add" else SAME):
                    found.append((kind, -round(float(overlap), 6), one.order, old.order, n, place))
    partner, taken = dict[int, tuple[int, int]](), set[int]()
    for kind, _, _, _, n, place in sorted(found):
        if n not in partner and place not in taken:
            partner[n] = (place, kind)
            taken.add(place)
    return partner


def _composed(old: Override, new: Override, kind: int) -> Override:
    """What is in force after `new` was said about `old`."""
    if kind == SAID or (new.action in ("accept", old.action) and new.label == old.label and new.result == old.result):
        return old if old.action != "reject" or new.action == "reject" else new
    if kind == ORIGIN:
        return new
    if old.action == "add":
        drawn = new.result if new.action in ("add", "move") else old.result
        if new.action == "reject":
            return _normal(Override(old.sha256, old.result, "reject", old.label, None, new.author))
        return old if new.action == "accept" else _normal(replace(old, drawn=drawn, label=new.label, author=new.author))
    if new.action == "add":
        return new if old.action == "reject" else old
    if new.action == "accept" and old.action != "reject":
        return old
    drawn_after = new.drawn if new.action == "move" else old.drawn
    action: Action = "accept" if new.label == old.before else "relabel"
    if new.action == "reject":
        action = "reject"
    elif drawn_after is not None:
        action = "move"
    return _normal(Override(old.sha256, old.box, action, new.label, drawn_after, new.author, old.before))


def by_image(overrides: Iterable[Override]) -> dict[str, list[Override]]:
    """The overrides of each image, by its SHA-256."""
    found: dict[str, list[Override]] = {}
    for one in sorted(overrides, key=lambda one: one.order):
        found.setdefault(one.sha256, []).append(one)
    return found


def settled(overrides: Iterable[Override], records: Iterable[Mapping[str, Any]]) -> dict[Override, str]:
    """What became of each override of a version, from the records of its shards (builder.cut.samples.write_job)."""
    told = [(row, state) for record in records for row, state in record["overrides"]]
    fates = dict(zip(_RECORDS.validate_python([row for row, _ in told]), (state for _, state in told), strict=True))
    return {one: fates.get(one, ELSEWHERE) for one in overrides}


def summary(fates: Mapping[Override, str]) -> OverrideSummary:
    """What a version's provenance says of the overrides in force. fates: what became of each."""
    states = Counter(fates.values())
    done = Counter(one.action for one, state in fates.items() if state == APPLIED)
    return OverrideSummary(
        digest=overrides_digest(fates),
        count=len(fates),
        applied=states[APPLIED],
        orphans=states[ORPHANED],
        waiting=states[WAITING],
        elsewhere=states[ELSEWHERE],
        **{action: done[action] for action in get_args(Action)},
    )


def describe(overrides: OverrideSummary) -> str:
    """A `summary` in words."""
    by_action = [(getattr(overrides, action), BY_ACTION[action].words) for action in get_args(Action)]
    applied = ", ".join(f"{number} {words}" for number, words in by_action if number)
    text = f"{overrides.applied} of {overrides.count} overrides applied" + (f" ({applied})" if applied else "")
    others = [
        (overrides.orphans, "orphaned (no object to change: see overrides.json)"),
        (overrides.waiting, "wait for an object to reject"),
        (overrides.elsewhere, "on images that are not here"),
    ]
    return "; ".join([text, *(f"{number} {words}" for number, words in others if number)])


def who(one: Override) -> str:
    """Who said it, for a sentence."""
    return one.author or "somebody who gave no name"


def overlaps(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """IoU of every box with every other, float64 (N, M)."""
    return iou_matrix(*(np.array(side, np.float64).reshape(-1, 4) for side in (boxes, others)))


def _normal(one: Override) -> Override:
    """The one way to write an override: -0 is 0; an `add` has its box drawn; `was` is there only if it is another."""
    box, drawn = _positive(one.box), _positive(one.drawn) if one.drawn else None
    was = "" if one.action == "add" or one.was == one.label else one.was
    if one.action == "add":
        box = drawn = drawn or box
    return replace(one, box=box, drawn=drawn, was=was)


def _positive(box: Box) -> Box:
    x1, y1, x2, y2 = (float(v) + 0.0 for v in box)
    return x1, y1, x2, y2


def _flaw(one: Override) -> str | None:
    """Why there can be no such override."""
    if not re.fullmatch("[0-9a-f]{64}", one.sha256):
        return f"{one.sha256!r} is no SHA-256"
    if one.action == "move" and one.drawn is None:
        return "a move says no new box"
    if not one.label:
        return "it says no label"
    for box in (one.box, one.result):
        if not all(map(math.isfinite, box)) or box[2] <= box[0] or box[3] <= box[1]:
            return f"box {box} is empty or no box (x1, y1, x2, y2)"
    return None
