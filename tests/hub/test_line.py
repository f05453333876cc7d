"""The line to the Hub: whom the token goes to, and how long and how much may come."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.hub import line
from builder.hub.client import Hub
from builder.hub.repository import HubError
from tests.helpers.hostile_servers import NONSENSE, Elsewhere, next_page_at, running
from tests.helpers.hub_server import WRITER, host, use_hub

REPO = "org/pets"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "files").mkdir()
    (tmp_path / "files/README.md").write_text("hello")
    host(tmp_path / "hub", REPO, tmp_path / "files")
    return tmp_path


def test_the_token_stays_with_the_hub(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Elsewhere.listening() as other:
        wrong = next_page_at(f"http://127.0.0.2:{other.port}/next")
        with running(files / "hub", {"/api/datasets/org/pets/tree": wrong}) as server:
            use_hub(monkeypatch, server.url, files)
            assert Hub(REPO).tree("main") == {}
            assert Hub(REPO).refs().tags  # which the token was shown for
        assert server.shown and other.heard
        assert not any(WRITER.encode() in heard for heard in other.heard)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("null", "its answer makes no sense"),
        ("HTML", "its answer makes no sense"),
        ("a commit that leads out", "as a commit of org/pets"),
        ("endless", "sends more for org/pets than"),
        ("a bomb", "packs its answers"),
        ("429 for a year", "in 31536000 s run the same command again"),
        ("redirect to a file", "cannot be reached for org/pets"),
    ],
)
def test_a_hub_that_answers_wrongly(files: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.setattr(line, "MOST_ANSWER", 1 << 20)
    with running(files / "hub", {"/api/datasets/org/pets": NONSENSE[name]}) as server:
        use_hub(monkeypatch, server.url, files)
        with pytest.raises(HubError) as told:
            Hub(REPO).resolve("v1")
    assert words in str(told.value) and "\n" not in str(told.value) and WRITER not in str(told.value)


def test_a_call_that_gets_nowhere_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = line.Call(REPO, 1, False, since=0.0)
    monkeypatch.setattr("time.monotonic", lambda: 301.0)
    with pytest.raises(HubError, match="has brought 0 bytes of org/pets in 301 s"):
        slow.check(60.0)
    slow.received = 2 << 10
    slow.check(60.0)
    slow.requests = line.MOST_REQUESTS + 1
    with pytest.raises(HubError, match="more than 5000 parts"):
        slow.check(60.0)
