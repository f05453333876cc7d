"""A small share of each category of faults: none may end worse than the baseline says. `make faults` injects all."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import kills
from tests.faults.commands import run, start
from tests.faults.disk import operations
from tests.faults.table import BASELINE, Row, as_json, categories, from_json, go_through, markdown, small
from tests.faults.verdict import Verdict, judge
from tests.helpers.pools import write_images

ENOUGH = 120.0
"""Seconds for a share that takes a few on a machine with nothing else to do."""


@pytest.fixture(scope="module", autouse=True)
def _imports(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The process that commands are forked from, started once and on no category's time."""
    assert run("--version", cwd=tmp_path_factory.mktemp("first"), seconds=ENOUGH).code == 0


@pytest.mark.parametrize("name", categories())
def test_no_fault_ends_worse_than_the_baseline(name: str, tmp_path: Path) -> None:
    row = go_through(name, tmp_path, small(name))
    assert row.injected > 0
    assert not row.worse(json.loads(BASELINE.read_text()))
    assert row.seconds < ENOUGH


def test_a_command_in_a_fork_is_the_command(tmp_path: Path) -> None:
    write_images(tmp_path / "pool", 3)
    ran = run("scan", "pool", "--json", cwd=tmp_path, trace=tmp_path / "trace")
    assert (ran.code, ran.ended) == (0, "exit"), ran.stderr
    assert json.loads(ran.stdout)["images"] == 3
    assert (tmp_path / "store" / "pools").is_dir()
    assert any(line.startswith("os.fsync") for line in operations(tmp_path / "trace"))
    assert judge(run("scan", "nowhere", cwd=tmp_path)) is Verdict.REFUSED
    assert judge(run("scan", cwd=tmp_path)) is Verdict.REFUSED


def test_a_command_is_killed_at_an_operation_or_when_told(tmp_path: Path) -> None:
    write_images(tmp_path / "pool", 3)
    assert run("scan", "pool", cwd=tmp_path, kill_at=1).code == -signal.SIGKILL
    assert not list((tmp_path / "store").rglob("pool.parquet"))
    running = start("scan", "pool", cwd=tmp_path)
    running.send(signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    late = run("scan", "pool", cwd=tmp_path, seconds=0.0)
    assert late.ended == "time"
    assert judge(late) is Verdict.HANG
    large = run("scan", "pool", cwd=tmp_path, memory=1 << 20)
    assert judge(large) is Verdict.MEMORY


def test_a_category_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
        yield "one", Verdict.REFUSED, ""
        yield "two", Verdict.HANG, "for\never"
        raise OSError("the category itself")

    monkeypatch.setattr(kills, "inject", inject)
    told: list[str] = []
    row = from_json(as_json(go_through("kills", tmp_path, 0.5, told.append)))
    assert (row.injected, row.good, row.bad["hang"]) == (2, {"refused": 1}, [["two", "for ever"]])
    assert "the category itself" in row.bad["broken"][0][1] and len(told) == 2


def test_a_row_is_worse_where_more_ends_badly_or_less_is_injected() -> None:
    row = Row("kills", "kill -9", 1.0, injected=3, good={"refused": 1}, bad={"hang": [("b", "x"), ("aa", "y")]})
    assert row.worse({"kills": {"injected": 3, "hang": 2}}) == []
    assert "2 x hang instead of 1" in row.worse({"kills": {"hang": 1}})[0]
    assert "3 faults injected instead of 4" in row.worse({"kills": {"injected": 4, "hang": 2}})[0]
    assert "| kill -9 | 3 | 1 (1 refused) | **2 hang** (`b`, `aa`)" in markdown([row])
    assert from_json(as_json(row)).worse({}) == row.worse({})
