"""`where`: one SQL expression over the columns of an object, run in a DuckDB that can see nothing else."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import duckdb
import numpy as np
import orjson
import pyarrow as pa

from builder.errors import BuildError, brief

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

LONGEST = 20_000
"""Characters of an expression: a list of a thousand class names fits; DuckDB's time grows with their square."""
DEEPEST = 64
"""Levels that an expression may be nested: a sum of so many terms, too. Python's stack holds many more."""
MOST_NODES = 20_000
"""Nodes of its syntax tree when each number that is compared is asked whether it is NaN."""
NUMBERS = frozenset({"FLOAT", "DOUBLE"})
"""DuckDB's types that hold NaN."""
OPERANDS: Mapping[str, tuple[str, ...]] = {
    "COMPARISON": ("left", "right"),
    "BETWEEN": ("input", "lower", "upper"),
    "CONJUNCTION": ("children",),
    "OPERATOR": ("children",),
    "CASE": ("case_checks",),
    "CAST": ("child",),
}
"""Nodes that make a truth value, or anything else that is no number, of what stands below them at these keys."""
NAN_IS_A_VALUE = frozenset(
    "COMPARE_DISTINCT_FROM COMPARE_NOT_DISTINCT_FROM OPERATOR_IS_NULL OPERATOR_IS_NOT_NULL OPERATOR_COALESCE "
    "OPERATOR_TRY".split()
)
"""Types of these nodes for which NaN is a value as any other, since they ask for more than whether a number is."""
NAN_AS_NULL = "SELECT CASE WHEN isnan(CAST(x AS DOUBLE)) THEN NULL ELSE x END"

_THREAD = threading.local()


class Answer(NamedTuple):
    """What an expression says of N objects, bool (N,) each. true: it holds; null: it is NULL; nan: it would have
    compared a NaN, which is neither more nor less than any number. At most one is true of an object."""

    true: np.ndarray
    null: np.ndarray
    nan: np.ndarray


class Where:
    """A checked expression. Raises BuildError if it is not one boolean expression over COLUMNS, OPTIONAL and FUNCTIONS,
    or longer or deeper than LONGEST and DEEPEST.

    A comparison with NULL or NaN is neither true nor false, and so is what hangs on it. Infinite numbers are compared
    as numbers. All FUNCTIONS take time that grows in proportion to their text (regular expressions are RE2's).
    optional: the columns of OPTIONAL that it names.
    """

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.optional: frozenset[str] = frozenset()
        if len(expression) > LONGEST:
            raise self._error(f"has {len(expression):,} characters: shorten it to {LONGEST:,}, the most that are read")
        self._as_written = f"SELECT (\n{expression}\n) AS keep FROM objects"
        self._query = self._check()
        self._evaluate(_no_objects())

    def __call__(self, columns: Mapping[str, Any]) -> Answer:
        """What it says of the objects of these columns. Raises BuildError for a column that is not there."""
        if missing := sorted(self.optional - columns.keys()):
            raise self._error(
                f"names {missing[0]!r}, which this teacher's predictions do not have: remove it, or label with a "
                "teacher that gives it"
            )
        return self._evaluate(pa.table({name: columns[name] for name in (*COLUMNS, *sorted(self.optional))}))

    def _evaluate(self, objects: pa.Table) -> Answer:
        try:
            keep = _evaluated(self._query, objects)
            null = np.asarray(keep.is_null())
            # NaN counts as NULL in the query; what is NULL as it was written, too, has no NaN
            as_written = _evaluated(self._as_written, objects) if null.any() else keep
        except duckdb.Error as error:
            raise self._error(f"failed: {brief(error)}") from None
        if keep.type != pa.bool_():
            raise self._error(f"gives {keep.type}: write a condition, such as area >= 64")
        nan = null & np.asarray(as_written.is_valid())
        return Answer(np.asarray(keep.fill_null(False)), null & ~nan, nan)

    def _check(self) -> str:
        """The query, in which a NaN that is compared is NULL."""
        try:
            tree = _serialized(self._as_written)
        except (duckdb.Error, orjson.JSONDecodeError):  # a lone surrogate; more levels than orjson reads
            raise self._error(f"is no text, or nested deeper than {DEEPEST} levels: simplify it") from None
        if tree["error"]:
            raise self._error(f"is no SQL expression: {brief(tree.get('error_message', ''))}")
        nodes = [statement["node"] for statement in tree["statements"]]
        if len(nodes) != 1 or nodes[0]["type"] != "SELECT_NODE" or len(nodes[0]["select_list"]) != 1:
            raise self._error("must be one expression, such as area >= 64 AND score > 0.6")
        expression = nodes[0]["select_list"][0]
        if _depth(expression) > DEEPEST:
            raise self._error(f"is nested deeper than {DEEPEST} levels: simplify it")
        for node in _walk(expression):
            self._check_node(node)
        try:
            return _with_nan_as_null(tree)
        except duckdb.Error as error:
            raise self._error(f"failed: {brief(error)}") from None
        except OverflowError:
            raise self._error("has conditions within conditions within conditions: simplify it") from None

    def _check_node(self, node: Mapping[str, Any]) -> None:
        if node["class"] not in NODES:
            raise self._error(f"uses {node['class'].lower()}, which is not allowed there")
        if node["class"] == "FUNCTION" and node["function_name"] not in FUNCTIONS:
            allowed = " ".join(sorted(name for name in FUNCTIONS if name.isidentifier()))
            raise self._error(f"calls {brief(node['function_name'])}: allowed are {allowed}")
        if node["class"] == "COLUMN_REF":
            name = ".".join(node["column_names"])
            if len(node["column_names"]) != 1 or name.lower() not in (*COLUMNS, *OPTIONAL):
                listed = f"{', '.join(COLUMNS)}, and where the teacher gives them {', '.join(OPTIONAL)}"
                raise self._error(f"names {brief(name)!r}: the columns are {listed}")
            self.optional |= {name.lower()} & {*OPTIONAL}

    def _error(self, what: str) -> BuildError:
        return BuildError(f"keep.where {brief(self.expression)!r} {what}")


