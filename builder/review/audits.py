"""Audits of a version: kept objects drawn at random, people's verdicts on them, and the precision that follows.

The sample is stratified over score bins of about equal numbers of kept objects, drawn in each without replacement, and
every object's inclusion probability is recorded: only such objects enter an estimate (builder.evidence.estimate.audit).
An audit lies in `reviews/NAME/audits/ID12-DIGEST12.json` of the store, the verdicts and the estimate beside it.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from builder.errors import BuildError, brief
from builder.evidence.estimate import Estimate, Item, audit_items
from builder.kinds import kind_of
from builder.review.objects import Edited, check_reviewable
from builder.rules.overrides import Box
from builder.sections import Section, complaint
from builder.store.files import canonical_json, digest, locked, read_stored, seal, unseal, write_file
from builder.store.labels import checked_table
from builder.store.manifest import Manifest
from builder.store.store import Store
from builder.store.version import Version
from teachers.boxes import iou_matrix

BINS = 5
FEWEST = 2
"""Objects that must be drawn of each stratum for its variance to be known."""
CELLS = 1 << 12
"""Edges of strata are multiples of 1 / CELLS of score."""
LEVEL = 0.9
SAME = 0.5
"""Pixels by which a side may differ in a box that nobody moved."""
OVERLAP = 0.5
"""IoU at which a box that was moved still was right."""


class Drawn(Section):
    """An object that was drawn. id: builder.review.objects.Shown's; box: xyxy, pixels; probability: of being drawn."""

    id: str
    key: str
    label: str
    score: float
    box: Box
    stratum: str
    probability: float


class Bin(Section):
    """A stratum: kept objects with a score in [low, high), up to 1 in the last; how many there are, and were drawn."""

    name: str
    low: float
    high: float
    objects: int
    drawn: int


class Audit(Section):
    """A sample of the kept objects of the version of this id. items: by key."""

    format: int = 1
    version: str
    id: str
    seed: int
    bins: tuple[Bin, ...]
    items: tuple[Drawn, ...]

    @property
    def name(self) -> str:
        """Of its files, without an extension."""
        return f"{self.id[:12]}-{digest(self.model_dump(mode='json'))[:12]}"

    @property
    def keys(self) -> list[str]:
        """The images it is on."""
        return sorted({item.key for item in self.items})


class Verdict(Section):
    """Whether a person found a drawn object right, and who."""

    right: bool
    author: str


@dataclass(frozen=True)
class Audited:
    """An audit with its verdicts by object id. estimate: None while some are missing."""

    audit: Audit
    verdicts: Mapping[str, Verdict]
    estimate: Estimate | None

    @property
    def missing(self) -> int:
        return len(self.audit.items) - len(self.verdicts)


def draw(version: Version, count: int, seed: int = 0) -> Audit:
    """A sample of about `count` kept objects, at least two of each stratum. The same seed draws the same objects,
    whatever the order of rows. Raises BuildError if nothing is kept, or the labels cannot be read."""
    import duckdb

    manifest, path = version.manifest, checked_table(version)
    check_reviewable(manifest)
    try:
        with duckdb.connect(":memory:") as sql:
            sql.register("gone", pa.table({"key": pa.array(manifest.tombstones, pa.string())}))
            sql.execute(_view(path, sql))
            cells = sql.execute("SELECT cell, count(*) FROM objects GROUP BY cell ORDER BY cell").fetchall()
            bins = strata(dict(cells), count)
            rows = [row for stratum in bins for row in _drawn(sql, stratum, seed)]
            first = _first_rows(sql, path, [row[0] for _, row in rows])
    except (OSError, duckdb.Error) as error:
        reason = str(error).partition("\n")[0]
        raise BuildError(f"{path} cannot be read ({reason}): run `tutelage verify --repair` on the version") from None
    items = [
        Drawn(
            id=f"{key}#{row - first[key]}",
            key=key,
            label=manifest.classes[label],
            score=score,
            box=(x1, y1, x2, y2),
            stratum=stratum.name,
            probability=stratum.drawn / stratum.objects,
        )
        for stratum, (key, row, label, score, x1, y1, x2, y2) in rows
    ]
    items.sort(key=lambda item: (item.key, int(item.id.rpartition("#")[2])))
    return Audit(version=version.ref, id=manifest.id, seed=seed, bins=bins, items=tuple(items))


