"""build-pseudo on a Ray cluster of two nodes, of which one dies, under a driver that is killed and started again."""

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
from builder.store.store import Store
from tests import ROOT
from tests.helpers.pools import tree, write_recipe

YOLOX = ROOT / "examples" / "coco_yolox" / "yolox_nano_416.yaml"
SCRIPT = ROOT / "tests" / "helpers" / "two_raylets.py"
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
    command = [*ALONE, sys.executable, str(SCRIPT), str(recipe), str(recipe.parent / "cluster")]
    process = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_the_store_is_that_of_one_machine(recipe: Path, seen: dict[str, Any]) -> None:
    spoken = [line for line in seen["err"].splitlines() if "network_util.cc" not in line]  # Ray misses its network
    lost = "warning: a worker of the cluster was lost, with its node perhaps; its work is done again by others"
    assert (seen["code"], spoken) == (0, [lost])
    alone = build_pseudo(load_recipe(recipe), Store(recipe.parent / "alone"), root=recipe.parent, report=False)
    assert alone.cut is not None and json.loads(seen["out"])["id"] == alone.cut.manifest.id
    here, there = (tree(recipe.parent / name) for name in ("alone", "cluster"))
    different = {name for name in here.keys() | there.keys() if here.get(name) != there.get(name)}
    assert {Path(name).name for name in different} <= {"claim.json"}, different


def test_what_was_labelled_before_a_death_is_kept(seen: dict[str, Any]) -> None:
    assert 2 <= seen["driver_killed_at"] < seen["raylet_killed_at"] < 12 and seen["kept"]


def test_an_address_where_nobody_answers_is_one_sentence(seen: dict[str, Any]) -> None:
    assert seen["refused"].startswith("Error: nobody answers at 127.0.0.1:1 (Connection refused): start a Ray cluster")
