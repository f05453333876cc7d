"""Hostile `keep.where` expressions: none reads or writes anything, none hangs, and NaN keeps nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb

from builder.rules.where import FUNCTIONS
from tests.faults.commands import run
from tests.faults.verdict import Verdict, judge
from tests.faults.workplace import evenly
from tests.helpers.pools import write_images, write_recipe, write_results

ROW = "`where`"
SMALL = 0.02
SECRET = "canary-7e57"
"""What a file and an environment variable hold that no expression may see."""
FILES = ("secret.txt", "secret.csv", "secret.json", "secret.parquet")
ESCAPES = (
    "area >= 1; DROP TABLE objects", "area >= 1; ATTACH 'new.db'", "area >= 1; COPY objects TO 'out.csv'",
    "area >= 1; INSTALL httpfs", "area >= 1; LOAD httpfs", "area >= 1; SET threads = 64",
    "area >= 1; SET enable_external_access = true", "area >= 1; PRAGMA version", "area >= 1; EXPORT DATABASE 'out'",
    "1=1) UNION SELECT (2=2", "1=1) AS a, (2=2", "1=1) FROM 'secret.csv' --", "1=1) FROM read_csv('secret.csv') --",
    "(SELECT 1) = 1", "EXISTS (SELECT 1)", "score IN (SELECT 1)", "score > ANY (SELECT 1)", "(FROM objects) IS NULL",
    "(SELECT count(*) FROM 'secret.csv') > 0", "(SELECT content FROM read_text('secret.txt')) = 'x'",
    "(FROM duckdb_settings() SELECT count(*)) > 0", "(WITH RECURSIVE t AS (SELECT 1) SELECT 1 FROM t) = 1",
    "sum(x1) OVER () > 1", "row_number() OVER () > 1", "COLUMNS(*) > 1", "* > 1", "objects.score > 1", "main.objects > 1",
    "[score] = [1]", "score[1] > 0", "{'a': score} IS NULL", "(x -> x > 1) IS NULL", "list_transform([1], x -> x) = [1]",
    "score COLLATE nocase = 'a'", "$1 > 0", "? > 0", "getvariable('x') = 1", "CURRENT_USER = 'x'", "today() > NULL",
    "CAST(score AS INTEGER[]) IS NULL", "score::STRUCT(a INTEGER) IS NULL",
    "area", "'text'", "NULL", "1", "", ";", "--", "/*", "(", ")", "'", '"', '"score', "score >", "> 1",
    "score == 1 ==", "SELECT 1", "score > 1 LIMIT 1", "score > 1 ORDER BY score", "score > 1 GROUP BY 1", "True AS keep",
    "colour = 'red'", "class.name = 'a'", "\u202escore > 1", "score\u00a0>\u00a01\ud7ff", "\u2018cat\u2019 = class", "score ≥ 1",
    "CASE WHEN", "score BETWEEN 1", "class LIKE 'a' ESCAPE 'ab'", "regexp_matches(class, '(')",
    "regexp_matches(class, '((a{999}){999}){999}')", "CAST('x' AS FLOAT) > 1", "CAST(class AS FLOAT) > 1",
)  # fmt: skip
"""None is one condition over the columns and functions that there are."""
LARGE: dict[str, str] = {
    "50,000 ANDs": " AND ".join(["score > 0"] * 50_000),
    "20,000 classes": f"class IN ({', '.join(repr(f'class {n}') for n in range(20_000))})",
    "a sum of 500": " + ".join(["score"] * 500) + " > 1",
    "500 brackets": "(" * 500 + "score > 1" + ")" * 500,
    "5,000 brackets": "(" * 5_000 + "score > 1" + ")" * 5_000,
    "400 minus signs": "- " * 400 + "score > 1",
    "400 NOTs": "NOT " * 400 + "(score > 1)",
    "CASE in CASE": "(CASE WHEN " * 12 + "x1" + " > 0 THEN x1 ELSE x2 END)" * 12 + " > 0",
    "a megabyte of text": f"class = '{'x' * 100_000}'",
}
"""Name -> what is too long or too deep, or holds of no object."""
NAN = (
    "sqrt(-1) > 0", "sqrt(-score) >= 0", "NOT sqrt(-1) > 0", "sqrt(-1) = sqrt(-1)", "sqrt(-1) <> sqrt(-1)", "ln(-1) < 0",
    "ln(-score) > -1", "log10(-1) IN (1, 2)", "sqrt(-1) NOT IN (1, 2)", "pow(-1, 0.5) BETWEEN 0 AND 1",
    "score BETWEEN 0 AND sqrt(-1)", "(x1 - x1) / 0 > 1", "0 / 0 > 1", "score % 0 > 1", "CAST(sqrt(-1) AS BOOLEAN)",
    "CAST('nan' AS FLOAT) > 0", "CASE WHEN sqrt(-1) > 0 THEN TRUE ELSE FALSE END", "greatest(sqrt(-1), 1) > 0",
    "abs(sqrt(-1)) > 0", "round(sqrt(-1)) > 0", "-sqrt(-1) < 0", "sqrt(-1) + area > 0", "(sqrt(-1) > 0) = TRUE",
    "(score / 0) - (score / 0) > 0", "exp(1000) - exp(1000) = 0", "sqrt(-1) > 0 AND score > 0",
    "TRY_CAST('nan' AS DOUBLE) >= 0", "class = E'\\\\x'", "x'00' = 'a'", "`score` > 1", "sqrt(-1)", "CASE sqrt(-1) WHEN sqrt(-1) THEN TRUE END",
)  # fmt: skip
"""What holds of no object: nearly all of them compare a NaN."""
HOLDS = (
    "score / 0 > 1", "-score / 0 < 0", "exp(1000) > 1", "isnan(sqrt(-1))", "sqrt(-1) > 0 OR score >= 0",
    "CASE WHEN x1 < 0 THEN sqrt(x1) > 0 ELSE TRUE END", "sqrt(-1) IS DISTINCT FROM 1", "NOT isfinite(score / 0)",
    "class LIKE '%'", "name ILIKE '%.JPG'", "score >= 0 -- a remark", "length(name) > 3 /* another */",
)  # fmt: skip
"""What holds of every object, infinities included."""


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Expressions of all kinds, and a call of every function that DuckDB has and `where` has not."""
    names = write_images(folder / "pool", 3)
    write_results(folder, names)
    write_recipe(folder)
    for name in FILES:
        (folder / name).write_text(f"a,b\n{SECRET},1\n")
    built = run("build", "recipe.yaml", "--no-report", cwd=folder)
    assert built.code == 0, built.stderr
    kept = _objects(folder / "store/datasets/pets/v1")
    before = _outside(folder)
    expected: list[tuple[str, str, Callable[[], bool]]] = []
    expected += [(f"{text[:60]!r}", text, lambda: False) for text in ESCAPES]
    expected += [(name, text, lambda: _kept(folder) == 0) for name, text in LARGE.items()]
    expected += [(text, text, lambda: _kept(folder) == 0) for text in NAN]
    expected += [(text, text, lambda: _kept(folder) == kept) for text in HOLDS]
    expected += [(text, text, lambda: False) for text in _calls()]
    for name, expression, right in evenly(expected, share):
        for version in _others(folder):
            shutil.rmtree(version)
        (folder / "recut.yaml").write_text("x")
        command = ("recut", "pets@v1", "--set", f"keep.where={_quoted(expression)}", "--allow-empty")
        if len(expression) > 100_000:  # more than an argument may have
            text = (folder / "recipe.yaml").read_text().replace("keep:", f"keep:\n  where: {_quoted(expression)}", 1)
            (folder / "recut.yaml").write_text(text)
            command = ("build", "recut.yaml", "--no-report", "--allow-empty")
        ran = run(*command, cwd=folder, env={"TUTELAGE_SECRET": SECRET}, seconds=20)
        verdict = judge(ran, right)
        if SECRET in ran.stdout + ran.stderr or _outside(folder) != before:
            verdict = Verdict.SILENT
        yield name, verdict, ran.stderr