def strata(cells: Mapping[int, int], count: int, bins: int = BINS) -> tuple[Bin, ...]:
    """Bins of about equal numbers of objects, and how many of about `count` to draw of each, in proportion.

    cells: objects by score, in CELLS of [0, 1], of which the last holds 1. Bins of which fewer than two would be drawn
    are joined with a neighbour.
    Raises BuildError for no objects, and for a `count` below 2.
    """
    total = sum(cells.values())
    if not total:
        raise BuildError("nothing is kept in this version, so there is nothing to audit: lower its thresholds")
    if count < FEWEST:
        raise BuildError(f"an audit of {count} objects estimates nothing: draw at least {FEWEST}, better 200")
    count = min(count, total)
    wanted = max(1, min(bins, count // FEWEST))
    edges, seen = [0], 0
    for cell in sorted(cells):
        # a bin ends before the cell that would take it further past its share than it is short of it
        share = total * len(edges) / wanted
        if seen and len(edges) < wanted and abs(seen - share) <= abs(seen + cells[cell] - share):
            edges.append(cell)
        seen += cells[cell]
    edges.append(CELLS)
    sizes = [sum(n for cell, n in cells.items() if a <= cell < b) for a, b in pairwise(edges)]
    drawn = shares(sizes, count)
    while len(sizes) > 1 and any(n < FEWEST for n in drawn):
        least = int(np.argmin(drawn))
        at = least if least else 1  # with the one below it; the lowest with the one above
        sizes[at - 1 : at + 1] = [sizes[at - 1] + sizes[at]]
        del edges[at]
        drawn = shares(sizes, count)
    return tuple(
        Bin(name=f"{a / CELLS:.4f} to {b / CELLS:.4f}", low=a / CELLS, high=b / CELLS, objects=objects, drawn=n)
        for (a, b), objects, n in zip(pairwise(edges), sizes, drawn, strict=True)
    )


def shares(sizes: Sequence[int], count: int) -> list[int]:
    """`count` dealt out in proportion to sizes, by largest remainder, none more than its size."""
    exact = np.array(sizes, np.float64) * count / sum(sizes)
    dealt = np.floor(exact).astype(int)
    order = np.lexsort((np.arange(len(sizes)), -(exact - dealt)))
    dealt[order[: count - int(dealt.sum())]] += 1
    return [min(int(n), size) for n, size in zip(dealt, sizes, strict=True)]


def _view(path: Path, sql: Any) -> str:
    name = "'" + glob.escape(str(path)).replace("'", "''") + "'"  # the reader takes * and [ for patterns
    known = {row[0] for row in sql.execute(f"DESCRIBE FROM read_parquet({name})").fetchall()}
    score = "coalesce(calibrated, score)" if "calibrated" in known else "score"
    return f"""
        CREATE VIEW objects AS SELECT key, file_row_number AS row, label, {score}::DOUBLE AS score, x1, y1, x2, y2,
            least(floor({score} * {CELLS}), {CELLS - 1})::INTEGER AS cell
        FROM read_parquet({name}, file_row_number = true)
        WHERE outcome = 'kept' AND key NOT IN (SELECT key FROM gone)
    """


def _drawn(sql: Any, stratum: Bin, seed: int) -> list[tuple[Bin, tuple[Any, ...]]]:
    """The objects of a stratum whose hashes are the smallest: a random sample without replacement."""
    rows = sql.execute(
        """
        SELECT key, row, label, score, x1, y1, x2, y2 FROM objects WHERE cell >= ? AND cell < ?
        ORDER BY md5(concat_ws('/', ?, key, label, score, x1, y1, x2, y2)), row LIMIT ?
        """,
        [round(stratum.low * CELLS), round(stratum.high * CELLS), str(seed), stratum.drawn],
    ).fetchall()
    return [(stratum, row) for row in rows]


def _first_rows(sql: Any, path: Path, keys: Iterable[str]) -> dict[str, int]:
    """The first row of labels.parquet of each of these images; an image's rows lie together."""
    name = "'" + glob.escape(str(path)).replace("'", "''") + "'"
    first_rows = sql.execute(
        f"SELECT key, min(file_row_number) FROM read_parquet({name}, file_row_number = true) "
        "WHERE list_contains(?, key) GROUP BY key",
        [sorted(set(keys))],
    ).fetchall()
    return dict(first_rows)


def judge(audit: Audit, edited: Iterable[Edited], images: Iterable[str], looked_at: Iterable[str]) -> dict[str, bool]:
    """Which of the drawn objects a review found right, by id; those it says nothing of are missing.

    images: keys that came back. looked_at: those of them that a person declared finished, so that what they left as it
    is, is right. Elsewhere only a tag, another label, a moved box or a deleted one is a verdict. A box that was moved
    was right if it has its label and an IoU of .5 with where it should be.
    """
    by_id = {edit.id: edit for edit in edited if edit.id is not None}
    there, finished = set(images), set(looked_at)
    right: dict[str, bool] = {}
    for item in audit.items:
        if item.key not in there:
            continue
        edit = by_id.get(item.id)
        if edit is None or edit.verdict == "reject" or edit.label != item.label:
            right[item.id] = False
        elif edit.verdict == "accept" or is_moved(edit.box, item.box) or item.key in finished:
            boxes = (np.array([box], np.float64) for box in (edit.box, item.box))
            right[item.id] = not is_moved(edit.box, item.box) or bool(iou_matrix(*boxes)[0, 0] >= OVERLAP)
    return right


def is_moved(box: Box, other: Box) -> bool:
    return max(abs(a - b) for a, b in zip(box, other, strict=True)) > SAME


def folder_of(store: Store, name: str) -> Path:
    return store.root / "reviews" / name / "audits"


def save(store: Store, audit: Audit) -> Path:
    """Write an audit before anybody looks at it. Drawing it again changes nothing."""
    folder = folder_of(store, audit.version.partition("@")[0])
    path = folder / f"{audit.name}.json"
    with _alone(folder, audit):
        if not path.is_file():
            write_file(path, canonical_json(audit.model_dump(mode="json")))
    return path


def _alone(folder: Path, audit: Audit) -> AbstractContextManager[None]:
    return locked(folder / ".lock", f"the audits of {audit.version}", sweep=[folder], wait=True)


def read(store: Store, manifest: Manifest, name: str | None = None) -> list[Audited]:
    """All audits of a version, by name. name: of its dataset in the store, if not its own. Raises BuildError for a
    damaged one."""
    folder = folder_of(store, name or manifest.name)
    names = sorted(p for p in folder.glob(f"{manifest.id[:12]}-*.json") if not p.name.endswith(".verdicts.json"))
    return [audited for audited in map(_read, names) if audited.audit.id == manifest.id]


def _read(path: Path) -> Audited:
    beside = path.with_suffix(".verdicts.json")
    try:
        audit = Audit.model_validate(read_stored(path))
        if audit.name != path.stem:
            raise ValueError("its name is not the digest of what it holds")
        sealed = read_stored(beside) if os.path.lexists(beside) else {"verdicts": {}}
        stored = unseal(sealed, beside, "run `tutelage fsck --repair`, or remove it and pull the verdicts again")[
            "verdicts"
        ]
        given = {id: Verdict.model_validate(verdict) for id, verdict in stored.items()}
        verdicts = {item.id: given[item.id] for item in audit.items if item.id in given}
    except (OSError, ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = complaint(error) if isinstance(error, ValidationError) else brief(error)
        raise BuildError(f"{path} is damaged ({reason}): remove it and draw an audit again") from None
    return Audited(audit, verdicts, estimate(audit, verdicts))


def estimate(audit: Audit, verdicts: Mapping[str, Verdict]) -> Estimate | None:
    """The precision of all kept objects of the version, or None while verdicts are missing."""
    if any(item.id not in verdicts for item in audit.items):
        return None
    items = [Item(item.stratum, verdicts[item.id].right, item.probability) for item in audit.items]
    return audit_items(items, {stratum.name: stratum.objects for stratum in audit.bins}, LEVEL)


def joined(audited: Audited, right: Mapping[str, bool], authors: Mapping[str, str]) -> Audited:
    """An audit with further verdicts, a later one in place of an earlier. right: whether each object is, by its id;
    authors: by its id."""
    new = {id: Verdict(right=is_right, author=authors[id]) for id, is_right in right.items()}
    verdicts = {**audited.verdicts, **new}
    return Audited(audited.audit, verdicts, estimate(audited.audit, verdicts))


def record(store: Store, audited: Audited, right: Mapping[str, bool], authors: Mapping[str, str]) -> Audited:
    """Add verdicts (see `joined`) to those that are saved, and write them with the estimate."""
    folder = folder_of(store, audited.audit.version.partition("@")[0])
    path = folder / f"{audited.audit.name}.json"
    with _alone(folder, audited.audit):
        done = joined(_read(path), right, authors)
        verdicts = {id: verdict.model_dump() for id, verdict in done.verdicts.items()}
        value = {"verdicts": verdicts, "estimate": estimate_value(done)}
        write_file(path.with_suffix(".verdicts.json"), canonical_json(seal(value)))
    return done


def estimate_value(audited: Audited) -> dict[str, Any] | None:
    """The estimate, JSON-ready; wrong: boxes that were, by class. None while verdicts are missing."""
    estimated = audited.estimate
    if estimated is None:
        return None
    wrong = (item.label for item in audited.audit.items if not audited.verdicts[item.id].right)
    effective = estimated.effective if np.isfinite(estimated.effective) else None
    return {**asdict(estimated), "effective": effective, "level": LEVEL, "wrong": dict(Counter(wrong))}


def latest(store: Store, manifest: Manifest, name: str | None = None) -> Audited | None:
    """The finished audit of a version (see `read`) with the most objects; None without a finished one."""
    done = [audited for audited in read(store, manifest, name) if audited.estimate]
    return max(done, key=lambda audited: (len(audited.audit.items), audited.audit.name), default=None)


def sentence(audited: Audited, kind: str) -> str:
    """What a finished audit of a version of labels of a kind says, for the command line."""
    estimated = audited.estimate
    assert estimated is not None
    what, bins = f"{estimated.objects} kept {kind_of(kind).noun}", len(audited.audit.bins)
    return (
        f"Audited: {estimated.audited} of {what}, drawn at random within {bins} "
        f"score bins, were looked at: precision {estimated.precision:.2f} ({LEVEL:.0%} interval {estimated.low:.2f} to "
        f"{estimated.high:.2f}), whatever the shift between truth and pool."
    )
