"""`make bench`: its page is made of its JSON alone, and its rows run; what they measure is no matter of tests."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType, Any]]:
    """_compare, _page and the rows, as `python benchmarks` imports them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield import_module("_compare"), import_module("_page"), import_module("_rows").ROWS


def test_the_page_is_made_of_the_results(modules: Any) -> None:
    """Mend: `.venv/bin/python benchmarks --page`."""
    _, page, rows = modules
    results = page.read(ROOT / "docs")
    assert set(results) <= {row.name for row in rows}
    assert (ROOT / "docs" / page.PAGE).read_text() == page.page(results, rows)


def test_every_row_has_its_own_name_and_an_aim(modules: Any) -> None:
    rows = modules[2]
    assert len({row.name for row in rows}) == len(rows) > 10
    assert all(row.name.isidentifier() and row.title and row.aim for row in rows)


@pytest.mark.parametrize(
    ("ours", "theirs", "aim", "at_most", "expected"),
    [
        ([1, 2], [4, 4], 2, False, ("1.5 s", "4 s", "3 times as fast (2 to 4)", "≥ 2", "met")),
        ([1, 2], [4, 4], 3.5, False, ("1.5 s", "4 s", "3 times as fast (2 to 4)", "≥ 3.5", "**missed**")),
        ([3, 1], [4, 4], 0.4, True, ("2 s", "4 s", "0.5 of it (0.25 to 0.75)", "≤ 0.4", "**missed**")),
        ([1, 3], [4], None, True, ("2 s", "4 s", "0.5 of it (0.25 to 0.75)", "", "")),
        ([9], [], 10, True, ("9 s", "", "", "≤ 10 s", "met")),
    ],
)
def test_a_line(
    modules: Any, ours: list[float], theirs: list[float], aim: float | None, at_most: bool, expected: tuple[str, ...]
) -> None:
    compare, page, _ = modules
    cells = page.cells(compare.Comparison("work", ours, "peer" if theirs else "", theirs, aim, at_most))
    assert (cells[1], *cells[3:]) == expected


def test_a_row_that_runs_alone_changes_its_own_result(modules: Any, tmp_path: Path) -> None:
    compare, page, rows = modules
    before: dict[str, Any] = {}
    for row in (row for row in rows if row.name in ("fuse", "verify")):
        lines = list(row.run(compare.Run(tiny=True, rounds=2, folder=str(tmp_path))))
        assert lines and all(min(*line.ours, *line.theirs) > 0 for line in lines)
        page.save(tmp_path, row.name, page.Result("2026-01-31", "a machine", (0.1, 0.2), {"numpy": "2"}, lines), rows)
        results = page.read(tmp_path)
        assert {name: results[name] for name in before} == before and results.keys() - before == {row.name}
        assert row.name in (tmp_path / page.PAGE).read_text()
        before = results
