"""Small stores of several kinds, bits of their files flipped as a failing disk does, and all as it was afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson

from builder.rules.overrides import Override, add_overrides
from builder.scan.pool import find_pool
from builder.store.files import canonical_json
from builder.store.store import Store
from teachers.base import TeacherOptions
from tests.faults.commands import Ran, run
from tests.faults.verdict import Verdict, judge
from tests.helpers.browsed import FACTORIES, TRUTHS
from tests.helpers.pools import write_images, write_recipe, write_world

CODE = "--allow-code"
KINDS = ("semantic", "boxes", "classification")
FEW = 0.1
"""A share of the faults for which one store is enough."""


@dataclass
class World:
    """A folder with a store of one kind: two versions, of which the second is the first's child, with a tag, overrides
    and human labels. next: the commands that go on from there, with what each leaves in a store without a fault."""

    folder: Path
    name: str
    before: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    next: dict[tuple[str, ...], tuple[str, dict[str, bytes]]] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def run(self, *args: str) -> Ran:
        return run(*args, "--store", "store", cwd=self.folder)

    def must(self, *args: str) -> Ran:
        ran = self.run(*args)
        assert ran.code == 0, (args, ran.stderr)
        return ran

    def made(self) -> dict[str, bytes]:
        """What lies below datasets/ now and did not before."""
        return {
            name: path.read_bytes()
            for name, path in _files(self.store)
            if name.startswith("datasets/") and name not in self.before and "/.lock" not in name
        }

    def restore(self) -> None:
        """The store as it was before a fault; files that nobody touched keep their inode and time."""
        for name, path in _files(self.store):
            if name not in self.before:
                path.unlink()
        for folder in sorted((p for p in self.store.rglob("*") if p.is_dir()), reverse=True):
            if not any(folder.iterdir()):
                folder.rmdir()
        for name, (data, mtime) in self.before.items():
            path = self.store / name
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            elif path.read_bytes() != data:
                with open(path, "r+b") as file:
                    file.write(data)
                    file.truncate()
            os.utime(path, ns=(mtime, mtime))

    def flip(self, name: str, bit: int) -> None:
        """Turn one bit of a file in place, and set back its time."""
        path = self.store / name
        with open(path, "r+b") as file:
            file.seek(bit // 8)
            (byte,) = file.read(1)
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))
        os.utime(path, ns=(self.before[name][1], self.before[name][1]))

    def goes_on(self, args: tuple[str, ...]) -> tuple[Verdict, str]:
        """The verdict on one of `next` in the store as it is now."""
        ran = self.run(*args)
        said = '"state": "damaged"' in ran.stdout and args[0] == "log"  # which goes on with the other versions
        verdict = judge(ran, lambda: said or (ran.stdout, self.made()) == self.next[args])
        return verdict, "" if verdict.good else f"{' '.join(args)}: {ran.stdout[-200:]} {ran.stderr[-400:]}"

    def is_harmless(self, name: str) -> bool:
        """Whether a damaged file still says the same: JSON with the same values."""
        try:
            data, was = (self.store / name).read_bytes(), self.before[name][0]
            return canonical_json(orjson.loads(data)) == canonical_json(orjson.loads(was))
        except ValueError:
            return False


def worlds(folder: Path, share: float) -> Iterator[World]:
    """Stores of boxes, maps and image classes, each with what `next` leaves of it; for a small share of the faults
    maps alone, which are made soonest."""
    for kind in KINDS if share > FEW else KINDS[:1]:
        (folder / kind).mkdir()
        yield _grown(_boxes(folder / kind) if kind == "boxes" else _other(folder / kind, kind), share > FEW)


def _boxes(folder: Path) -> World:
    """Certified thresholds, so that uses of the certify half are counted, and overrides that the version holds."""
    write_world(folder, pool=10, truth=80, seed=3)
    write_recipe(
        folder,
        truth={"source": "truth.json", "images": "truth"},
        keep={"precision": {"target": 0.5, "delta": 0.2}, "ignore": 0.3},
        shards={"max_images": 8},
    )
    world = World(folder, "pets")
    world.must("build", "recipe.yaml", "--only", "label")
    _overrule(world, "cat")
    return world


def _other(folder: Path, kind: str) -> World:
    write_images(folder / "pool", 8)
    truth = TRUTHS[kind](
        folder / "truth",
        FACTORIES[kind](TeacherOptions()),
        write_images(folder / "truth", 8, start=900),
        np.random.default_rng(3),
    )
    write_recipe(
        folder,
        name=kind,
        pool={"source": "pool", "chunk": 4},
        teacher={"spec": f"python:tests.helpers.browsed:{kind}"},
        truth=truth,
        keep={"score": 0.5, "ignore": 0.4},
        shards={"max_images": 4},
    )
    return World(folder, kind)


def _overrule(world: World, label: str) -> None:
    """Somebody's word on the first images."""
    store = Store(world.store)
    images = list(find_pool(store, str(world.folder / "pool")).images())[:3]
    said = [Override(i.sha256, (2, 2, 20, 20), "add", label, (2, 2, 20, 20), "ann") for i in images]
    add_overrides(store, world.name, said)


