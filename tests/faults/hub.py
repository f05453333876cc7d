"""Repositories of whoever publishes them: nonsense that fits its hashes, then whatever one may do with a version."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import yaml

from builder.store.store import Store
from builder.store.version import Version
from tests.faults._servers import servers
from tests.faults.commands import Ran, run
from tests.faults.verdict import Verdict, judge
from tests.helpers.coloured import write_labelled
from tests.helpers.corrected import SAYS, built, corrected, corrections
from tests.helpers.hostile import Change, hostile
from tests.helpers.hub_server import READER, HubServer, host
from tests.helpers.pools import write_world
from tests.helpers.training import NETWORK

ROW = "hostile repositories pulled, then 17 commands; servers"
SMALL, FEW = 0.005, 0.1
"""The share of `make test`; below the other one only boxes are tried, and nothing is trained."""
REPOSITORIES = 150
"""At full size, of each of five kinds of version an equal part."""
FORMATS = {"detection": "coco", "instance": "yolo", "semantic": "masks", "classification": "classes"}
ARCHS = {"detection": "fcos", "instance": "maskrcnn", "semantic": "fpn", "classification": "linear"}
LONGEST = 300_000
"""Characters that a command may print of a version."""
CONTROLS = frozenset(map(chr, (*range(9), *range(11, 32), 127))) | set("\u202a\u202b\u202d\u202e\u2066\u2067\u2068")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Seed:
    """A good version. place: of its store, its labels to train beside, and a run. key: of an image of it."""

    name: str
    kind: str
    place: Path
    version: Path
    key: str


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Each repository is pulled; what is refused there is put by hand where it would lie; then come 20 commands."""
    seeds = list(_seeds(folder / "seeds", few=share < FEW))
    each = REPOSITORIES // len(seeds)
    every = [(seed, *fault) for seed in seeds for fault in _of_each_part(list(hostile(seed.version)), each)]
    with HubServer.running(folder / "hub") as server:
        for number, (seed, title, change) in enumerate(spread(every, max(1, round(share * len(every))))):
            place = folder / f"at{number}"
            yield from _repository(place, server, seed, title, change, at_home=number % 2 == 0)
            shutil.rmtree(place, ignore_errors=True)
    yield from servers(folder / "servers", seeds[-1].place / "store/datasets/pets/v1", share)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """An even part of a sequence, of so many items at most."""
    count = min(count, len(items))
    return [items[(2 * n + 1) * len(items) // (2 * count)] for n in range(count)]


def _of_each_part(faults: Sequence[tuple[str, Change]], count: int) -> list[tuple[str, Change]]:
    """An even part of those of the manifest, of label JSON, of the table, and of all else."""
    parts: dict[str, list[tuple[str, Change]]] = {"manifest": [], "label": [], "table": [], "": []}
    for fault in faults:
        word = fault[0].partition(" ")[0]
        parts[word if word in parts else ""].append(fault)
    return [fault for part in parts.values() for fault in spread(part, -(-count // len(parts)))]


def _seeds(folder: Path, *, few: bool) -> Iterator[Seed]:
    if not few:
        yield _world(folder / "world")
    for kind in list(SAYS)[: 1 if few else None]:
        place = folder / kind
        cut = built(place, kind)
        if kind != "semantic":  # whose pixels nobody corrects
            store, version = Store(place / "store"), Version.open(cut.folder)
            cut = corrected(version, store, corrections(version, 1))
        yield _seed(place, kind, kind, cut.folder, trains=not few)


def _world(place: Path) -> Seed:
    """Boxes with certified thresholds, calibrated, a truth and a report."""
    recipe = write_world(place, pool=10, truth=120)
    settings = [
        "--set",
        "keep.precision=0.6",
        "--set",
        "keep.calibration=temperature",
        "--set",
        "images.near_duplicates=4",
    ]
    ran = run("build", str(recipe), *settings, cwd=place)
    assert ran.code == 0, ran.stderr
    return _seed(place, "certified", "detection", place / "store/datasets/pets/v1")


def _seed(place: Path, name: str, kind: str, version: Path, trains: bool = True) -> Seed:
    labelled = _labelled(place / "labelled", kind)
    network = NETWORK | {"arch": ARCHS[kind], "size": 32, "levels": [4, 8]}
    recipe = {"labelled": str(labelled), "network": network, "steps": 1, "batch": 4, "workers": 0, "save_every": 9}
    (place / "supervised.yaml").write_text(yaml.safe_dump(recipe))
    (place / "joint.yaml").write_text(yaml.safe_dump(recipe | {"pseudo": ["evil@v1"]}))
    if trains:
        ran = run("train", "supervised.yaml", "--out", "run", cwd=place)
        assert ran.code == 0, ran.stderr
    manifest = json.loads((version / "manifest.json").read_bytes())
    return Seed(name, kind, place, version, _a_key(version, manifest["shards"][0]["name"]))


def _labelled(folder: Path, kind: str) -> Path:
    """Labels of the version's classes, to train on beside it."""
    source = write_labelled(folder, "instance" if kind == "detection" else kind)
    names = {"blue": "cat", "green": "dog", "red": "bird", "ground": "car"}
    if kind == "semantic":
        (folder / "classes.txt").write_text("\n".join(names.values()))
    elif kind == "classification":
        for name, ours in names.items():
            (folder / name).rename(folder / ours) if name != "ground" else (folder / ours).mkdir()
        (folder / "car/99.png").write_bytes((folder / "cat/0.png").read_bytes() + b"\0")
    else:
        content = json.loads(source.read_bytes())
        content["categories"] = [{"id": n, "name": name} for n, name in enumerate(names.values(), 1)]
        source.write_text(json.dumps(content))
    return source


def _a_key(version: Path, shard: str) -> str:
    from builder.store.shards import read_samples

    return next(sample.key for sample in read_samples(version / "data" / shard))


def _repository(
    place: Path, server: HubServer, seed: Seed, title: str, change: Change, *, at_home: bool
) -> Iterator[tuple[str, Verdict, str]]:
    """at_home: whether the store has the pool and the predictions that the version was made of."""
    evil = place / "theirs"
    shutil.copytree(seed.version, evil, ignore=shutil.ignore_patterns("claim", ".*"))
    change(evil)
    host(server.root, "org/evil", evil)
    shutil.copytree(
        seed.place / "store",
        place / "store",
        ignore=None if at_home else shutil.ignore_patterns("pools", "predictions"),
    )
    target = place / "store/datasets/evil/v1"
    outside = {path.name for path in place.iterdir()}
    name = f"{seed.name}: {title}"
    for number, command in enumerate(_commands(seed)):
        ran = run(*command, cwd=place, env=_environment(server), seconds=60.0)
        yield (
            f"{name}: {' '.join(command[:2])}",
            _judged(ran, command, place, outside),
            f"{ran.stderr}{ran.stdout[-100:]}",
        )
        if number == 0 and not target.exists():
            shutil.copytree(evil, target)


def _environment(server: HubServer) -> dict[str, str]:
    return {"HF_ENDPOINT": server.url, "HF_TOKEN": READER, "HF_HUB_DISABLE_XET": "1", "COLUMNS": "200"}


def _commands(seed: Seed) -> list[tuple[str, ...]]:
    format = FORMATS[seed.kind]
    return [
        ("pull", "org/evil@v1", "--name", "evil"),
        ("log",),
        ("log", "--json"),
        ("show", "evil"),
        ("show", "evil", "--json"),
        ("show", "evil", "--picture", "out/picture.png"),
        ("diff", "pets@v1", "evil@v1"),
        ("diff", "evil@v1", "pets@v1", "--json"),
        ("explain", "evil@v1", seed.key),
        ("verify", "evil"),
        ("verify", "evil", "--repair"),
        ("report", "evil"),
        ("export", "evil", "out/images", "--format", format),
        ("export", "evil", "out/names", "--format", format, "--no-images"),
        ("review", "queue", "evil", "--budget", "5"),
        ("review", "queue", "evil", "--audit", "5", "--to", "labelstudio", "--out", "out/tasks.json"),
        ("recut", "evil", "--set", "keep.score=0.7"),
        ("publish", "evil", "org/mine", "--dry-run"),
        ("tag", "evil@v1", "paper"),
        *(_training(seed) if (seed.place / "run").is_dir() else ()),
        ("gc",),
    ]


def _training(seed: Seed) -> Iterator[tuple[str, ...]]:
    yield "train", str(seed.place / "joint.yaml"), "--out", "out/run"
    yield "evaluate", str(seed.place / "run"), "--truth", "evil@v1", "--out", "out/evaluation"


def _judged(ran: Ran, command: tuple[str, ...], place: Path, outside: set[str]) -> Verdict:
    def right() -> bool:
        if command[0] == "log" and "pets" not in ran.stdout:
            return False  # one bad version hides the others
        shown = ran.stdout + ran.stderr
        return len(shown) < LONGEST or "--json" in command

    if command[0] == "log" and ran.ended == "exit" and ran.code and "Traceback" not in ran.stderr:
        return Verdict.LOST
    if "--json" not in command and CONTROLS & set(ran.stdout + ran.stderr):
        return Verdict.SILENT  # a terminal would do what a version says
    if {path.name for path in place.iterdir()} - outside - {"out", "runs"}:
        return Verdict.SILENT  # it wrote where it was not told to
    return judge(ran, right)
