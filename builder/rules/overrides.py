"""What people said of single objects, kept beside a dataset so that it outlives thresholds, teachers and versions.

An override names its object by the image's bytes and by a box, never by a row: builder.rules.overruling finds that
object again among any teacher's. Here are the records, their file `reviews/NAME/overrides.json`, and how a new batch
joins it.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from builder.errors import BuildError, brief
from builder.sections import complaint
from builder.store.files import canonical_json, digest, locked, read_stored, seal, unseal, write_file
from builder.store.store import NAME, Store
from builder.store.version import OVERRIDES
from teachers.boxes import iou_matrix

Box = tuple[float, float, float, float]
"""xyxy, pixels of the upright image."""
Action = Literal["accept", "reject", "relabel", "move", "add"]
FORMAT = 1
MEND = "run `tutelage fsck --repair`, or restore it from a copy"
SAME = 0.99
"""IoU from which on a box that was shown is taken for the one that an override made, or was made for."""
MATCH = 0.5
"""IoU from which on an object may be the one that an override is about."""
BY_ORDER = attrgetter("order")
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


RECORDS = TypeAdapter(list[Override])


def overrides_path(store: Store, name: str) -> Path:
    """The file of the overrides of dataset `name`."""
    if not NAME.fullmatch(name):
        raise BuildError(f"dataset name {name!r} must be letters, digits, - and _: give the dataset of a version")
    return store.root / "reviews" / name / OVERRIDES


def read_overrides(store: Store, name: str) -> list[Override]:
    """The overrides in force for dataset `name`, sorted; none if nobody reviewed it. Raises BuildError if damaged."""
    path = overrides_path(store, name)
    return load_overrides(path) if os.path.lexists(path) else []  # a link to nowhere is no missing file


def load_overrides(path: Path) -> list[Override]:
    """The overrides in a file: a store's, or a version's copy. Raises BuildError if it is not such a file."""
    try:
        content = unseal(read_stored(path), path, MEND)
        if content.get("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        overrides = [_normal(override) for override in RECORDS.validate_python(content["overrides"])]
    except (OSError, ValidationError, ValueError, KeyError) as error:
        reason = complaint(error) if isinstance(error, ValidationError) else brief(error)
        raise BuildError(f"{path} cannot be read as overrides ({reason}): {MEND}") from None
    if flaw := next((flaw for override in overrides if (flaw := _flaw(override))), None):
        raise BuildError(f"{path} holds an override that cannot be: {flaw}: correct it there")
    return sorted(overrides, key=BY_ORDER)


def load_fates(path: Path) -> dict[Override, str]:
    """The overrides in a version's copy, sorted, with what became of each. Raises BuildError as `load_overrides`."""
    overrides = load_overrides(path)
    try:
        rows = read_stored(path)["overrides"]
        fates = {_normal(RECORDS.validate_python([row])[0]): str(row["state"]) for row in rows}
    except KeyError:
        raise BuildError(f"{path} does not say what became of its overrides: repair its version") from None
    return {override: fates[override] for override in overrides}


def load_keys(path: Path) -> dict[str, str]:
    """The keys of the images that the overrides in a version's copy are about, by SHA-256, as far as it says them."""
    rows = read_stored(path)["overrides"] if load_overrides(path) else []
    return {str(row["sha256"]): str(row["key"]) for row in rows if "key" in row}


