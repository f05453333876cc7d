"""Versions on the Hub used where they are: by `load_dataset`, by training shard by shard, as labels to evaluate on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from builder.cli.main import main
from builder.export.as_truth import read_labels, version_truth
from builder.hub.publish import publish
from builder.hub.remote import RemoteVersion, open_version
from builder.store.manifest import Manifest, read_manifest, version_id, write_manifest
from builder.store.shards import ShardRecord, read_samples, write_shard
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.coco import read_coco
from builder.truth.records import Truth, TruthError
from students.augment.scene import FIT
from students.data.loader import JointBatches
from students.data.streams import WINDOW, LoaderError
from students.evaluate.boxes import evaluate_boxes
from students.train.loop import train
from tests.helpers.hub_server import WRITER, Fault, HubServer, requests_log, set_faults, use_hub
from tests.helpers.pools import write_images, write_recipe, write_results
from tests.helpers.rectangles import RectangleFinder, write_rectangles
from tests.helpers.training import make_recipe

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's uploads
REF = "hf://org/scenes@v1"
SHARDS, EACH = 6, 3


def write_scenes(folder: Path, truth: Truth, tombstones: tuple[str, ...] = ()) -> Path:
    """The truth as a version of SHARDS shards; every second object is to be ignored."""
    records = []
    for number in range(SHARDS):
        samples = []
        for n in range(number * EACH, (number + 1) * EACH):
            image, data = truth.images[n], truth.images[n].path.read_bytes()
            xywh = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in image.boxes.tolist()]
            objects = {"bbox": xywh, "category": image.labels.tolist(), "score": [0.9] * len(xywh)}
            objects |= {"ignore": [i % 2 == 1 for i in range(len(xywh))], "area": image.area.tolist()}
            label = {"key": f"scene-{n}", "name": image.name, "sha256": hashlib.sha256(data).hexdigest()}
            label |= {"width": image.width, "height": image.height, "reencoded": "none", "objects": objects}
            samples.append((f"scene-{n}", [("png", data), ("json", json.dumps(label).encode())]))
        name = f"train-{number:06d}.tar"
        shard = write_shard(folder / "data" / name, samples)
        told = sum(key in tombstones for key, _ in samples)
        records.append(
            ShardRecord(
                name=name, bytes=shard.bytes, sha256=shard.sha256, samples=EACH, kept=0, ignored=0, tombstones=told
            )
        )
    classes, kinds, gone = list(truth.classes), ["png", "json"], list(tombstones)
    write_manifest(
        folder,
        Manifest(
            name="scenes", version="v1", id=version_id(classes, kinds, [r.sha256 for r in records], gone),
            kind="detection", classes=classes, features=kinds, shards=records, tombstones=gone, images={}, objects={},
            per_class={}, files={}, provenance={},
        ),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return read_coco(write_rectangles(tmp_path_factory.mktemp("scenes"), SHARDS * EACH, seed=3))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rectangles(tmp_path_factory.mktemp("labelled"), 5)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, scenes: Truth) -> Path:
    """A folder with `v1`, a version of the scenes, `gone`, with tombstones, and the Hub that has both."""
    folder = tmp_path_factory.mktemp("remote")
    write_scenes(folder / "v1", scenes)
    write_scenes(folder / "gone", scenes, ("scene-4", "scene-17"))
    with pytest.MonkeyPatch.context() as patch, HubServer.running(folder / "hub") as server:
        use_hub(patch, server.url, folder)
        publish(Version.open(folder / "v1"), "org/scenes")
        publish(Version.open(folder / "gone"), "org/gone")
    return folder


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copytree(published / "hub", tmp_path / "hub")
    (tmp_path / "hub/log.jsonl").unlink()
    with HubServer.running(tmp_path / "hub") as server:
        use_hub(monkeypatch, server.url, tmp_path)
        yield server.root


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched ahead: what was fetched when would be a matter of chance."""
    monkeypatch.setattr("students.data.streams.Thread", Idle)


class Idle:
    def __init__(self, **_: Any) -> None: ...

    def start(self) -> None: ...


class AtOnce(Idle):
    """A thread that is done as soon as it is started."""

    def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> None:
        self._work = partial(target, *args)

    def start(self) -> None:
        self._work()


def fetched(hub: Path) -> list[str]:
    """The shards that went over the line, in order."""
    paths = [line["path"] for line in requests_log(hub) if line["method"] == "GET"]
    return [name for path in paths for name in re.findall(r"/storage/.*(train-\d+\.tar)", path)]


