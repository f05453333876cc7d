"""The studies of examples/: their scripts write what the recipes name, and no image is in two sets."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from builder.scan.sources import list_source
from students.study.data import read_sets
from students.study.plan import plan_study
from students.study.recipe import load_study
from tests import ROOT

STUDIES = {
    "bccd/few_labels": "bccd/few_labels_split",
    "bccd/imagenet": "bccd/few_labels_split",
    "bccd/study": "bccd/study_split",
    "camvid/study": "camvid/study_split",
    "cifar10/imagenet": "cifar10/imagenet_split",
    "cifar10/study": "cifar10/study_split",
    "digits/study": "digits/study_scenes",
    "mnist/study": "mnist/study_split",
}
OURS = ("digits", "mnist")
"""Whose images no data folder is needed for."""


def write(project: Path, script: str) -> None:
    """Run a script of examples/ as if `project` were the checkout."""
    if not (project / "examples").exists():
        shutil.copytree(ROOT / "examples", project / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    runpy.run_path(str(project / "examples" / f"{script}.py"), run_name="__main__")


def test_every_study_is_known_here() -> None:
    written = {str(path.relative_to(ROOT / "examples").with_suffix("")) for path in (ROOT / "examples").rglob("*.yaml")}
    recipes = {name for name in written if "seeds:" in (ROOT / "examples" / f"{name}.yaml").read_text()}
    assert recipes == set(STUDIES)


@pytest.mark.filterwarnings("ignore:.*hold values without a line in classes.txt")  # CamVid's 11: unlabelled
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_of_the_examples_can_begin(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if name.partition("/")[0] not in OURS:
        (tmp_path / "shared").mkdir()
        (tmp_path / "shared" / "data").symlink_to(request.getfixturevalue("shared_data"))
    project = tmp_path / "project"
    write(project, STUDIES[name])
    study = load_study(project / "examples" / f"{name}.yaml")
    named = {part: {image.path.resolve() for image in truth.images} for part, truth in read_sets(study).items()}
    assert study.pool is not None
    folder = Path(study.pool.images) if study.pool.images else None
    named["pool"] = {
        Path(entry.uri.removeprefix("file://")).resolve() for entry in list_source(study.pool.source, folder)
    }
    assert all(named.values())
    parts = sorted(named)
    for number, part in enumerate(parts):
        for other in parts[number + 1 :]:
            assert not named[part] & named[other], f"{part} and {other} share images"
    budget = {cost.arm: cost for cost in plan_study(study, tmp_path / "out").budget}
    assert budget["longer"].total == budget["self-training"].total
    assert {cost.human + cost.beside for cost in budget.values()} == {study.train["batch"]}


def test_the_weights_out_of_the_package_are_whole(tmp_path: Path) -> None:
    write(tmp_path, "imagenet_weights")
    weights = load_file(tmp_path / "runs" / "weights" / "tf_efficientnet_lite0.safetensors")
    assert len(weights) == 296 and all(value.isfinite().all() for value in weights.values())
    assert weights["conv_stem.weight"].shape == (32, 3, 3, 3) and weights["classifier.weight"].shape == (1000, 1280)
