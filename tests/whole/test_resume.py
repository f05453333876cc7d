"""Processes that are killed, interrupted, short of disk or two at a time: the same command again ends with the bytes of
an undisturbed run. A process is stopped (SIGSTOP) when the store shows the moment wanted, looked at again while it
stands still, and only then hit: nothing here depends on the clock."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from builder.store.files import TEMPORARY
from tests import ROOT
from tests.helpers.pools import tree, write_images, write_recipe, write_results

YOLOX = ROOT / "examples" / "coco_yolox" / "yolox_nano_416.yaml"
PATIENCE = 120
"""Seconds after which a process that shows no sign is given up. None is expected to take a tenth of it."""
ATTEMPTS = 3
"""How often a run is begun again that had ended before it could be stopped."""
STARTED: list[subprocess.Popen[str]] = []


@dataclass(frozen=True)
class Job:
    """A recipe, its images and chunks, and the files of the store of an undisturbed run."""

    recipe: Path
    images: int
    chunks: int
    undisturbed: dict[str, bytes]

    @property
    def shards(self) -> int:
        return sum(name.endswith(".tar") for name in self.undisturbed)


def start(recipe: Path, store: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """`build-pseudo` in a process group of its own, as a shell starts it."""
    command = [
        sys.executable,
        "-m",
        "builder.cli",
        "build-pseudo",
        recipe,
        "--store",
        store,
        "--workers=2",
        "--json",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, *arguments], start_new_session=True, cwd=ROOT, **pipes, **options)
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """A test that fails leaves no process behind, above all none that stands still. Started in the background by a
    script, we would hand on that Ctrl-C is ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    return json.loads(out)


def sentence(process: subprocess.Popen[str], code: int = 1, begin: str = "Error: ") -> str:
    """The one sentence of a process that failed as it should: nothing on stdout, this exit code."""
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, len(err.splitlines())) == (code, "", 1) and err.startswith(begin), err
    return err


# ---- jobs whose images are all encoded anew, so that cutting takes long enough to be stopped