def _with_nan_as_null(tree: Any) -> str:
    """The query of a syntax tree, in which every number that a comparison or another condition reads is NULL where it
    is NaN. Raises OverflowError for one that grows beyond MOST_NODES by this, as a condition in a number in a condition
    does, and duckdb.Error for what has no types."""
    node = tree["statements"][0]["node"]
    places = [place for inner in _walk(node["select_list"][0]) for place in _operands(inner)]
    types: list[str] = []
    if places:
        listed = copy.deepcopy(tree)
        listed["statements"][0]["node"]["select_list"] = [{**holder[key], "alias": ""} for holder, key, _ in places]
        with _asked(_sql(listed), _no_objects()) as columns:
            types = [str(kind) for kind in columns.types]
    numeric = {id(parent) for (_, _, parent), kind in zip(places, types, strict=True) if kind in NUMBERS}
    template = _serialized(NAN_AS_NULL)["statements"][0]["node"]["select_list"][0]
    size = sum(1 for _ in _walk(node["select_list"][0]))
    # the innermost first, so that what is asked twice is asked of what has been asked already
    for (holder, key, parent), kind in reversed(list(zip(places, types, strict=True))):
        operand = holder[key]
        if kind not in NUMBERS and not (kind == "VARCHAR" and id(parent) in numeric):  # 'nan' becomes a number there
            continue
        size += sum(1 for _ in _walk(operand)) + 4
        if size > MOST_NODES:
            raise OverflowError
        wrapped = copy.deepcopy(template)
        wrapped["case_checks"][0]["when_expr"] = _filled(wrapped["case_checks"][0]["when_expr"], operand)
        wrapped["else_expr"] = operand
        holder[key] = wrapped
    return _sql(tree)


def _operands(node: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Where what a node compares hangs in it: the holder, the key or place in it, and the node."""
    if node["type"] in NAN_IS_A_VALUE:
        return
    for name in OPERANDS.get(node["class"], ()):
        below = node[name]
        if not isinstance(below, list):
            yield node, name, node
        elif name == "case_checks":
            yield from ((check, "when_expr", node) for check in below)
        else:
            yield from ((below, place, node) for place in range(len(below)))


def _filled(template: Any, operand: Any) -> Any:
    """A template with the operand in place of its column x."""
    if isinstance(template, dict):
        if template.get("class") == "COLUMN_REF":
            return copy.deepcopy(operand)
        return {key: _filled(value, operand) for key, value in template.items()}
    return [_filled(value, operand) for value in template] if isinstance(template, list) else template


def _serialized(query: str) -> Any:
    """A query's syntax tree, as DuckDB tells it."""
    return orjson.loads(_sealed().execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0])


def _sql(tree: Any) -> str:
    """The query of such a tree."""
    rows = _sealed().execute("SELECT json_deserialize_sql(?)", [orjson.dumps(tree).decode()]).fetchall()
    return str(rows[0][0])


def _no_objects() -> pa.Table:
    names = (*COLUMNS, *OPTIONAL)
    return pa.table({name: pa.array([], pa.string() if name in ("class", "name") else pa.float32()) for name in names})


def _evaluated(query: str, objects: pa.Table) -> pa.Array:
    with _asked(query, objects) as answer:
        return answer.to_arrow_table()["keep"].combine_chunks()


@contextmanager
def _asked(query: str, objects: pa.Table) -> Iterator[duckdb.DuckDBPyRelation]:
    """The result of a query of these objects, which DuckDB works out within the block."""
    database = _sealed()
    database.register("objects", objects)
    try:
        yield database.sql(query)
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


def _depth(tree: Any) -> int:
    """Nodes on the longest way down; without recursion, since a hostile tree is deep."""
    deepest, left = 0, [(tree, 0)]
    while left:
        part, depth = left.pop()
        depth += isinstance(part, dict) and "class" in part
        deepest = max(deepest, depth)
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
        left += [(value, depth) for value in inner]
    return deepest