def batches(labelled: Path, version: Version | Path, **options: Any) -> JointBatches:
    return JointBatches(read_coco(labelled), [version], **{"size": 64, "batch_size": 4, "augment": FIT, **options})


def keys(images: torch.Tensor) -> list[int]:
    """Which scenes these are (rectangles.py)."""
    return [int(image[0, 47, 63]) for image in images]


def test_a_file_is_fetched_once_and_checked(published: Path, hub: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    version = open_version(REF, store)
    assert version.manifest == read_manifest(published / "v1") and not fetched(hub)
    record = version.manifest.shards[2]
    path = version.shard(record)
    assert path.read_bytes() == (published / "v1/data" / record.name).read_bytes()
    assert open_version(REF, store).shard(record) == path and fetched(hub) == [record.name]
    with pytest.raises(Exception, match=r"has no labels\.parquet"):
        version.file("labels.parquet")
    local = open_version(str(published / "v1"), store)
    assert not local.is_remote and local.shard(record) == published / "v1/data" / record.name


def test_shards_are_fetched_when_they_are_needed_and_each_image_is_seen_once(
    labelled: Path, hub: Path, tmp_path: Path
) -> None:
    version = open_version(REF, Store(tmp_path / "store"))
    joint = batches(labelled, version)
    assert not fetched(hub)
    seen = keys(joint[0].images[2:])
    assert 1 <= len(fetched(hub)) <= 2
    for step in range(1, SHARDS * EACH // 2):
        if step == WINDOW * EACH // 2 - 1:
            assert len(set(fetched(hub))) <= WINDOW
        seen += keys(joint[step].images[2:])
    assert sorted(seen) == list(range(SHARDS * EACH)) and seen != sorted(seen)
    assert sorted(fetched(hub)) == sorted(record.name for record in version.manifest.shards)
    second = [key for step in range(9, 18) for key in keys(joint[step].images[2:])]
    assert sorted(second) == sorted(seen) and second != seen and len(fetched(hub)) == SHARDS


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_a_function_of_its_step(labelled: Path, hub: Path, tmp_path: Path, workers: int) -> None:
    joint = batches(labelled, open_version(REF, Store(tmp_path / "a")), seed=5)
    streamed = [keys(batch.images) for batch in joint.stream(7, 12, workers=workers)]
    other = batches(labelled, open_version(REF, Store(tmp_path / "b")), seed=5)
    assert streamed == [keys(other[step].images) for step in range(7, 12)]
    parts = [
        batches(labelled, open_version(REF, Store(tmp_path / "b")), seed=5, batch_size=2, rank=r, world=2)
        for r in range(2)
    ]
    for step in range(7, 9):
        first, second = (keys(part[step].images) for part in parts)
        assert [first[0], second[0], first[1], second[1]] == streamed[step - 7]


def test_a_fetched_version_has_its_order_and_a_local_one_keeps_its_own(
    labelled: Path, published: Path, hub: Path, tmp_path: Path
) -> None:
    local = batches(labelled, published / "v1")
    rng = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(1, 0, 0)))
    order = rng.permutation(SHARDS * EACH)  # what it was before versions could be fetched
    assert [key for step in range(9) for key in keys(local[step].images[2:])] == order.tolist()
    together = JointBatches(
        read_coco(labelled), [published / "v1", open_version(REF, Store(tmp_path))], size=64, batch_size=4, augment=FIT
    )
    seen = sorted(key for step in range(18) for key in keys(together[step].images[2:]))
    assert seen == sorted(2 * list(range(18)))


def test_tombstones_are_skipped(labelled: Path, hub: Path, tmp_path: Path) -> None:
    version = open_version("hf://org/gone", Store(tmp_path))
    joint = batches(labelled, version)
    joint[0]
    assert 1 <= len(fetched(hub)) <= 2  # the manifest says how many images each shard has
    shards = [s.model_copy(update={"tombstones": 0}) for s in version.manifest.shards]
    older = RemoteVersion(version.folder, version.manifest.model_copy(update={"shards": shards}), version.origin)
    for kind in (joint, batches(labelled, older)):
        check_whole(kind)
    assert len(fetched(hub)) == SHARDS


def check_whole(joint: JointBatches) -> None:
    seen = [key for step in range(8) for key in keys(joint[step].images[2:])]
    assert sorted(seen) == [n for n in range(18) if n not in (4, 17)]


