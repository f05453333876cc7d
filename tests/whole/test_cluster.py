"""build-pseudo on a Ray cluster of two nodes, of which one dies, under a driver that is killed and started again; the
images lie in a bucket, and the version goes into one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from builder.build import build_pseudo
from builder.recipe.recipe import load_recipe
from builder.store.files import sha256_file
from builder.store.store import Store
from tests import ROOT
from tests.helpers.pools import tree, write_recipe

YOLOX = ROOT / "examples" / "coco_yolox" / "yolox_nano_416.yaml"
ALONE = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""In a network and among processes of its own: Ray's servers are seen by nobody, and end with it."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "pool").mkdir()
    for source in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:23]:
        shutil.copy(source, folder / "pool")
    (folder / "pool" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no image")
    weights = str(shared_data / "models" / "yolox_nano_416.onnx")
    teacher = {"spec": f"onnx:{YOLOX}", "weights": weights, "batch_size": 2}
    return write_recipe(folder, pool={"source": "pool", "chunk": 2}, teacher=teacher, max_failure_rate=0.1)


@pytest.fixture(scope="module")
def seen(recipe: Path) -> dict[str, Any]:
    if not shutil.which("unshare") or subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        pytest.skip("no network namespace can be made here: unshare --net needs root")
    folder = recipe.parent
    command = [*ALONE, sys.executable, "-m", "tests.helpers.two_raylets", str(recipe), str(folder / "pool")]
    command += [str(folder / "cluster")]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def quiet(err: str) -> list[str]:
    """What was printed on stderr, but for Ray's word that it misses its network."""
    return [line for line in err.splitlines() if "network_util.cc" not in line]


def test_the_version_is_that_of_one_machine_with_the_images_in_a_folder(recipe: Path, seen: dict[str, Any]) -> None:
    lost = "warning: a worker of the cluster was lost, with its node perhaps; its work is done again by others"
    assert seen["code"] == 0 and set(quiet(seen["err"])) <= {lost}  # the run may end before anybody misses the worker
    alone = build_pseudo(load_recipe(recipe), Store(recipe.parent / "alone"), root=recipe.parent, report=False)
    assert alone.cut is not None and json.loads(seen["out"])["id"] == alone.cut.manifest.id
    for part in ("predictions", "datasets/pets/v1/data"):
        here, there = (tree(recipe.parent / name / part) for name in ("alone", "cluster"))
        assert here and here == there


def test_nodes_publish_it_with_its_manifest(recipe: Path, seen: dict[str, Any]) -> None:
    out, err = seen["published"]
    assert all("licence" in line for line in quiet(err)) and json.loads(out)["state"] == "published"
    folder = recipe.parent / "cluster" / "datasets" / "pets" / "v1"
    files = {f"out/pets/v1/{p.relative_to(folder)}": sha256_file(p) for p in folder.rglob("*") if p.is_file()}
    assert seen["hashes"] == {name: hash for name, hash in files.items() if name in seen["hashes"]}
    assert {name for name in files if name.endswith((".tar", "manifest.json"))} <= seen["hashes"].keys()


def test_nodes_in_another_folder_materialise_it(recipe: Path, seen: dict[str, Any]) -> None:
    assert json.loads(seen["written"][0])["out"] == "plain", seen["written"][1]
    plain = tree(recipe.parent / "cluster" / "datasets" / "pets" / "v1")
    assert tree(recipe.parent / "plain") == {name: data for name, data in plain.items() if name != "claim"}


def test_what_was_labelled_before_a_death_is_kept(seen: dict[str, Any]) -> None:
    assert 2 <= seen["driver_killed_at"] < seen["raylet_killed_at"] < 12 and seen["kept"]


def test_an_address_where_nobody_answers_is_one_sentence(seen: dict[str, Any]) -> None:
    assert seen["refused"].startswith("Error: nobody answers at 127.0.0.1:1 (Connection refused): start a Ray cluster")
