"""A small workplace in each state that a command may begin in, and the commands that write: what kills, pairs, full disks
and power cuts are tried on. All work in one folder, since what is written may say where images lie."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TypeVar

import torch
import yaml

from builder.store.version import WORK
from students.train.state import STATE, read_state
from tests.faults.commands import Ran, run
from tests.helpers.hub_server import WRITER, HubServer
from tests.helpers.pools import write_images, write_recipe, write_results

Fault = TypeVar("Fault")
NETWORK = {"backbone": "timm:test_resnet", "size": 64, "channels": 16, "head_depth": 1, "levels": [8, 16]}
SCHEDULE = {"steps": 6, "batch": 4, "workers": 0, "save_every": 3, "lr": 1e-3}
"""Of a training that takes a second, with two saves."""
LABEL = ("label", "pool", "--teacher", "replay:results.json", "--set", "images=listing.json")
CUT_AGAIN = ("recut", "pets@v1", "--set", "keep.score=0.7", "-m", "stricter")
QUEUE = ("review", "queue", "pets@v1", "--budget", "4", "--to", "labelstudio", "--out", "queue.json")
TRAIN = ("train", "train.yaml", "--out", "run")
GROWN = range(90, 94)
"""The numbers of images that come to the pool later; the replayed results know them."""
SECONDS = 120.0
"""For a command on a busy machine; undisturbed they take less than one, training some."""
TIMED = ("images_per_s", "seconds", "time")
"""Keys of logs and results that tell how long something took."""


@dataclass(frozen=True)
class Job:
    """A command that writes, and the state that it begins in. once: done, it has nothing left to do, and says so as an
    error: what was to go is gone."""

    name: str
    args: tuple[str, ...]
    state: str
    once: bool = False


JOBS = (
    Job("scan", ("scan", "pool"), "fresh"),
    Job("label", LABEL, "scanned"),
    Job("build", ("build", "recipe.yaml"), "fresh"),
    Job("build with other rules", ("build", "recipe.yaml", "--set", "keep.score=0.6"), "built"),
    Job("build a child", ("build", "child.yaml"), "grown"),
    Job("recut", CUT_AGAIN, "built"),
    Job("tag", ("tag", "pets@v1", "good"), "built"),
    Job("move a tag", ("tag", "pets@v2", "good", "--force"), "two"),
    Job("delete a tag", ("tag", "pets", "good", "--delete"), "two", once=True),
    Job("rm", ("rm", "pets@v2"), "two", once=True),
    Job("gc", ("gc", "--predictions"), "littered"),
    Job("repair", ("verify", "pets@v1", "--repair"), "damaged"),
    Job("report", ("report", "plain@v1"), "plain"),
    Job("export coco", ("export", "pets@v1", "out", "--format", "coco"), "built"),
    Job("export yolo", ("export", "pets@v1", "out", "--format", "yolo"), "built"),
    Job("review queue", QUEUE, "built"),
    Job("review audit", ("review", "queue", "pets@v1", "--audit", "4"), "built"),
    Job("review pull", ("review", "pull", "pets@v1", "--from", "answers.json", "--author", "ann"), "answered"),
    Job("publish", ("publish", "pets@v1", "org/pets"), "built"),
    Job("pull", ("pull", "org/pets@v1", "--name", "got"), "published"),
    Job("train", TRAIN, "built"),
    Job("evaluate", ("evaluate", "run", "--truth", "truth.json", "--images", "truth"), "trained"),
)
"""The commands that write to the disk, each with the state that it begins in."""


class Workplace:
    """The states, each made by real commands once it is asked for, and the folder `work` that they are copied to."""

    def __init__(self, folder: Path) -> None:
        self.work, self._states = folder / "work", folder / "states"
        self._states.mkdir(parents=True, exist_ok=True)
        self._outcomes: dict[str, tuple[Ran, dict[str, bytes]]] = {}
        self._held = ExitStack()
        hub = HubServer(self.work / "hub")  # its state lies in the workplace, and goes with it
        Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
        self._held.callback(hub.server_close)
        self._held.callback(hub.shutdown)
        self.env = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": WRITER,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_DISABLE_XET": "1",
        }

    def __enter__(self) -> Workplace:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @property
    def store(self) -> Path:
        return self.work / "store"

    def kept(self, state: str) -> Path:
        """The folder that a state, once it was entered, is copied from."""
        return self._states / state

    def enter(self, state: str) -> Path:
        """The folder, in this state."""
        kept = self.kept(state)
        if not kept.is_dir():
            getattr(self, f"_make_{state}")()
            shutil.copytree(self.work, kept, symlinks=True)
        self._clear()
        shutil.copytree(kept, self.work, symlinks=True)
        return self.work

    def undisturbed(self, job: Job) -> tuple[Ran, dict[str, bytes]]:
        """What a command says and leaves where nothing happens to it."""
        if job.name not in self._outcomes:
            self.enter(job.state)
            ran = self.run(*job.args)
            if ran.code:
                raise RuntimeError(f"{job.name}: {ran.stderr}")
            self._outcomes[job.name] = ran, contents(self.work)
        return self._outcomes[job.name]

    def other_than(self, job: Job) -> list[str]:
        """The files that are other than an undisturbed command leaves them."""
        found = contents(self.work)
        return differences(self.undisturbed(job)[1], found)

    def run(self, *args: str) -> Ran:
        return run(*args, cwd=self.work, env=self.env, seconds=SECONDS)

    def complete(self) -> list[str]:
        """The versions that are shown as complete."""
        folders = sorted(path.parent for path in self.store.glob("datasets/*/v*/manifest.json"))
        return [f"{folder.parent.name}@{folder.name}" for folder in folders]

    def unsound(self) -> Iterator[str]:
        """What is wrong with the versions that are shown as complete."""
        for ref in self.complete():
            ran = self.run("verify", ref)
            if ran.code:
                yield f"{ref}: {ran.stdout} {ran.stderr}"

    def _clear(self) -> None:
        if self.work.exists():
            shutil.rmtree(self.work)

    def _did(self, state: str, *commands: tuple[str, ...]) -> None:
        self.enter(state)
        for args in commands:
            ran = self.run(*args)
            if ran.code:
                raise RuntimeError(f"{args}: {ran.stderr}")

    def _make_fresh(self) -> None:
        self._clear()
        names = write_images(self.work / "pool", 12)
        for name in ("repos", "blobs", "lfs"):
            (self.work / "hub" / name).mkdir(parents=True)
        write_results(self.work, [*names, *(f"image_{n:05d}.jpg" for n in GROWN)], empty=1)
        names = write_images(self.work / "truth", 6, start=500)
        images = [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names)]
        notes = [
            {"id": n, "image_id": n, "category_id": 1 + n % 2, "bbox": [8, 8, 24, 24], "area": 576, "iscrowd": 0}
            for n in range(6)
        ]
        truth = {
            "images": images,
            "annotations": notes,
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        }
        (self.work / "truth.json").write_text(json.dumps(truth))
        write_recipe(self.work, pool={"source": "pool", "chunk": 3}, shards={"max_images": 5})
        labelled = {"path": "truth.json", "images": "truth"}
        recipe = {"labelled": labelled, "network": NETWORK, **SCHEDULE}
        (self.work / "train.yaml").write_text(yaml.safe_dump(recipe))

    def _make_scanned(self) -> None:
        self._did("fresh", ("scan", "pool"))

    def _make_built(self) -> None:
        self._did("fresh", ("build", "recipe.yaml"))

    def _make_grown(self) -> None:
        self.enter("built")
        write_images(self.work / "pool", len(GROWN), start=GROWN.start)
        child = yaml.safe_load((self.work / "recipe.yaml").read_text()) | {"parent": "pets@v1"}
        (self.work / "child.yaml").write_text(yaml.safe_dump(child))

    def _make_two(self) -> None:
        other = ("build", "recipe.yaml", "--set", "keep.score=0.6")
        self._did("built", other, ("tag", "pets@v1", "good"))

    def _make_littered(self) -> None:
        self._did("two", ("tag", "pets", "good", "--delete"), ("rm", "pets@v1"), ("rm", "pets@v2"))
        (self.work / "pool" / "image_00000.jpg").unlink()
        ran = self.run("scan", "pool")
        assert ran.code == 0, ran.stderr

    def _make_damaged(self) -> None:
        self.enter("built")
        shard = self.store / "datasets" / "pets" / "v1" / "data" / "train-000001.tar"
        shard.write_bytes(shard.read_bytes()[:-2000])
        (shard.parent.parent / "labels.parquet").write_bytes(b"PAR1")

    def _make_plain(self) -> None:
        self._did("fresh", ("build", "recipe.yaml", "--no-report", "--set", "name=plain"))

    def _make_answered(self) -> None:
        self._did("built", QUEUE)
        tasks = json.loads((self.work / "queue.json").read_text())
        for number, task in enumerate(tasks, 1):
            result = task.pop("predictions")[0]["result"][1:]  # the first label of each image is rejected
            said = {"id": number, "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z", "completed_by": 1}
            task |= {"id": number, "annotations": [said | {"result": result}]}
        (self.work / "answers.json").write_text(json.dumps(tasks))

    def _make_published(self) -> None:
        self._did("built", ("publish", "pets@v1", "org/pets"))

    def _make_trained(self) -> None:
        self._did("built", TRAIN)


def evenly(faults: Sequence[Fault], share: float) -> Iterator[Fault]:
    """An evenly spread part of a list of faults, at least one."""
    count = max(1, round(share * len(faults)))
    return (faults[len(faults) * n // count] for n in range(count))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, without locks, the log of the Hub and what is half fetched from there (which the next
    fetch removes, and `gc`), and without what only tells when or how fast something was done."""
    found = {}
    for path in sorted(folder.rglob("*")):
        passing = path.name.startswith(".lock") or path.parent.name == "hub" or {"remote", WORK} <= {*path.parts}
        if path.is_file() and not passing:
            found[str(path.relative_to(folder))] = _timeless(path)
    return found


def _timeless(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name == "history.json":
        return json.dumps(_without(json.loads(data), ("when", "at", "digest"))).encode()
    if path.name == STATE:  # what is equal may stand once in it, or twice
        return repr(_values(read_state(path.parent))).encode()
    if path.suffix == ".jsonl":
        return json.dumps([_without(json.loads(line), TIMED) for line in data.splitlines()]).encode()
    return data


def _values(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), tuple(value.shape), hashlib.sha256(value.numpy().tobytes()).hexdigest())
    if isinstance(value, Mapping):
        return {key: _values(part) for key, part in value.items()}
    return [_values(part) for part in value] if isinstance(value, list | tuple) else value


def _without(value: object, keys: tuple[str, ...]) -> object:
    if isinstance(value, Mapping):
        return {key: _without(part, keys) for key, part in value.items() if key not in keys}
    return [_without(part, keys) for part in value] if isinstance(value, list) else value


def differences(one: Mapping[str, bytes], other: Mapping[str, bytes]) -> list[str]:
    """The files in which two folders differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
