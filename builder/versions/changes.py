"""The records of a comparison of two versions, and their labels side by side."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from builder.store.version import Version

MEMORY = "512MB"
"""Of DuckDB; beyond it, it goes to disk."""


@dataclass(frozen=True)
class Changes:
    """Numbers of objects; of maps pixels (builder.versions.diff_maps). One object may be moved or rescored, and change
    its outcome as well.

    added, removed: without a partner on the other side. moved: same class, another box (or mask), IoU at least .5.
    rescored: the same box with another score or calibrated score. kept_to_ignored, ignored_to_kept: of those with a
    partner. on_new_images, on_gone_images: how many of added and removed stand on images that only one version has.
    """

    added: int = 0
    removed: int = 0
    moved: int = 0
    rescored: int = 0
    kept_to_ignored: int = 0
    ignored_to_kept: int = 0
    on_new_images: int = 0
    on_gone_images: int = 0

    def __add__(self, other: Changes) -> Changes:
        return Changes(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Changes)))

    def mirrored(self) -> Changes:
        """The same changes told the other way round."""
        return replace(
            self,
            added=self.removed,
            removed=self.added,
            kept_to_ignored=self.ignored_to_kept,
            ignored_to_kept=self.kept_to_ignored,
            on_new_images=self.on_gone_images,
            on_gone_images=self.on_new_images,
        )

    @property
    def weight(self) -> tuple[int, int]:
        """By how much an image changed: first what changed its labels, then mere scores."""
        return self.added + self.removed + self.moved + self.kept_to_ignored + self.ignored_to_kept, self.rescored


NAMES = tuple(f.name for f in fields(Changes))


@dataclass(frozen=True)
class Diff:
    """total, classes (by name, those with changes only); images: how many only B has (added), only A has (removed),
    both have (common), and how many of these changed; added_images, removed_images: the first few keys; most_changed:
    the few images of both with most changes; people: what people decided, reason -> objects in A and in B; quality:
    what may be said of the precision of A and of B, "" where that is not known."""

    total: Changes
    classes: dict[str, Changes]
    images: dict[str, int]
    added_images: list[str]
    removed_images: list[str]
    most_changed: dict[str, Changes]
    people: dict[str, tuple[int, int]]
    quality: tuple[str, str] = ("", "")

    @property
    def empty(self) -> bool:
        same = all(a == b for a, b in self.people.values())
        return same and self.total == Changes() and not self.images["added"] and not self.images["removed"]

    @property
    def disjoint(self) -> bool:
        """Whether both have images, and none that the other has."""
        return not self.images["common"] and bool(self.images["added"] and self.images["removed"])

    def mirrored(self) -> Diff:
        """What the diff of B and A is."""
        images = self.images | {"added": self.images["removed"], "removed": self.images["added"]}
        return Diff(
            self.total.mirrored(),
            {name: changes.mirrored() for name, changes in self.classes.items()},
            images,
            self.removed_images,
            self.added_images,
            {key: changes.mirrored() for key, changes in self.most_changed.items()},
            {reason: (b, a) for reason, (a, b) in self.people.items()},
            (self.quality[1], self.quality[0]),
        )


@dataclass(frozen=True)
class Side:
    """One version: labels: its labels.parquet (builder.cut.label_table.LABELS; `calibrated` and `source` may be
    missing); classes: the names its labels are positions in; keys: of the images in it, in batches; objects of other
    images do not count; version: whose maps are looked at."""

    labels: Path
    classes: Sequence[str]
    keys: Iterable[Sequence[str]]
    version: Version | None = None


Only = dict[str, tuple[int, list[str]]]


@contextmanager
def both_sides(a: Side, b: Side, limit: int) -> Iterator[tuple[duckdb.DuckDBPyConnection, Only, int]]:
    """A database with the keys of both versions in `images_a` and `images_b`; how many images only one has, with the
    first of them, and how many both have."""
    with tempfile.TemporaryDirectory() as spill, duckdb.connect(":memory:", config=_config(spill)) as database:
        for name, side in (("a", a), ("b", b)):
            database.execute(f"CREATE TABLE images_{name} (key VARCHAR)")
            for keys in side.keys:
                batch = pa.table({"key": pa.array(keys, pa.string())})
                database.register("batch", batch)
                database.execute(f"INSERT INTO images_{name} SELECT key FROM batch")
                database.unregister("batch")
        only = {s: _only(database, s, other, limit) for s, other in (("a", "b"), ("b", "a"))}
        common = database.execute("SELECT count(*) FROM images_a SEMI JOIN images_b USING (key)").fetchall()[0][0]
        yield database, only, common


def labels_table(database: duckdb.DuckDBPyConnection, side: Side) -> tuple[str, set[str]]:
    """One side's labels as SQL names them, and their columns."""
    path = "'" + glob.escape(str(side.labels)).replace("'", "''") + "'"  # the reader takes * and [ for patterns
    table = f"read_parquet({path})"
    return table, {row[0] for row in database.execute(f"DESCRIBE FROM {table}").fetchall()}


def _config(spill: str) -> dict[str, Any]:
    return {"memory_limit": MEMORY, "temp_directory": spill, "preserve_insertion_order": "false"}


def _only(database: duckdb.DuckDBPyConnection, side: str, other: str, limit: int) -> tuple[int, list[str]]:
    """How many images only one side has, and the first keys of them."""
    query = f"FROM images_{side} ANTI JOIN images_{other} USING (key)"
    count = database.execute(f"SELECT count(*) {query}").fetchall()[0][0]
    return count, [key for (key,) in database.execute(f"SELECT key {query} ORDER BY key LIMIT {limit}").fetchall()]
