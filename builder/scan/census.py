"""A scan's private database: what is listed now, what the last scan knew, and the order the two come to.

It is a temporary file that SQLite removes with the connection, so memory stays flat however many images there are.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby, islice, repeat
from operator import itemgetter
from typing import Any

import orjson

from builder.errors import BuildError
from builder.scan.entries import Entry
from builder.scan.pool import COLUMNS, REMOVED, UNREADABLE
from teachers.limits import MAX_PIXELS, MAX_SIDE

Row = tuple[Any, ...]
ENTRY = ("name", "uri", "offset", "bytes", "mtime_ns")
CACHE_KB = 4096


def _columns(table: str, **other: str) -> str:
    return ", ".join(other.get(field, f"{table}.{field}") for field in COLUMNS)


class Census:
    """The tables of one scan. Call `enlist` and `remember`, read and `add` what is `unread`, then `arrange`.

    max_pixels: an image that was readable before and has more is read again, to say so. Raises BuildError if the
    system's temporary folder has no room for them. Not for use by several threads.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self._known = (  # a file that was read before (with all that is read of a file now) and has not changed since
            " AND ".join(f"b.{field} = f.{field}" for field in ENTRY)
            + " AND b.state <> 'removed' AND b.sha256 <> '' AND b.dhash IS NOT NULL"
            + f" AND b.width * b.height <= {int(max_pixels)} AND max(b.width, b.height) <= {MAX_SIDE}"
        )
        self._db = sqlite3.connect("", isolation_level=None)
        fields = ", ".join(COLUMNS)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            f"PRAGMA cache_size = -{CACHE_KB}",
            "PRAGMA temp_store = FILE",
            "BEGIN",
            f"CREATE TABLE found ({', '.join(ENTRY)}, PRIMARY KEY (name, uri, offset)) WITHOUT ROWID",
            f"CREATE TABLE before (position INTEGER PRIMARY KEY, {fields})",
            f"CREATE TABLE now ({fields}, PRIMARY KEY (name)) WITHOUT ROWID",
            f"CREATE TABLE ordered (position INTEGER PRIMARY KEY, {fields})",
            "CREATE TABLE holder (sha256 PRIMARY KEY, name) WITHOUT ROWID",
        ):
            self._do(statement)

    def close(self) -> None:
        self._db.close()

    def _do(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.OperationalError as error:
            raise _no_room(error) from error

    def _insert(self, table: str, fields: Sequence[str], rows: Iterable[Row]) -> None:
        sql = f"INSERT OR IGNORE INTO {table} ({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))})"
        try:
            self._db.executemany(sql, rows)
        except sqlite3.OperationalError as error:
            raise _no_room(error) from error

    def _one(self, sql: str, values: Sequence[Any] = ()) -> Any:
        row = self._do(sql, values).fetchone()
        return row[0] if row else None

    def enlist(self, entries: Iterable[Entry], source: str, limit: int | None = None) -> int:
        """Take in what a source holds and return how many images that is. `limit`: only that many, those with the
        smallest hash of their name. Raises BuildError if two images share a name."""
        self._insert("found", ENTRY, ((e.name, e.uri, e.offset, e.bytes, e.mtime_ns) for e in entries))
        twice = self._one("SELECT name FROM found GROUP BY name HAVING count(*) > 1 ORDER BY name LIMIT 1")
        if twice is not None:
            first, second = [row[0] for row in self._do("SELECT uri FROM found WHERE name = ? LIMIT 2", (twice,))]
            raise BuildError(f"two images of {source} are named {twice!r}: rename one of {first} and {second}")
        if limit is not None:
            self._db.create_function("rank", 1, lambda name: hashlib.sha256(name.encode()).digest(), deterministic=True)
            self._do("CREATE TABLE sample (name PRIMARY KEY) WITHOUT ROWID")
            self._do("INSERT INTO sample SELECT name FROM found ORDER BY rank(name) LIMIT ?", (limit,))
            self._do("DELETE FROM found WHERE name NOT IN (SELECT name FROM sample)")
        return int(self._one("SELECT count(*) FROM found"))

    @property
    def size(self) -> int:
        """Bytes of all images listed."""
        return int(self._one("SELECT coalesce(sum(bytes), 0) FROM found"))

    @property
    def is_remote(self) -> bool:
        """Whether one of the images is not on this machine's disks."""
        return bool(self._one("SELECT 1 FROM found WHERE uri GLOB '*://*' LIMIT 1"))

    def remember(self, rows: Iterable[Row]) -> None:
        """Take in what the last scan of the same source found: rows of COLUMNS in their order. A dhash of None: that
        scan made none, so the image is read again."""
        self._insert("before", COLUMNS, rows)
        self._do("CREATE INDEX before_name ON before (name)")
        self._do("CREATE INDEX before_sha256 ON before (sha256) WHERE chunk >= 0")

    def forget(self) -> None:
        """Give up what `remember` took in, of a pool that turned out to be damaged."""
        self._do("DELETE FROM before")

    def doubt_turned_tiffs(self) -> None:
        """Have TIFFs with an orientation read again, which older scans turned twice."""
        self._do("UPDATE before SET dhash = NULL WHERE format = 'tif' AND orientation <> 1")

    def known(self) -> int:
        """How many of the listed images need not be read again."""
        return int(self._one(f"SELECT count(*) FROM found f JOIN before b ON {self._known}"))

    def unread(self) -> Iterator[Entry]:
        """The listed images that must be read, by name."""
        columns = ", ".join(f"f.{field}" for field in ENTRY)
        missing = f"NOT EXISTS (SELECT 1 FROM before b WHERE {self._known})"
        for row in self._do(f"SELECT {columns} FROM found f WHERE {missing} ORDER BY f.name"):
            yield Entry(*row)

    def add(self, rows: Iterable[Row]) -> None:
        """Take in what was read: rows of COLUMNS."""
        self._insert("now", COLUMNS, rows)

    def is_unchanged(self) -> bool:
        """Whether the last scan found the very same images. Call it after the unread ones were added."""
        same = ("sha256", *ENTRY, "dhash", "state", "error")
        again = " AND ".join(f"b.{field} = n.{field}" for field in same)
        read = self._one(f"SELECT count(*) FROM now n JOIN before b ON {again}")
        live = self._one("SELECT count(*) FROM before WHERE state <> 'removed'")
        return bool(self._one("SELECT count(*) FROM found") == live == self.known() + read)

    def arrange(self, chunk_size: int) -> None:
        """Put all in order: old chunks as they were (gone images as `removed`), then new images by name in new chunks
        of `chunk_size`, then those outside all chunks: the unreadable, and the duplicates of an image in a chunk.

        Of images with the same bytes, one holds their place in a chunk: the one that held it before, or the first by
        name.
        """
        was = "b.state = 'duplicate'"
        state, error = f"CASE WHEN {was} THEN 'ok' ELSE b.state END", f"CASE WHEN {was} THEN '' ELSE b.error END"
        known = _columns("b", chunk="-1", state=state, error=error)
        names = ", ".join(COLUMNS)
        self._do(
            f"INSERT INTO now ({names}) SELECT {known} FROM found f JOIN before b ON {self._known} ORDER BY f.name"
        )
        first = "row_number() OVER (PARTITION BY n.sha256 ORDER BY b.key IS NOT n.key, n.name)"
        self._do(
            f"INSERT INTO holder SELECT sha256, name FROM (SELECT n.sha256, n.name, {first} AS place FROM now n "
            "LEFT JOIN before b ON b.sha256 = n.sha256 AND b.chunk >= 0 AND b.state <> 'removed' "
            "WHERE n.sha256 <> '') WHERE place = 1"
        )
        old = {field: f"CASE WHEN n.name IS NULL THEN coalesce(b.{field}, '') ELSE n.{field} END" for field in COLUMNS}
        old |= {"chunk": "b.chunk", "state": "coalesce(n.state, 'removed')", "error": "coalesce(n.error, '')"}
        self._do(
            f"INSERT INTO ordered ({names}) SELECT {_columns('b', **old)} FROM before b "
            "LEFT JOIN holder h ON h.sha256 = b.sha256 LEFT JOIN now n ON n.name = h.name "
            "WHERE b.chunk >= 0 ORDER BY b.position"
        )
        start = int(self._one("SELECT coalesce(max(chunk), -1) + 1 FROM before"))
        new = _columns("n", chunk=f"{start} + (row_number() OVER (ORDER BY n.name) - 1) / {int(chunk_size)}")
        self._do(
            f"INSERT INTO ordered ({names}) SELECT {new} FROM now n JOIN holder h ON h.name = n.name WHERE NOT EXISTS "
            "(SELECT 1 FROM before b WHERE b.sha256 = h.sha256 AND b.chunk >= 0) AND n.sha256 <> '' ORDER BY n.name"
        )
        alone = "n.sha256 = '' OR n.state = 'unreadable'"
        rest = {
            "chunk": "-1",
            "state": f"CASE WHEN {alone} THEN n.state ELSE 'duplicate' END",
            "error": f"CASE WHEN {alone} THEN n.error ELSE 'same bytes as ' || h.name END",
        }
        self._do(
            f"INSERT INTO ordered ({names}) SELECT {_columns('n', **rest)} FROM now n "
            "LEFT JOIN holder h ON h.sha256 = n.sha256 WHERE h.name IS NULL OR h.name <> n.name ORDER BY n.name"
        )

    def ordered(self, fields: Sequence[str] = COLUMNS) -> Iterator[Row]:
        """The rows as `arrange` put them."""
        yield from self._do(f"SELECT {', '.join(fields)} FROM ordered ORDER BY position")

    def summary(self) -> tuple[str, dict[str, Any]]:
        """The id of the pool, which is a function of key, sha256, chunk and state of its rows, and what its file says
        of itself."""
        id, comma = hashlib.sha256(b"["), b""
        chunks: list[tuple[str, int, int]] = []
        counts, formats, lost = Counter[str](), set[tuple[str, bool]](), 0
        fields = ("chunk", "key", "sha256", "state", "bytes", "format", "orientation")
        for chunk, rows in groupby(self.ordered(fields), key=itemgetter(0)):
            hashes, size = [], 0
            for _, key, sha256, state, length, format, orientation in rows:
                id.update(comma + orjson.dumps([key, sha256, chunk, state]))
                comma = b","
                hashes.append(sha256)
                size += length
                counts[state] += 1
                lost += state == UNREADABLE and chunk < 0
                if format and state != REMOVED:
                    formats.add((format, orientation != 1))
                if chunk < 0:
                    hashes.clear()
            if chunk >= 0:
                chunks.append((hashlib.sha256("\n".join(hashes).encode()).hexdigest(), len(hashes), size))
        id.update(b"]")
        return id.hexdigest(), {"chunks": chunks, "counts": counts, "formats": sorted(formats), "lost": lost}

    def groups(self, sizes: Iterable[int], rows_at_least: int) -> Iterator[list[Row]]:
        """All rows in lists of whole chunks, those outside all chunks in lists of their own."""
        rows, wanted = self.ordered(), 0
        for size in sizes:
            wanted += size
            if wanted >= rows_at_least:
                yield list(islice(rows, wanted))
                wanted = 0
        for count in chain([wanted], repeat(rows_at_least)):
            if rows_read := list(islice(rows, count)):
                yield rows_read
            elif count:
                return


def _no_room(error: Exception) -> BuildError:
    return BuildError(
        f"a scan needs a temporary file and cannot write it ({error}): make room, or set TMPDIR elsewhere"
    )
