"""Which images of a pool may not be used: the file `left_out.csv` of a version, and how it comes about."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from builder.errors import BuildError
from builder.scan.duplicates import Settled, near_duplicates
from builder.scan.leaks import Leaks, leaks
from builder.scan.pool import OK, Pool

LEAK, NEAR_DUPLICATE, CHANGED = "leak", "near_duplicate", "changed"
HEAD = ["state", "sha256", "why"]
OTHER = "its bytes are no longer those that were scanned, though its size and time are: the disk may be failing"


@dataclass(frozen=True)
class LeftOut:
    """Pool images that may not be used, SHA-256 -> sentence: those that are also labelled, truth or test ones, or
    nearly so, those that are nearly the same as an earlier one, and those whose bytes are no longer what was scanned,
    which the cut finds. note: what was found out about the labelled images, where two that are near are not the
    same."""

    leaks: Mapping[str, str]
    near_duplicates: Mapping[str, str]
    note: str = ""
    changed: Mapping[str, str] = field(default_factory=dict)

    def with_changed(self, names: Mapping[str, str]) -> LeftOut:
        """With images whose bytes changed: SHA-256 -> name."""
        sentences = {sha256: f"{name}: {OTHER}" for sha256, name in names.items()}
        return replace(self, changed={**self.changed, **sentences})

    def table(self) -> str:
        """CSV: what became of each image, its SHA-256, and why."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(HEAD)
        for sha256, state in sorted(self.states.items()):
            writer.writerow([state, sha256, self.why[sha256]])
        return out.getvalue()

    @property
    def why(self) -> dict[str, str]:
        return {**self.changed, **self.near_duplicates, **self.leaks}

    @property
    def by_state(self) -> dict[str, Mapping[str, str]]:
        """The three of them; of an image in several, the first is its state."""
        return {LEAK: self.leaks, NEAR_DUPLICATE: self.near_duplicates, CHANGED: self.changed}

    @property
    def states(self) -> dict[str, str]:
        return {sha256: state for state, images in reversed(self.by_state.items()) for sha256 in images}


def read_left_out(path: Path) -> LeftOut:
    """What `LeftOut.table` wrote. Raises BuildError if the file is not there, or is not such a table."""
    try:
        head, *rows = csv.reader(io.StringIO(path.read_bytes().decode()))
        images = {
            state: {sha256: why for kind, sha256, why in rows if kind == state}
            for state in (LEAK, NEAR_DUPLICATE, CHANGED)
        }
    except (OSError, ValueError, csv.Error):
        head = []
    if head != HEAD:
        raise BuildError(f"{path} cannot be read: repair its version with `tutelage verify --repair`")
    return LeftOut(images[LEAK], images[NEAR_DUPLICATE], changed=images[CHANGED])


def find_left_out(
    pool: Pool,
    references: Mapping[str, Pool],
    leak_distance: int | None,
    near: int | None,
    settled: Settled | None = None,
) -> LeftOut:
    """references: the labelled, truth and test sets. Distances in bits of the images' hashes; leak_distance of None:
    equal bytes only; near of None: near-duplicates may stay. settled: near-duplicates that were decided before."""
    leaked = leaks(pool, dict(sorted(references.items())), leak_distance) if references else Leaks({})
    return LeftOut(leaked.images, near_duplicates(pool, near, settled) if near is not None else {}, leaked.note)


def settle(pool: Pool, before: Pool, left_out: LeftOut) -> Settled | None:
    """What is settled of `pool` for a version that goes on from one over the older scan `before`, which left out these:
    every image that was readable there stays in, or out. None if `before` is no older scan of the same images. Leaks
    are not settled, since they are looked for among other images."""
    old, now = ([chunk.digest for chunk in side.index] for side in (before, pool))
    if now[: len(old)] != old:
        return None
    parts = [
        np.array([s == OK and sha not in left_out.leaks for s, sha in zip(*columns, strict=True)], bool)
        for table in before.tables(("state", "sha256"))
        if (columns := [column.to_pylist() for column in table.columns])
    ]
    rows = np.concatenate([np.zeros(0, bool), *parts])
    return Settled(rows[: sum(chunk.images for chunk in before.index)], left_out.near_duplicates)
