"""Servers in the place of the Hub, which answer wrongly, slowly, endlessly or not at all: `pull` and `publish` meet
them, then a good one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock

from tests.faults.commands import Ran, start
from tests.faults.verdict import Verdict, judge
from tests.helpers.hostile_servers import NONSENSE, Answer, Elsewhere, leads_to, next_page_at, running, says
from tests.helpers.hub_server import WRITER, host

SERVERS = 160
"""At full size."""
TOGETHER = 8
"""At a time: most of them wait."""
ONE_AT_A_TIME = Lock()
"""Commands are started one after the other."""
TIMEOUT = 1
"""Seconds of silence that a command bears here; 60 otherwise."""
LONGEST = 60.0
"""Seconds that a command may take all the same: five waits, and those in between."""
PULL = (
    "/api/datasets/org/pets/revision",
    "HEAD /datasets/org/pets/resolve",
    "GET /datasets/org/pets/resolve",
    "/storage/",
)
PUBLISH = (
    *("/api/datasets/org/pets/refs", "/api/datasets/org/pets/commits", "/api/datasets/org/pets/tree", "/preupload/"),
    *("/objects/batch", "PUT /storage/", "POST /api/datasets/org/pets/commit/", "POST /api/datasets/org/pets/tag"),
    *("/api/repos/create", "GET /api/datasets/org/pets"),
)


def servers(folder: Path, version: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """version: one of a dataset `pets`."""
    with Elsewhere.listening() as other:
        cases = list(_cases(f"http://127.0.0.2:{other.port}/"))
        count = max(2, round(share * min(SERVERS, len(cases))))
        chosen = [cases[n * len(cases) // count] for n in range(min(count, len(cases)))]
        with ThreadPoolExecutor(TOGETHER) as threads:
            jobs = [partial(_one, folder / f"server{n}", version, *case, other) for n, case in enumerate(chosen)]
            yield from threads.map(lambda job: job(), jobs)


def _cases(elsewhere: str) -> Iterator[tuple[str, str, Answer]]:
    """The command, a part of the request that is answered wrongly, and how; the wrong answer's name stands before."""
    wrongs = NONSENSE | {
        "redirect to another host": leads_to(elsewhere),
        "307 to another host": leads_to(elsewhere, 307),
        "next page at another host": next_page_at(elsewhere),
        "names that lead out": says(
            json.dumps([_entry(name) for name in ("../../../x", "/etc/passwd", "data/\x1b[2J.tar", "a\0b")]).encode()
        ),
        "a million files": says(json.dumps([_entry(f"data/train-{n:06d}.tar") for n in range(300_000)]).encode()),
        "other bytes": says(b"x" * 1000),
        "a wrong length": says(b"", X_Linked_Size="10", ETag='"' + "0" * 64 + '"', X_Repo_Commit="0" * 40),
        "another commit": says(b"{}", X_Repo_Commit="f" * 40, ETag='"1"'),
    }
    for name, answer in wrongs.items():
        for command, places in (("pull", PULL), ("publish", PUBLISH)):
            for place in places:
                yield f"{command}: {name} at {place}", place, answer


def _entry(path: str) -> dict[str, object]:
    return {"type": "file", "oid": "0" * 40, "size": 1, "path": path}


def _one(
    place: Path, version: Path, name: str, match: str, answer: Answer, other: Elsewhere
) -> tuple[str, Verdict, str]:
    command = name.partition(":")[0]
    store = place / "store/datasets/pets"
    if command == "publish":
        shutil.copytree(version, store / "v1")
    else:
        host(place / "hub", "org/pets", version)
    place.mkdir(parents=True, exist_ok=True)
    args = ("pull", "org/pets@v1") if command == "pull" else ("publish", "pets@v1", "org/pets", "--allow-private")
    with running(place / "hub", {match: answer}) as server:
        ran = _run(args, place, server.url)
    verdict = judge(ran)
    stray = {path.name for path in place.iterdir()} - {"store", "hub", "home"}
    if WRITER in ran.stdout + ran.stderr or any(WRITER.encode() in heard for heard in other.heard):
        verdict = Verdict.SILENT  # the token was told
    elif stray or (command == "pull" and ran.code and any(store.glob("v*"))):
        verdict = Verdict.LOST  # something outside of the store, or half a version in it
    elif verdict.good and ran.code:
        with running(place / "hub", {}) as server:
            again = _run(args, place, server.url)
        if again.code:
            verdict, ran = Verdict.LOST, again
    shutil.rmtree(place, ignore_errors=True)
    return name, verdict, ran.stderr[-400:] + ran.stdout[-100:]


def _run(args: tuple[str, ...], place: Path, url: str) -> Ran:
    home = {"HF_HOME": str(place / "home"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITER, "HF_ENDPOINT": url}
    times = {"HF_HUB_DOWNLOAD_TIMEOUT": str(TIMEOUT), "HF_HUB_ETAG_TIMEOUT": str(TIMEOUT)}
    with ONE_AT_A_TIME:
        running = start(*args, cwd=place, env=home | times)
    return running.wait(LONGEST)