def _calls() -> list[str]:
    """A call with each number of arguments, up to two, of the functions that are not allowed."""
    rows = duckdb.sql("SELECT DISTINCT function_name FROM duckdb_functions() ORDER BY 1").fetchall()
    names = [name for (name,) in rows if name.isidentifier() and name not in FUNCTIONS]
    files = [
        f"{name}('{file}') IS NULL"
        for name in names
        if name.startswith(("read_", "glob", "parquet", "sniff"))
        for file in FILES
    ]
    return (
        files + [f"{name}({('', 'score', 'class, class')[place % 3]}) IS NULL" for place, name in enumerate(names)][::4]
    )


def _quoted(expression: str) -> str:
    return "'" + expression.replace("'", "''") + "'"


def _others(folder: Path) -> list[Path]:
    """The versions besides the first."""
    found = (folder / "store/datasets/pets").iterdir()
    return [path for path in found if path.is_dir() and path.name.startswith("v") and path.name != "v1"]


def _kept(folder: Path) -> int:
    """Objects that the version which a command made keeps, -1 if it made none."""
    return sum(map(_objects, _others(folder))) if _others(folder) else -1


def _objects(version: Path) -> int:
    return int(json.loads((version / "manifest.json").read_text())["objects"].get("kept", 0))


def _outside(folder: Path) -> list[str]:
    """The files outside the store."""
    return sorted(str(path) for path in folder.rglob("*") if path.name != "recut.yaml" and "store" not in path.parts)