def dump_overrides(
    overrides: Iterable[Override],
    states: Mapping[Override, str] | None = None,
    keys: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of such a file: canonical JSON, sorted, sealed but for a version's copy, which its manifest covers. For
    that: states, what became of each, and keys, of the images in its chunks, by SHA-256."""
    rows = [
        asdict(override)
        | ({"state": states[override]} if states is not None else {})
        | ({"key": keys[override.sha256]} if keys and override.sha256 in keys else {})
        for override in sorted(overrides, key=BY_ORDER)
    ]
    content = {"format": FORMAT, "overrides": rows}
    return canonical_json(seal(content) if states is None else content) + b"\n"


def overrides_digest(overrides: Iterable[Override]) -> str | None:
    """SHA-256, hex, of what they say, in any order; None for none."""
    rows = [asdict(override) for override in sorted(overrides, key=BY_ORDER)]
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
    batch = [_normal(override) for override in new]
    path = overrides_path(store, name)
    for override in batch:
        if flaw := _flaw(override):
            raise BuildError(f"override of image {override.sha256[:12]} cannot be: {flaw}: correct it and pull again")
    if classes is not None:
        check_labels(batch, classes, "correct it where it was given, then pull again")
    if not batch:
        return Added(0, 0, 0, len(read_overrides(store, name)))
    with locked(path.parent / ".lock", f"the reviews of {name}", sweep=[path.parent], wait=True):
        merged, counts = merge(read_overrides(store, name), batch, known)
        _write(path, merged)
    return Added(counts["added"], counts["changed"], counts["same"], len(merged))


def adopt(store: Store, name: str, earlier: Iterable[Override]) -> None:
    """Put overrides that people gave elsewhere into force for dataset `name`, as if they had come before all others."""
    path = overrides_path(store, name)
    with locked(path.parent / ".lock", f"the reviews of {name}", sweep=[path.parent], wait=True):
        merged, _ = merge(earlier, read_overrides(store, name))
        _write(path, merged)


def _write(path: Path, overrides: Iterable[Override]) -> None:
    data = dump_overrides(overrides)
    if not path.exists() or path.read_bytes() != data:
        write_file(path, data)


def check_labels(overrides: Iterable[Override], classes: Sequence[str], advice: str) -> None:
    """Raise BuildError if one gives a label that is none of these classes; what is rejected may be of any."""
    known = set(classes)
    for override in overrides:
        if override.action != "reject" and override.label not in known:
            listed = ", ".join(classes[:5]) + (", …" if len(classes) > 5 else "")
            raise BuildError(
                f"the override of image {override.sha256[:12]} by {who(override)} gives the label "
                f"{override.label!r}, which is none of the classes ({listed}): {advice}"
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
    for override in sorted({_normal(n) for n in new}, key=BY_ORDER):
        subject = (override.sha256, override.box, override.before, override.action == "add")
        if subject in batch:
            counts["changed"] += 1
        batch[subject] = override
    in_force = by_image(map(_normal, present))
    seen = by_image(override for override in known if override.action == "add")
    for sha256, verdicts in by_image(batch.values()).items():
        before = in_force.get(sha256, [])
        partner = _partners(before, verdicts, seen.get(sha256, []))
        after = dict(enumerate(before))
        for n, override in enumerate(verdicts):
            if n not in partner:
                after[len(before) + n] = override
                counts["added"] += 1
                continue
            place, kind = partner[n]
            after[place] = _composed(before[place], override, kind)
            counts["same" if after[place] == before[place] else "changed"] += 1
        in_force[sha256] = list(after.values())
    return sorted({override for group in in_force.values() for override in group}, key=BY_ORDER), counts


RESULT, ORIGIN, AGAIN = 0, 1, 2  # a new override is about what an earlier one left, or its object, or says it again


def _partners(
    before: Sequence[Override], new: Sequence[Override], seen: Sequence[Override]
) -> dict[int, tuple[int, int]]:
    """Position in `new` -> position in `before`, and how it is about it. One to one, the closest boxes first."""
    matches = []
    boxes, results = [override.box for override in new], [override.result for override in new]
    left = [earlier.result for earlier in before]
    to_left, again, to_boxes = overlaps(boxes, left), overlaps(results, left), overlaps(boxes, [o.box for o in before])
    to_seen = overlaps(results, [earlier.result for earlier in seen])
    for n, override in enumerate(new):
        beside = any(to_seen[n, m] >= MATCH and earlier.label == override.label for m, earlier in enumerate(seen))
        least = MATCH if override.action == "add" and not beside else SAME
        for place, earlier in enumerate(before):
            adds = "add" in (override.action, earlier.action)
            rejects = "reject" in (override.action, earlier.action)
            for kind, overlap, labels in (
                (RESULT, to_left[n, place], override.before == earlier.label),
                (ORIGIN, to_boxes[n, place], override.before == earlier.before and not adds),
                (AGAIN, again[n, place], override.label == earlier.label and not rejects),
            ):
                if labels and overlap >= (least if kind == RESULT and earlier.action == "add" else SAME):
                    matches.append((kind, -round(float(overlap), 6), override.order, earlier.order, n, place))
    partner, taken = dict[int, tuple[int, int]](), set[int]()
    for kind, _, _, _, n, place in sorted(matches):
        if n not in partner and place not in taken:
            partner[n] = (place, kind)
            taken.add(place)
    return partner


def _composed(old: Override, new: Override, kind: int) -> Override:
    """What is in force after `new` was said about `old`."""
    if kind == AGAIN or (new.action in ("accept", old.action) and new.label == old.label and new.result == old.result):
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
    groups: dict[str, list[Override]] = {}
    for override in sorted(overrides, key=BY_ORDER):
        groups.setdefault(override.sha256, []).append(override)
    return groups


def who(override: Override) -> str:
    """Who said it, for a sentence."""
    return override.author or "somebody who gave no name"


def overlaps(boxes: Sequence[Box], others: Sequence[Box]) -> np.ndarray:
    """IoU of every box with every other, float64 (N, M)."""
    return iou_matrix(*(np.array(side, np.float64).reshape(-1, 4) for side in (boxes, others)))


def _normal(override: Override) -> Override:
    """The one way to write an override: -0 is 0; an `add` has its box drawn; `was` is there only if it is another."""
    box, drawn = _positive(override.box), _positive(override.drawn) if override.drawn else None
    was = "" if override.action == "add" or override.was == override.label else override.was
    if override.action == "add":
        box = drawn = drawn or box
    return replace(override, box=box, drawn=drawn, was=was)


def _positive(box: Box) -> Box:
    x1, y1, x2, y2 = (float(v) + 0.0 for v in box)
    return x1, y1, x2, y2


def _flaw(override: Override) -> str | None:
    """Why there can be no such override."""
    if not re.fullmatch("[0-9a-f]{64}", override.sha256):
        return f"{override.sha256!r} is no SHA-256"
    if override.action == "move" and override.drawn is None:
        return "a move says no new box"
    if not override.label:
        return "it says no label"
    for box in (override.box, override.result):
        if not all(map(math.isfinite, box)) or box[2] <= box[0] or box[3] <= box[1]:
            return f"box {box} is empty or no box (x1, y1, x2, y2)"
    return None