def _grown(world: World, whole: bool) -> World:
    """Build, tag, go on, look at all once, and note what the next commands do without a fault. whole: all of them."""
    build = ("build", "recipe.yaml", "--json", CODE, *(() if whole else ("--no-report",)))
    world.must(*build)
    world.must("recut", f"{world.name}@v1", "--set", "keep.score=0.6")
    world.must("tag", f"{world.name}@v1", "good")
    world.must("fsck")
    world.before = {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in _files(world.store)}
    after = [build, ("recut", f"{world.name}@good", "--set", "keep.score=0.7", "--json")]
    if whole:
        other = (*build, "--set", "keep={score: 0.65}", "--no-report")
        after += [other, ("show", f"{world.name}@good", "--json"), ("log", "--json")]
    for args in after:
        ran = world.must(*args)
        world.next[args] = ran.stdout, world.made()
        world.restore()
    return world


def _files(store: Path) -> list[tuple[str, Path]]:
    return sorted((str(path.relative_to(store)), path) for path in store.rglob("*") if path.is_file())


@contextmanager
def flipped(world: World, name: str, bit: int) -> Iterator[None]:
    """A store with one bit of one file flipped, as long as the block runs."""
    world.flip(name, bit)
    try:
        yield
    finally:
        world.restore()


def kind_of_file(name: str) -> str:
    """What a file of a store is, whatever it is called there."""
    top, *rest = name.split("/")
    if top == "datasets":
        return "shard" if rest[2] == "data" else "/".join(rest[2:])
    if rest[:1] == ["sources"]:
        return "pools/sources"
    return f"{top}/{rest[-1]}" if rest and top not in ("tags", "certify") else top


def places(world: World, of_versions: bool, count: int, seed: int) -> list[tuple[str, int]]:
    """About `count` bits, spread evenly over the kinds of files of a store, and over all files of a kind: of each kind
    as many, whatever their sizes."""
    kinds: dict[str, list[str]] = {}
    for name, (data, _) in world.before.items():
        if name.startswith("datasets/") == of_versions and data and "/.lock" not in f"/{name}":
            kinds.setdefault(kind_of_file(name), []).append(name)
    rng = np.random.default_rng(seed)
    each = max(1, round(count / len(kinds)))
    chosen: list[tuple[str, int]] = []
    for _, names in sorted(kinds.items()):
        for n in range(each):
            name = names[n % len(names)]
            size = 8 * len(world.before[name][0])
            # the end of a file as often as all else: a Parquet's footer lies there
            first = max(0, size - 8 * 1024) if n % 2 else 0
            chosen.append((name, int(rng.integers(first, size))))
    few = max(1, count)
    return chosen if len(chosen) < 2 * few else [chosen[n * len(chosen) // few] for n in range(few)]
