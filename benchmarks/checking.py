"""Verify: every byte of a version hashed, every image decoded, every label checked, against SHA-256 of the same bytes.

`verify --quick` compares the hashes of the files alone. A version of photographs with their labels inside, its shards
in memory's cache. The limit hashes the shards, as many at a time as `verify` has threads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _compare import Comparison, Row, Run, beside, timed
from _inputs import write_inputs

from builder.build import build_pseudo
from builder.engine import worker_count
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.verify import problems


def hashed(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare(run: Run) -> Iterator[Comparison]:
    images = run.of(5_000, 40)
    with run.scratch() as name:
        folder, store = Path(name), Store(Path(name) / "store")
        path = write_inputs(folder, images, 50_000)
        recipe = load_recipe(path, [f"shards.max_images={images // 4}"])
        assert build_pseudo(recipe, store, root=folder).cut
        version = Version.open(store.versions("bench")[0])
        tars = [version.data / shard.name for shard in version.manifest.shards]
        size = sum(path.stat().st_size for path in tars) / 1e6
        assert not problems(version)

        def limit() -> None:
            with ThreadPoolExecutor(worker_count()) as threads:
                list(threads.map(hashed, tars))

        works = {
            "Tutelage": lambda: timed(lambda: problems(version)),
            "SHA-256": lambda: timed(limit),
            "quick": lambda: timed(lambda: problems(version, quick=True)),
        }
        seconds = run.turns(works, 3)
    what = f"{images:,} images, {size:,.0f} MB in {len(tars)} shards, {worker_count()} threads"
    yield from beside(what, seconds, {"SHA-256": None}, amount=size, of="MB")
    quick = {"--quick": seconds["quick"], "SHA-256": seconds["SHA-256"]}
    yield from beside(f"--quick: {what}", quick, {"SHA-256": 0.8}, amount=size, of="MB")


ROW = Row(
    "verify",
    "every byte of a version checked",
    ".8 of the rate of SHA-256, with --quick",
    compare,
    ("simplejpeg", "orjson"),
)
