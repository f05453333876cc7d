"""`where`: one SQL expression over the columns of an object, run in a DuckDB that can see nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import numpy as np
import orjson
import pyarrow as pa

from builder.errors import BuildError

COLUMNS = (
    "class",
    "score",
    "x1",
    "y1",
    "x2",
    "y2",
    "width",
    "height",
    "area",
    "aspect",
    "image_width",
    "image_height",
    "name",
)
"""What an expression can name: pixels; aspect is width / height; name is the image's path in its source."""
OPTIONAL = ("agree", "uncertainty", "quality", "mask_area", "pixels")
"""What it can name where the teacher gives it: how many teachers of an ensemble found the object; uncertainty of its
box, in shares of its size; how good its mask is, and the mask's pixels; pixels of a map that the row stands for."""

FUNCTIONS = frozenset(
    "+ - * / // % ** ^ abs ceil ceiling floor round sqrt ln log10 exp pow greatest least lower upper length contains "
    "prefix suffix starts_with ends_with regexp_matches isnan isfinite "
    "~~ !~~ ~~* !~~* ~~~ like_escape not_like_escape".split()
)
NODES = frozenset("COMPARISON CONJUNCTION OPERATOR FUNCTION CONSTANT COLUMN_REF BETWEEN CASE CAST TYPE".split())
SETTINGS = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "threads": "1",
    "lock_configuration": "true",
}

_THREAD = threading.local()


class Where:
    """A checked expression. Raises BuildError if it is not one boolean expression over COLUMNS, OPTIONAL and FUNCTIONS.

    optional: the columns of OPTIONAL that it names.
    """

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.optional: frozenset[str] = frozenset()
        self._query = f"SELECT (\n{expression}\n) AS keep FROM objects"
        self._check()

    def __call__(self, columns: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """For columns of N objects: bool (N,) where the expression is true, and bool (N,) where it is NULL.

        Raises BuildError for a column that is not there."""
        if missing := sorted(self.optional - columns.keys()):
            raise BuildError(
                f"keep.where {self.expression!r} names {missing[0]!r}, which this teacher's predictions do not have: "
                "remove it, or label with a teacher that gives it"
            )
        table = pa.table({name: columns[name] for name in (*COLUMNS, *sorted(self.optional))})
        try:
            keep = _evaluated(self._query, table)
        except duckdb.Error as error:
            raise BuildError(f"keep.where {self.expression!r} failed: {str(error).splitlines()[0]}") from None
        if keep.type != pa.bool_():
            raise BuildError(f"keep.where {self.expression!r} gives {keep.type}: write a condition, such as area >= 64")
        null = np.asarray(keep.is_null())
        return np.asarray(keep.fill_null(False)), null

    def _check(self) -> None:
        rows = _sealed().execute("SELECT json_serialize_sql(?)", [self._query]).fetchall()
        tree = orjson.loads(rows[0][0])
        if tree["error"]:
            raise BuildError(f"keep.where {self.expression!r} is no SQL expression: {tree.get('error_message', '')}")
        nodes = [statement["node"] for statement in tree["statements"]]
        if len(nodes) != 1 or nodes[0]["type"] != "SELECT_NODE" or len(nodes[0]["select_list"]) != 1:
            raise BuildError(
                f"keep.where {self.expression!r} must be one expression, such as area >= 64 AND score > 0.6"
            )
        for node in _walk(nodes[0]["select_list"][0]):
            self._check_node(node)
        names = (*COLUMNS, *OPTIONAL)
        self({name: pa.array([], pa.string() if name in ("class", "name") else pa.float32()) for name in names})

    def _check_node(self, node: Mapping[str, Any]) -> None:
        if node["class"] not in NODES:
            raise BuildError(f"keep.where {self.expression!r} uses {node['class'].lower()}, which is not allowed there")
        if node["class"] == "FUNCTION" and node["function_name"] not in FUNCTIONS:
            allowed = " ".join(sorted(name for name in FUNCTIONS if name.isidentifier()))
            raise BuildError(f"keep.where {self.expression!r} calls {node['function_name']}: allowed are {allowed}")
        if node["class"] == "COLUMN_REF":
            name = ".".join(node["column_names"])
            if len(node["column_names"]) != 1 or name.lower() not in (*COLUMNS, *OPTIONAL):
                listed = f"{', '.join(COLUMNS)}, and where the teacher gives them {', '.join(OPTIONAL)}"
                raise BuildError(f"keep.where {self.expression!r} names {name!r}: the columns are {listed}")
            self.optional |= {name.lower()} & {*OPTIONAL}


def _evaluated(query: str, objects: pa.Table) -> pa.Array:
    database = _sealed()
    database.register("objects", objects)
    try:
        return database.sql(query).to_arrow_table()["keep"].combine_chunks()
    finally:
        database.unregister("objects")


def _sealed() -> duckdb.DuckDBPyConnection:
    """This thread's empty database: to connect takes longer than an expression over a block of objects."""
    if not hasattr(_THREAD, "database"):
        _THREAD.database = duckdb.connect(":memory:", config=dict(SETTINGS))
    database: duckdb.DuckDBPyConnection = _THREAD.database
    return database


def _walk(tree: Any) -> Iterator[Mapping[str, Any]]:
    """All nodes of DuckDB's serialised syntax tree."""
    if isinstance(tree, dict):
        if "class" in tree:
            yield tree
        for value in tree.values():
            yield from _walk(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _walk(value)
