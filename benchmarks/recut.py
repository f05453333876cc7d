"""Re-cut: a version with changed rules, against `cp` of the old version's bytes; and a version as plain tars.

A pool of JPEGs, predictions of 20 boxes an image (replayed COCO results) and a version of each way to hold images are
made first. Each round then cuts versions with thresholds not used before (`tutelage recut`, report page and all), whose
shards are hashed and synced. The peer is `cp -r` of the folder of the version with its images inside, with fsync of
what it wrote.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from _compare import Comparison, Row, Run, Seconds, timed
from _inputs import write_inputs

from builder.build import Built, build_pseudo
from builder.cut.basis import Basis
from builder.cut.version import cut_version
from builder.recipe.recipe import load_recipe
from builder.store.files import sync_folder
from builder.store.shared.materialize import materialize
from builder.store.store import Store
from builder.store.version import Version

PROGRAM = Path(sys.executable).with_name("tutelage")
BYTES = 50_000
"""Size of an image, about: the smallest quality that is no smaller."""


def copy(version: Path, target: Path) -> None:
    subprocess.run(["cp", "-r", version, target], check=True)
    for root, _, names in os.walk(target):
        for name in names:
            with open(Path(root) / name, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


class World:
    """The pool with a version in each of two stores. bytes: of the one with its images inside."""

    def __init__(self, folder: Path, images: int) -> None:
        self.folder, self.path = folder, write_inputs(folder, images, BYTES)
        self.inside, self.shared = Store(folder / "inside"), Store(folder / "shared")
        self.recipe = load_recipe(self.path)
        self.built: Built = build_pseudo(self.recipe, self.inside, root=folder)
        build_pseudo(load_recipe(self.path, ["shards.images=shared"]), self.shared, root=folder)
        assert self.built.cut and self.built.labelled
        self.version = self.built.cut.folder
        self.predictions = self.inside.predictions / self.built.labelled.predictions
        self.bytes = size_of(self.version)
        self.written: list[float] = []
        """Bytes of each re-cut that shares its images."""
        self.scores = (0.5 + n / 1000 for n in count(1))  # each one new to the store

    def cut(self) -> float:
        keep = self.recipe.keep.model_copy(update={"score": next(self.scores)})
        recipe = self.recipe.model_copy(update={"keep": keep})

        def work() -> None:
            basis = Basis(self.built.pool, self.predictions, recipe, recipe.teacher.name)
            done = cut_version(basis, self.inside, name=recipe.name)
            assert done.shards_written == len(done.manifest.shards)

        seconds = timed(work, self.folder, self.bytes)
        shutil.rmtree(self.inside.versions("bench")[-1])
        return seconds

    def command(self, store: Store) -> float:
        command: list[str | Path] = [PROGRAM, "recut", "bench@v1", "--set", f"keep.score={next(self.scores)}"]
        command += ["--store", store.root]
        seconds = timed(lambda: subprocess.run(command, check=True, capture_output=True), self.folder, self.bytes)
        made = store.versions("bench")[-1]
        if store is self.shared:
            self.written.append(size_of(made))
        shutil.rmtree(made)
        return seconds

    def start(self) -> float:
        return timed(lambda: subprocess.run([PROGRAM, "--help"], check=True, capture_output=True))

    def copied(self) -> float:
        seconds = timed(lambda: copy(self.version, self.folder / "copy"), self.folder, self.bytes)
        shutil.rmtree(self.folder / "copy")
        return seconds

    def materialized(self, store: Store) -> float:
        version = Version.open(store.versions("bench")[0])
        seconds = timed(lambda: materialize(version, self.folder / "plain"), self.folder, self.bytes)
        shutil.rmtree(self.folder / "plain")
        return seconds


def compare(run: Run) -> Iterator[Comparison]:
    images = run.of(20_000, 100)
    with run.scratch() as folder:
        world = World(Path(folder), images)
        seconds = run.turns(
            {
                "cut": world.cut,
                "inside": lambda: world.command(world.inside),
                "shared": lambda: world.command(world.shared),
                "start": world.start,
                "cp": world.copied,
                "plain": lambda: world.materialized(world.shared),
            }
        )
        size, written = world.bytes / 1e6, [number / 1e6 for number in world.written]
    peer, of = "cp -r, fsync", f"{images:,} images, {size:,.0f} MB"

    def line(work: str, ours: Seconds, aim: float) -> Comparison:
        return Comparison(f"{work}: {of}", ours, peer, seconds["cp"], aim, at_most=True, amount=size, of="MB")

    beyond = [whole - start for whole, start in zip(seconds["shared"], seconds["start"], strict=True)]
    yield line("re-cut, images shared: the command beyond the interpreter's start", beyond, 0.4)
    yield Comparison("bytes that it writes", written, "of the full version", (size,), 0.06, at_most=True, unit="MB")
    yield line("re-cut, images inside: the whole command", seconds["inside"], 2)
    yield line("re-cut, images inside: the cut stage", seconds["cut"], 1.5)
    yield line("materialise a version that shares its images", seconds["plain"], 1.5)


ROW = Row(
    "recut",
    "another threshold, in both ways to hold images, and materialising",
    "shared: .4 of the time of cp and fsync beyond the interpreter's start, 6 % of its bytes; inside: 2 times for the "
    "command, 1.5 times for the cut; materialise 1.5 times",
    compare,
)
