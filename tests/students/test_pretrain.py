"""Pre-training: on digits, resumed, killed inside a save, described; what starts from it; the command."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

from builder.cli import main as cli
from builder.scan.scanner import scan_pool
from builder.store.files import TEMPORARY
from builder.store.store import Store
from students.pretrain.loop import PretrainRecipe, pretrain
from students.train.errors import TrainError
from students.train.loop import train
from students.train.recipe import TrainRecipe
from teachers.base import TeacherError, TeacherOptions
from teachers.from_checkpoint import CheckpointTeacher
from teachers.networks.backbones import make_backbone
from teachers.networks.checkpoints import load_checkpoint
from teachers.networks.config import NetworkConfig
from tests.helpers.pools import write_images

HALF = (0.5, 0.5, 0.5)
NETWORK = NetworkConfig(backbone="timm:test_resnet", size=16, levels=(4, 8), norm="batch", mean=HALF, std=HALF)
PLAIN = {"flip": False, "colour": 0.0, "blur": False, "min_scale": 0.4}
SHORT = {"network": NETWORK, "steps": 6, "batch": 8, "workers": 0, "save_every": 3, **PLAIN}


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    write_images(folder, 20)
    return folder


def recipe(pool: Path | str, **changes: Any) -> PretrainRecipe:
    return PretrainRecipe(**{"pool": pool, **SHORT, **changes})


def interrupt_at(step: int) -> Any:
    def progress(record: Mapping[str, Any]) -> None:
        if record["step"] == step:
            raise Interrupted

    return progress


def read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def hashes(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


# ------------------------------------------------------------------ digits


def features(body: nn.Module, images: list[np.ndarray]) -> np.ndarray:
    pixels = torch.stack([torch.from_numpy(np.array(image)) for image in images])[:, None].repeat(1, 3, 1, 1)
    with torch.no_grad():
        found = body.eval()((pixels.float() / 255 - 0.5) / 0.5)[-1].mean((2, 3)).numpy()
    return (found - found.mean(0)) / (found.std(0) + 1e-6)


def test_its_loss_falls_and_its_features_beat_random_ones_on_a_linear_probe(tmp_path: Path) -> None:
    digits = load_digits()
    images = [
        np.asarray(Image.fromarray((255 * one / 16).astype(np.uint8)).resize((16, 16), Image.Resampling.BILINEAR))
        for one in digits.images
    ]
    (tmp_path / "pool").mkdir()
    for number, image in enumerate(images[:1000]):
        Image.fromarray(image).save(tmp_path / "pool" / f"{number}.png")
    options = {"steps": 40, "batch": 64, "lr": 5e-3, "save_every": 1000}
    run = pretrain(recipe(tmp_path / "pool", **options), tmp_path / "run", Store(tmp_path / "store"))
    log = read_log(run)
    loss, accuracy = (
        [np.mean([record[key] for record in part]) for part in (log[:4], log[-4:])] for key in ("loss", "accuracy")
    )
    assert loss[1] < 0.65 * loss[0] and accuracy[1] > accuracy[0] + 0.2

    def probe(weights: str | None) -> float:
        body, _ = make_backbone(NETWORK.backbone, NETWORK.levels, weights, "batch")
        found = features(body, images[1000:])
        model = LogisticRegression(max_iter=2000).fit(found[:100], digits.target[1000:1100])
        return float(model.score(found[100:], digits.target[1100:]))

    random = []
    for seed in range(5):
        torch.manual_seed(seed)
        random.append(probe(None))
    assert probe(str(run / "backbone.safetensors")) > max(random) + 0.03


# ------------------------------------------------------------------ the run


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_an_interrupted_run_ends_with_the_same_weights(pool: Path, tmp_path: Path, norm: Any) -> None:
    store, ours = Store(tmp_path / "store"), recipe(pool, network=replace(NETWORK, norm=norm))
    whole = pretrain(ours, tmp_path / "whole", store)
    torch.manual_seed(99)
    with pytest.raises(Interrupted):
        pretrain(ours, tmp_path / "cut", store, interrupt_at(5))
    assert len(read_log(tmp_path / "cut")) == 5  # two of which are not in the save of step 3
    (tmp_path / "cut" / f"{TEMPORARY}state.pt").touch()  # as a save leaves it that is killed
    torch.manual_seed(98)
    again = pretrain(ours.model_copy(update={"workers": 1}), tmp_path / "cut", store)
    for name in ("backbone.safetensors", "meta.json", "recipe.json"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    assert {path.name for path in again.iterdir()} == {path.name for path in whole.iterdir()}
    timeless = [[{**record, "images_per_s": 0} for record in read_log(run)] for run in (whole, again)]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 6


@pytest.mark.parametrize("lost", [("meta.json",), ("meta.json", "backbone.safetensors")])
def test_a_run_killed_inside_its_last_save_is_completed(pool: Path, tmp_path: Path, lost: tuple[str, ...]) -> None:
    ours = recipe(pool, steps=2)
    run = pretrain(ours, tmp_path / "run", Store(tmp_path / "store"))
    before = {name: (run / name).read_bytes() for name in ("meta.json", "backbone.safetensors", "log.jsonl")}
    for name in lost:  # state.pt is written first, the weights next, meta.json last
        (run / name).unlink()
    pretrain(ours, run, Store(tmp_path / "store"), interrupt_at(1))
    assert {name: (run / name).read_bytes() for name in before} == before


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(pool: Path, tmp_path: Path) -> None:
    store, ours = Store(tmp_path / "store"), recipe(pool, steps=1)
    run = pretrain(ours, tmp_path / "run", store)
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"}
    assert pretrain(ours, run, store, interrupt_at(1)) == run
    above = replace(NETWORK, channels=64, head_depth=1, arch="fpn")  # nothing of the backbone
    assert pretrain(ours.model_copy(update={"network": above}), run, store, interrupt_at(1)) == run
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"} == before
    with pytest.raises(TrainError, match="another temperature and seed"):
        pretrain(recipe(pool, steps=1, temperature=0.5, seed=4), run, store)


# ------------------------------------------------------------------ what starts from it


def write_classes(folder: Path) -> Path:
    for name, value in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.random.default_rng(number).integers(value, value + 40, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_student_starts_from_it_and_has_seen_its_images(pool: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run = pretrain(recipe(pool, steps=2), tmp_path / "simclr", store)
    meta = json.loads((run / "meta.json").read_text())
    assert meta["trained_on"] == sorted(hashes(pool)) and meta["step"] == 2
    assert str(pool) not in (run / "meta.json").read_text() + (run / "recipe.json").read_text()
    labelled = write_classes(tmp_path / "labelled")
    network = replace(NETWORK, pretrained=str(run / "backbone.safetensors"))
    options: dict[str, Any] = {"steps": 1, "batch": 2, "workers": 0, "lr": 1e-12, "weight_decay": 0}
    student = train(TrainRecipe(labelled=labelled, network=network, **options), tmp_path / "student", store)
    teacher = CheckpointTeacher(student, TeacherOptions())
    labels = {hashlib.sha256(path.read_bytes()).hexdigest() for path in labelled.rglob("*.png")}
    assert set(teacher.trained_on) == labels | hashes(pool)
    trained = load_checkpoint(student)[0].body
    start, _ = make_backbone(network.backbone, network.levels, network.pretrained, "batch")
    for (name, ours), theirs in zip(trained.named_parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)
    second = pretrain(
        recipe(write_classes(tmp_path / "more"), network=network, steps=1, batch=2), tmp_path / "second", store
    )
    assert set(json.loads((second / "meta.json").read_text())["trained_on"]) == labels | hashes(pool)

    with pytest.raises(TeacherError, match=r"no trained network: write network\.pretrained"):
        train(
            TrainRecipe(labelled=labelled, network=NETWORK, init=f"checkpoint:{run}", **options), tmp_path / "x", store
        )
    other = replace(network, mean=(0.4, 0.4, 0.4))
    with pytest.raises(TeacherError, match="expect mean and std"):
        train(TrainRecipe(labelled=labelled, network=other, **options), tmp_path / "y", store)


# ------------------------------------------------------------------ the command


def write_yaml(folder: Path, pool: str, **changes: Any) -> Path:
    network = {"backbone": "timm:test_resnet", "size": 16, "levels": [4, 8], "norm": "group"}
    content = {"pool": pool, "network": network, "steps": 2, "batch": 4, "workers": 0, **PLAIN, **changes}
    (folder / "simclr.yaml").write_text(yaml.safe_dump(content))
    return folder / "simclr.yaml"


def test_the_command_pretrains(pool: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.symlink_to(pool)
    path = write_yaml(tmp_path, "images")  # relative to the recipe
    common = [str(path), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "run"), "--json"]
    runner = CliRunner()
    dry = runner.invoke(cli.main, ["pretrain", *common, "--dry-run", "--set", "batch=5", "--seed", "3"])
    assert dry.exit_code == 0, dry.output
    said = json.loads(dry.stdout)["recipe"]
    assert (said["batch"], said["seed"], said["pool"]["source"]) == (5, 3, str(images))
    assert not (tmp_path / "run").exists() and not (tmp_path / "store").exists()
    done = runner.invoke(cli.main, ["pretrain", *common])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["backbone"] == str(tmp_path / "run" / "backbone.safetensors")
    assert "step 2/2  loss" in done.stderr and "accuracy" in done.stderr
    id = scan_pool(str(images), Store(tmp_path / "store")).id
    of_store = write_yaml(tmp_path, id[:12])
    again = runner.invoke(cli.main, ["pretrain", str(of_store), *common[1:-1]])
    assert again.exit_code == 0 and "step" not in again.stderr, again.output  # the same images: it is done


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "nowhere"}, "no pool 'nowhere'"),
        ({"batch": 21}, "batch 21 is more than the pool's 20 images"),
        ({"batch": 1}, "batch"),
        ({"tau": 0.1}, "tau"),
        ({"network": {"classes": ["a"]}}, "network.classes"),
        ({"network": {"norm": "frozen"}}, "pre-train with batch"),
        ({"network": {"backbone": "timm:no_such", "levels": [8]}}, "no_such"),
        ({"network": {"pretrained": "missing.pth"}}, "missing.pth"),
        ({"network": {"pretrained": "DEFAULT", "mean": [0.1, 0.1, 0.1], "norm": "batch"}}, "expect mean and std"),
    ],
)
def test_what_cannot_be_pretrained_is_one_sentence(
    changes: dict[str, Any], message: str, pool: Path, tmp_path: Path
) -> None:
    path = write_yaml(tmp_path, **{"pool": str(pool), **changes})
    arguments = ["pretrain", str(path), "--store", str(tmp_path / "store"), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 1, result.output
    assert message in result.stderr and "Traceback" not in result.output
    assert result.stderr.startswith("Error: ") and len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "meta.json").exists()