def make_job(folder: Path, images: int, chunk: int, image_format: str, **sections: Any) -> Job:
    shards = {"max_mb": 1, "image_format": image_format}
    recipe = write_recipe(folder, pool={"source": "pool", "chunk": chunk}, shards=shards, **sections)
    first = result(start(recipe, folder / "undisturbed"))
    assert first["images_labelled"] == first["samples"] == images
    return Job(recipe, images, images // chunk, tree(folder / "undisturbed"))


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder, size = tmp_path_factory.mktemp("replay"), (320, 240)
    names = write_images(folder / "pool", 31, size=size, suffix=".bmp")
    names += write_images(folder / "pool", 1, start=31, size=size, suffix=".png")
    write_results(folder, names, size=size)
    return make_job(folder, len(names), 1, "webp")


@pytest.fixture(scope="module")
def yolox(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Job:
    folder = tmp_path_factory.mktemp("yolox")
    (folder / "pool").mkdir()
    sources = sorted((shared_data / "coco" / "images").glob("*.jpg"))[:15]
    for source in sources:
        shutil.copy(source, folder / "pool")
    with Image.open(sources[0]) as image:
        image.resize((64, 48)).save(folder / "pool" / "last.png")
    weights = str(shared_data / "models" / "yolox_nano_416.onnx")
    teacher = {"spec": f"onnx:{YOLOX}", "weights": weights, "batch_size": 2}
    return make_job(folder, 16, 2, "png", teacher=teacher)


# ---- what is finished, and moments at which a run can be stopped


def chunks(store: Path) -> dict[Path, int]:
    """The last file of each finished chunk, and its time."""
    return {path: path.stat().st_mtime_ns for path in store.glob("predictions/*/[0-9a-f]*/objects.parquet")}


def shards(store: Path) -> dict[Path, int]:
    """The tar of each finished shard of a version that is not complete, and its time."""
    records = store.glob("datasets/pets/v*/.work/0*.json")
    tars = [record.parent.parent / "data" / f"train-{record.stem}.tar" for record in records]
    return {path: path.stat().st_mtime_ns for path in tars}


def unfinished(store: Path) -> list[Path]:
    return list(store.rglob(f"{TEMPORARY}*"))


Moment = Callable[[Path, Job], bool]
MOMENTS: dict[str, Moment] = {
    "a chunk is being written": lambda store, job: any(store.glob(f"predictions/*/{TEMPORARY}*")),
    "half of the chunks are done": lambda store, job: job.chunks // 2 <= len(chunks(store)) < job.chunks,
    "a shard is being written": lambda store, job: any(store.glob(f"datasets/pets/v*/data/{TEMPORARY}*")),
    "half of the shards are done": lambda store, job: job.shards // 2 <= len(shards(store)) < job.shards,
    "a shard of the second version has no record": lambda store, job: (
        len(list(store.glob("datasets/pets/v2/data/train*.tar"))) > len(shards(store))
    ),
}


def stopped(job: Job, store: Path, moment: str, *arguments: str) -> subprocess.Popen[str]:
    """A run over `store` that stands still at the moment. One that ends before it can be stopped is undone and begun
    again, since then there would be nothing to test."""
    before = store.with_name("before")
    for _ in range(ATTEMPTS):
        shutil.rmtree(before, ignore_errors=True)
        if store.exists():
            shutil.copytree(store, before)
        process, deadline = start(job.recipe, store, *arguments), time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < deadline:
            if MOMENTS[moment](store, job):
                os.killpg(process.pid, signal.SIGSTOP)
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
                if MOMENTS[moment](store, job):
                    return process
                os.killpg(process.pid, signal.SIGCONT)
            time.sleep(0.001)
        process.kill()
        process.communicate()
        shutil.rmtree(store)
        if before.exists():
            before.rename(store)
    pytest.fail(f"{ATTEMPTS} runs ended before they could be stopped when {moment}")


def kill(process: subprocess.Popen[str]) -> None:
    """`kill -9` of the process alone. None of its own children, if it has any, may live on."""
    process.kill()
    process.wait(PATIENCE)
    try:
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# ---- the tests


@pytest.mark.parametrize("moments", [list(MOMENTS)[:2], list(MOMENTS)[2:4]], ids=["label", "cut"])
@pytest.mark.parametrize("teacher", ["replay", "yolox"])
def test_killed_at_any_moment_only_unfinished_work_runs_again(
    teacher: str, moments: list[str], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    job: Job = request.getfixturevalue(teacher)
    store = tmp_path / "store"
    labelled, cut = dict[Path, int](), dict[Path, int]()
    for moment in moments:
        kill(stopped(job, store, moment))
        assert labelled.items() <= chunks(store).items() and cut.items() <= shards(store).items()
        labelled, cut = chunks(store), shards(store)
    assert (len(labelled) < job.chunks) if "chunk" in moments[0] else (0 < len(cut) < job.shards)
    last = result(start(job.recipe, store))
    assert last["images_labelled"] == job.images - len(labelled) * job.images // job.chunks
    assert last["shards_written"] == job.shards - len(cut)
    assert {path: path.stat().st_mtime_ns for path in labelled | cut} == labelled | cut
    assert tree(store) == job.undisturbed and not unfinished(store)


def test_killed_while_it_takes_shards_from_its_parent_a_version_harms_neither(replay: Job, tmp_path: Path) -> None:
    """Six shards of a parent are linked, one of them with an image that is gone, and two are new."""
    folder, parent = tmp_path / "job", ("--set", "parent=pets@v1")
    shutil.copytree(replay.recipe.parent, folder, ignore=shutil.ignore_patterns("undisturbed"))
    store, recipe = folder / "store", folder / replay.recipe.name
    later = sorted((folder / "pool").iterdir())[:8]
    for path in later:
        shutil.move(path, folder / path.name)
    result(start(recipe, store))
    for path in later:
        shutil.move(folder / path.name, path)
    (folder / "pool" / "image_00009.bmp").unlink()
    shutil.copytree(store, folder / "undisturbed")
    assert result(start(recipe, folder / "undisturbed", *parent))["image_states"]["tombstone"] == 1
    before, undisturbed = tree(store / "datasets"), tree(folder / "undisturbed")
    job = Job(recipe, 31, 32, tree(folder / "undisturbed" / "datasets" / "pets" / "v2"))
    done = dict[Path, int]()
    for moment in (
        "a shard of the second version has no record",
        "half of the shards are done",
        "a shard is being written",
    ):
        kill(stopped(job, store, moment, *parent))
        assert done.items() <= shards(store).items()
        assert before.items() <= tree(store / "datasets").items()
        done = shards(store)
    assert len(done) < job.shards == 8
    assert result(start(recipe, store, *parent))["shards_written"] == job.shards - len(done)
    assert tree(store) == undisturbed and not unfinished(store)
    assert result(start(recipe, store, *parent))["shards_written"] == 0


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C. It goes to the main thread, as a terminal's does, and waits there until the process goes on: sent to the
    group while all threads stand still, the kernel might hand it to another one."""
    assert ctypes.CDLL(None).tgkill(process.pid, process.pid, signal.SIGINT) == 0
    os.killpg(process.pid, signal.SIGCONT)
    sentence(process, 130, "stopped: run the same command again to go on; ")


def test_ctrl_c_gets_one_sentence_and_loses_nothing(replay: Job, tmp_path: Path) -> None:
    store, other = tmp_path / "store", tmp_path / "other"
    process = stopped(replay, store, "half of the chunks are done")
    finished = chunks(store)
    interrupt(process)
    assert finished.items() <= chunks(store).items() and not unfinished(store)
    shutil.copytree(store, other)
    # all images in one shard: it is given up, not first finished
    interrupt(stopped(replay, other, "a shard is being written", "--set", "shards.max_mb=256"))
    assert not shards(other) and not unfinished(other)
    interrupt(stopped(replay, store, "half of the shards are done"))
    result(start(replay.recipe, store))
    assert tree(store) == replay.undisturbed and not unfinished(store)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Few images with many objects: predictions are larger than the pool's table, and shards larger than both."""
    folder = tmp_path_factory.mktemp("crowded")
    size = (128, 96)
    results, _ = write_results(folder, write_images(folder / "pool", 8, suffix=".bmp", size=size), size=size)
    rng, records = np.random.default_rng(0), json.loads(results.read_text())
    results.write_text(json.dumps([{**r, "score": rng.uniform(0.1, 1)} for _ in range(200) for r in records]))
    return make_job(folder, 8, 4, "jpg")


@pytest.mark.parametrize("kind", ["pool.parquet", "objects.parquet", ".tar"])
def test_a_full_disk_gets_one_sentence_and_leaves_nothing_half_written(crowded: Job, tmp_path: Path, kind: str) -> None:
    """The kernel refuses to let files grow past a size: the write that would fails as on a full disk."""
    store = tmp_path / "store"
    limit = min(len(data) for name, data in crowded.undisturbed.items() if name.endswith(kind)) - 1
    process = start(crowded.recipe, store, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert "File too large" in sentence(process)
    found = tree(store)
    assert not unfinished(store) and not [name for name in found if name.endswith(kind)]
    finished = {name: data for name, data in found.items() if ".work/" not in name}
    assert finished.items() <= crowded.undisturbed.items() and bool(finished) == (kind != "pool.parquet")
    result(start(crowded.recipe, store))
    assert tree(store) == crowded.undisturbed


@pytest.mark.parametrize(
    ("moment", "what"), [("half of the chunks are done", "predictions "), ("a shard is being written", "pets@v1")]
)
def test_of_two_processes_the_second_is_told_of_the_first(replay: Job, tmp_path: Path, moment: str, what: str) -> None:
    store = tmp_path / "store"
    first = stopped(replay, store, moment)
    said = sentence(start(replay.recipe, store))
    assert f"another process (pid {first.pid}, " in said and f" is working on {what}" in said
    os.killpg(first.pid, signal.SIGCONT)
    result(first)
    assert tree(store) == replay.undisturbed and not unfinished(store)


def test_two_processes_that_race_never_harm_the_store(replay: Job, tmp_path: Path) -> None:
    store = tmp_path / "store"
    both = [start(replay.recipe, store) for _ in range(2)]
    outputs = [process.communicate(timeout=PATIENCE) for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes
    for code, (_, err) in zip(codes, outputs, strict=True):
        assert (code, err) == (0, "") or (code == 1 and "Error: another process (pid " in err), err
    assert tree(store) == replay.undisturbed and not unfinished(store)