def test_shards_are_fetched_ahead(labelled: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("students.data.streams.Thread", AtOnce)
    monkeypatch.setattr("students.data.streams.WINDOW", 2)
    version = open_version(REF, Store(tmp_path / "store"))
    joint, plain = batches(labelled, version), batches(labelled, open_version(REF, Store(tmp_path / "plain")))
    joint[0]
    ahead = fetched(hub)
    assert 3 <= len(ahead) <= 4
    two_windows = {record.name for _, record in joint.shards_seen(4 * EACH // 2)}
    assert len(two_windows) == 4 and set(ahead) <= two_windows
    order = [keys(joint[step].images) for step in range(9)]
    assert len(set(fetched(hub))) == len(fetched(hub)) == SHARDS
    monkeypatch.setattr("students.data.streams.Thread", Idle)
    assert order == [keys(plain[step].images) for step in range(9)]


def test_what_fails_ahead_is_told_when_it_is_needed(
    labelled: Path, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("students.data.streams.WINDOW", 1)
    version = open_version(REF, Store(tmp_path / "store"))
    batches(labelled, version, batch_size=2)[0]  # its shard is here now, and no other
    monkeypatch.setattr("students.data.streams.Thread", AtOnce)
    set_faults(hub, Fault("/resolve/", status=503, times=999))
    joint = batches(labelled, version, batch_size=2)
    joint[EACH - 1]
    assert [line["status"] for line in requests_log(hub)][-1] == 503
    with pytest.raises(Exception, match=r"the Hub failed for org/scenes \(503\)"):
        joint[EACH]


def test_what_is_fetched_may_vanish_and_a_broken_line_is_a_sentence(labelled: Path, hub: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    joint = batches(labelled, open_version(REF, store))
    first = keys(joint[0].images)
    shutil.rmtree(store.root / "remote")
    assert keys(joint[0].images) == first
    shutil.rmtree(store.root / "remote")
    set_faults(hub, Fault("/resolve/", status=503, times=999))
    for workers in (0, 1):
        with pytest.raises(Exception, match=r"the Hub failed for org/scenes \(503\)"):
            list(joint.stream(0, 2, workers=workers))


def test_a_shard_with_other_samples_than_its_manifest_says(
    labelled: Path, published: Path, hub: Path, tmp_path: Path
) -> None:
    version = open_version(REF, Store(tmp_path))
    shards = [s.model_copy(update={"samples": 4}) for s in version.manifest.shards]
    wrong = RemoteVersion(version.folder, version.manifest.model_copy(update={"shards": shards}), version.origin)
    with pytest.raises(LoaderError, match="has not the 4 samples, 0 of them to be skipped, that its manifest states"):
        batches(labelled, wrong)[0]


def test_training_streams_and_says_what_it_saw(
    scenes: Truth, labelled: Path, published: Path, hub: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path / "store")
    recipe = make_recipe(labelled, pseudo=(REF,), steps=2, save_every=1)
    run = train(recipe, tmp_path / "run", store)
    meta = json.loads((run / "meta.json").read_text())
    manifest = read_manifest(published / "v1")
    assert meta["recipe"]["pseudo"] == [{"name": "scenes", "version": "v1", "id": manifest.id, "streamed": True}]
    assert set(fetched(hub)) < {record.name for record in manifest.shards}
    pseudo = set[str]()
    for name in fetched(hub):
        path = published / "v1/data" / name
        pseudo |= {json.loads(s.members["json"].read())["sha256"] for s in read_samples(path)}
    human = {hashlib.sha256(image.path.read_bytes()).hexdigest() for image in read_coco(labelled).images}
    assert meta["trained_on"] == sorted(human | pseudo)
    longer = train(recipe.model_copy(update={"steps": 20, "save_every": 20}), tmp_path / "longer", store)
    every = {hashlib.sha256(image.path.read_bytes()).hexdigest() for image in scenes.images}
    assert json.loads((longer / "meta.json").read_text())["trained_on"] == sorted(human | every)
    words = ["evaluate", str(longer), "--truth", REF, "--json", "--store", str(store.root)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "AP50" in json.loads(result.stdout)


def test_a_version_is_a_truth(scenes: Truth, published: Path, hub: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    truth = version_truth(open_version(REF, store), store)
    assert truth.classes == scenes.classes and len(truth.images) == 18
    for ours, theirs in zip(truth.images, scenes.images, strict=True):
        assert ours.path.read_bytes() == theirs.path.read_bytes()
        np.testing.assert_allclose(ours.boxes, theirs.boxes)
        assert ours.crowd.tolist() == [i % 2 == 1 for i in range(len(theirs.boxes))] and ours.name == theirs.name
    finder = RectangleFinder(scenes.classes)
    assert evaluate_boxes(finder, truth)[0]["AP50"] == pytest.approx(1)
    assert len(read_labels(str(published / "v1"), None, store).images) == 18
    assert len(read_labels("hf://org/gone", None, store).images) == 16
    with pytest.raises(Exception, match="no version 'pets@v1'"):
        read_labels("pets@v1", None, store)
    with pytest.raises(TruthError, match="do not exist"):
        read_labels(str(tmp_path / "labels.json"), None, store)


LOAD = """
import hashlib, json, sys
from datasets import Image, load_dataset
for streaming in (True, False):
    for revision in ("v1", None):
        rows = load_dataset("org/pets", revision=revision, split="train", streaming=streaming)
        sizes = [row["jpg"].size for row in rows]
        rows = rows.cast_column("jpg", Image(decode=False))
        told = [{"key": row["__key__"], "image": hashlib.sha256(row["jpg"]["bytes"]).hexdigest(), "json": row["json"], "size": size}
                for row, size in zip(rows, sizes)]
        print(json.dumps([streaming, revision, told]))
"""


def test_load_dataset_gives_the_shards_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_images(tmp_path / "pool", 10)
    write_results(tmp_path, names, empty=6)  # more than the rows that datasets would guess types from
    recipe = write_recipe(tmp_path, shards={"max_mb": 1}, pool={"source": "pool", "chunk": 4})
    words = ["--store", str(tmp_path / "store"), "--set", "shards.max_mb=1"]
    for score in ("0.5", "0.8"):
        result = CliRunner().invoke(main, ["build", str(recipe), "--no-report", *words, "--set", f"keep.score={score}"])
        assert result.exit_code == 0, result.output
    with HubServer.running(tmp_path / "hub") as server:
        use_hub(monkeypatch, server.url, tmp_path)
        for version in ("v1", "v2"):
            publish(Version.open(tmp_path / "store/datasets/pets" / version), "org/pets")
        home = {
            "HF_ENDPOINT": server.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "home"),
            "HF_TOKEN": WRITER,
        }
        command = [sys.executable, "-W", "ignore", "-c", LOAD]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **home}, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for line in done.stdout.splitlines():
        _, revision, rows = json.loads(line)
        folder = tmp_path / "store/datasets/pets" / (revision or "v2")
        paths = [folder / "data" / record.name for record in read_manifest(folder).shards]
        samples = [sample for path in paths for sample in read_samples(path)]
        assert [row["key"] for row in rows] == [sample.key for sample in samples]
        for row, sample in zip(rows, samples, strict=True):
            assert row["image"] == hashlib.sha256(sample.members["jpg"].read()).hexdigest()
            label = json.loads(sample.members["json"].read())
            assert row["size"] == [label["width"], label["height"]]
            assert float32(row["json"]) == float32(label)
        assert sum(not row["json"]["objects"]["bbox"] for row in rows) >= 6
    assert len(done.stdout.splitlines()) == 4


def float32(value: Any) -> Any:
    """Floats as the 32 bits they are stored with, keys in order."""
    if isinstance(value, dict):
        return {key: float32(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [float32(item) for item in value]
    return float(np.float32(value)) if isinstance(value, float) else value


@pytest.mark.parametrize("damaged", [lambda data: data[:700], lambda data: data[:600] + b"x" + data[601:]])
def test_a_shard_that_the_disk_damaged_is_fetched_again(
    labelled: Path, hub: Path, tmp_path: Path, damaged: Callable[[bytes], bytes]
) -> None:
    store = Store(tmp_path)
    version = open_version(REF, store)
    before = keys(batches(labelled, version)[0].images)
    for record in version.manifest.shards:
        path = version.shard(record)
        path.write_bytes(damaged(path.read_bytes()))
    assert keys(batches(labelled, open_version(REF, store))[0].images) == before
    assert len(version_truth(open_version(REF, store), store).images) == SHARDS * EACH
    assert len(fetched(hub)) == 2 * SHARDS
