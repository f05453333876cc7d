"""Locks among processes, and one sentence where the system has none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from builder.store.locks import holder, sign, take_lock


def test_a_lock_is_held_until_its_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with open(path, "wb") as mine, open(path, "wb") as other:
        assert take_lock(mine, shared=True) and take_lock(other, shared=True)
        assert not take_lock(mine)  # the other shares it
    with open(path, "wb") as mine, open(path, "wb") as other:
        assert take_lock(mine) and not take_lock(other) and not take_lock(other, shared=True)
        mine.close()
        assert take_lock(other, wait=True)


def test_a_lock_says_who_holds_it_until_that_process_ends(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with open(path, "ab+") as mine, open(path, "rb") as other:
        assert take_lock(mine)
        sign(mine)
        assert re.fullmatch(rf" \(pid {os.getpid()}, .*since \d\d:\d\d\)", holder(other))
        for gone in ('{"pid": 2147483647, "command": "", "since": "2026-11-30T12:00:00+00:00"}', "[]", "", "{"):
            path.write_text(gone)
            assert holder(other) == ""


@pytest.mark.parametrize("command", [["scan", "images"], ["build", "recipe.yaml"], ["gc"]])
def test_a_system_without_locks_gets_a_sentence(tmp_path: Path, command: list[str]) -> None:
    """Windows has no `fcntl`: what a user would see there."""
    (tmp_path / "images").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "recipe.yaml").write_text("{name: a, pool: images, teacher: 'replay:none.json'}")
    code = "import sys; sys.modules['fcntl'] = None; from builder.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr == "Error: a store needs the file locks of a POSIX system: run tutelage on Linux, macOS or WSL\n"
