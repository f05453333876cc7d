"""Training: a tiny real problem, resuming to the bit, joint with a version, on two processes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import PartialState
from click.testing import CliRunner
from torch import multiprocessing

from builder.cli.main import main
from builder.errors import BuildError
from builder.store.store import Store
from builder.truth.coco import read_coco
from students.evaluate.boxes import evaluate_boxes
from students.train.errors import TrainError
from students.train.loop import train
from students.train.recipe import TrainRecipe
from teachers.base import TeacherError, TeacherOptions
from teachers.from_checkpoint import CheckpointTeacher
from teachers.networks.checkpoints import load_checkpoint
from teachers.networks.config import NetworkConfig
from tests.helpers.rectangles import write_rectangles, write_version
from tests.helpers.training import NETWORK, SHORT, make_recipe


class Interrupted(Exception):
    pass


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COCO JSON of 12 scenes of coloured rectangles."""
    return write_rectangles(tmp_path_factory.mktemp("scenes"), 12)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory, scenes: Path) -> Path:
    """A version of 8 other scenes: every second object is an ignore region."""
    other = write_rectangles(tmp_path_factory.mktemp("others"), 8, seed=1)
    return write_version(tmp_path_factory.mktemp("version"), read_coco(other), ["red", "green", "blue"])


def read_log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def interrupt_at(step: int) -> Any:
    def progress(record: Mapping[str, Any]) -> None:
        if record["step"] == step:
            raise Interrupted

    return progress


def test_a_student_learns_and_its_run_says_what_it_is(scenes: Path, tmp_path: Path) -> None:
    recipe = make_recipe(scenes, steps=120, batch=8, lr=5e-3, save_every=1000)
    run = train(recipe, tmp_path / "run", Store(tmp_path))
    log = read_log(run)
    assert [record["step"] for record in log] == list(range(1, 121))
    first, last = (np.mean([record["human"] for record in part]) for part in (log[:5], log[-5:]))
    assert last < 0.5 * first
    assert all(record["moved"] and record["gradient_norm"] > 0 and record["images_per_s"] > 0 for record in log)
    meta = json.loads((run / "meta.json").read_text())
    assert meta["step"] == 120 and meta["classes"] == ["red", "green", "blue"]
    truth = read_coco(scenes)
    assert meta["trained_on"] == sorted(hashlib.sha256(i.path.read_bytes()).hexdigest() for i in truth.images)
    assert meta["recipe"]["labelled"]["sha256"] == hashlib.sha256(scenes.read_bytes()).hexdigest()
    assert str(scenes.parent) not in (run / "meta.json").read_text()
    teacher = CheckpointTeacher(run, TeacherOptions())
    assert teacher.trained_on == meta["trained_on"]
    metrics, _ = evaluate_boxes(teacher, truth)
    assert metrics["AP50"] > 0.3


@pytest.mark.parametrize("joint", [False, True], ids=["supervised", "joint"])
def test_an_interrupted_run_ends_with_the_same_weights(
    scenes: Path, version: Path, tmp_path: Path, joint: bool
) -> None:
    recipe = make_recipe(scenes, pseudo=(str(version),) if joint else (), ema=0.9 if joint else 0.0)
    whole = train(recipe, tmp_path / "whole", Store(tmp_path))
    torch.manual_seed(99)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "cut", Store(tmp_path), interrupt_at(5))
    assert len(read_log(tmp_path / "cut")) == 5  # two of which are not in the save of step 3
    torch.manual_seed(98)
    again = train(recipe.model_copy(update={"workers": 1}), tmp_path / "cut", Store(tmp_path))
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (again / "meta.json").read_bytes() == (whole / "meta.json").read_bytes()
    timeless = [[{**r, "images_per_s": 0} for r in read_log(run)] for run in (whole, again)]
    assert timeless[0] == timeless[1] and len(timeless[0]) == 6


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(scenes: Path, tmp_path: Path) -> None:
    recipe = make_recipe(scenes, steps=2)
    run = train(recipe, tmp_path / "run", Store(tmp_path))
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"}
    assert train(recipe, run, Store(tmp_path), interrupt_at(1)) == run
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name != ".lock"} == before
    with pytest.raises(TrainError, match="another lr and seed"):
        train(make_recipe(scenes, steps=2, lr=0.5, seed=4), run, Store(tmp_path))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(TrainError, match="other files"):
        train(recipe, tmp_path / "full", Store(tmp_path))
    assert sorted(path.name for path in (tmp_path / "full").iterdir() if path.name != ".lock") == ["thesis.tex"]


def test_a_recipe_that_failed_can_be_mended(scenes: Path, tmp_path: Path) -> None:
    """Only a run that has saved something keeps its folder to itself."""
    wrong = make_recipe(scenes).network
    with pytest.raises(TeacherError, match="nothing"):
        train(make_recipe(scenes, network=replace(wrong, backbone="timm:nothing")), tmp_path / "run", Store(tmp_path))
    with pytest.raises(Interrupted):
        train(make_recipe(scenes, lr=0.5), tmp_path / "run", Store(tmp_path), interrupt_at(1))
    run = train(make_recipe(scenes, steps=1), tmp_path / "run", Store(tmp_path))
    assert len(read_log(run)) == 1 and json.loads((run / "recipe.json").read_text())["lr"] == SHORT["lr"]
    (run / "meta.json").unlink()  # as if killed inside its first save
    with pytest.raises(TrainError, match="another lr"):
        train(make_recipe(scenes, steps=1, lr=0.5), run, Store(tmp_path))


def test_evaluate_warns_of_images_that_were_trained_on(scenes: Path, tmp_path: Path) -> None:
    run = train(make_recipe(scenes, labelled={"path": scenes, "limit": 5}, steps=1), tmp_path / "run", Store(tmp_path))
    others = write_rectangles(tmp_path / "others", 2, seed=2)
    for labels, seen in ((scenes, 5), (others, 0)):
        words = ["evaluate", str(run), "--truth", str(labels), "--store", str(tmp_path / "store"), "--json"]
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert json.loads(result.stdout).get("trained_on", 0) == seen
        assert (f"warning: the teacher was trained on {seen} of these 12 images" in result.stderr) == (seen > 0)


def test_of_several_processes_one_speaks(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"labelled": str(scenes), "network": NETWORK, **SHORT, "steps": 1}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(content))
    words = [
        "train",
        str(tmp_path / "train.yaml"),
        "--out",
        str(tmp_path / "run"),
        "--store",
        str(tmp_path / "store"),
        "--json",
    ]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert json.loads(result.stdout) == {"run": str(tmp_path / "run"), "steps": 1} and "step 1/1" in result.stderr
    monkeypatch.setattr(PartialState, "is_main_process", False)
    assert CliRunner().invoke(main, words, catch_exceptions=False).output == ""


@pytest.mark.parametrize("lost", [("meta.json",), ("meta.json", "model.safetensors")])
def test_a_run_killed_inside_its_last_save_is_completed(scenes: Path, tmp_path: Path, lost: tuple[str, ...]) -> None:
    recipe = make_recipe(scenes, steps=2)
    run = train(recipe, tmp_path / "run", Store(tmp_path))
    before = {name: (run / name).read_bytes() for name in ("meta.json", "model.safetensors", "log.jsonl")}
    for name in lost:  # state.pt is written first, the weights next, meta.json last
        (run / name).unlink()
    train(recipe, run, Store(tmp_path), interrupt_at(1))
    assert {name: (run / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("name", ["meta.json", "model.safetensors"])
def test_what_a_damaged_run_advises_brings_it_back(scenes: Path, tmp_path: Path, name: str) -> None:
    recipe = make_recipe(scenes, steps=2)
    run = train(recipe, tmp_path / "run", Store(tmp_path))
    before = {name: (run / name).read_bytes() for name in ("meta.json", "model.safetensors")}
    (run / name).write_bytes(before[name][:-40])
    with pytest.raises(TeacherError, match=r"remove (it|meta\.json) and run the training again"):
        train(recipe, run, Store(tmp_path))
    (run / "meta.json").unlink()
    train(recipe, run, Store(tmp_path))
    assert {name: (run / name).read_bytes() for name in before} == before


def test_a_joint_run_logs_both_streams(scenes: Path, version: Path, tmp_path: Path) -> None:
    recipe = make_recipe(scenes, pseudo=(str(version),), alpha=0.5, decay=0.9)
    log = read_log(train(recipe, tmp_path / "run", Store(tmp_path)))
    human = pseudo = 0.0
    for number, record in enumerate(log, 1):
        assert record["human_positives"] > 0 and record["pseudo_positives"] > 0
        for stream in ("human", "pseudo"):
            terms = [record[f"{stream}_{term}"] for term in ("classification", "regression", "centerness")]
            assert record[stream] == pytest.approx(sum(terms))
            weight = 1 / 1.5 if stream == "human" else 0.5 * record["ratio"] / 1.5
            weighted = [record[f"{stream}_{term}_weighted"] for term in ("classification", "regression", "centerness")]
            assert weighted == pytest.approx([weight * term for term in terms])
            assert record[f"{stream}_weighted"] == pytest.approx(weight * record[stream])
        human, pseudo = (0.9 * a + 0.1 * b for a, b in ((human, record["human"]), (pseudo, record["pseudo"])))
        assert record["human_average"] == pytest.approx(human / (1 - 0.9**number), rel=1e-4)
        assert record["ratio"] == pytest.approx(human / pseudo, rel=1e-4)
        assert record["loss"] == pytest.approx(
            (record["human"] + 0.5 * record["ratio"] * record["pseudo"]) / 1.5, rel=1e-4
        )
        assert record["loss"] == pytest.approx(record["human_weighted"] + record["pseudo_weighted"], rel=1e-4)
        assert record["clip_rate"] == 0 == record["human_ignored"] < record["pseudo_ignored"] < 0.5
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert meta["recipe"]["pseudo"][0]["name"] == "scenes" and len(meta["recipe"]["pseudo"][0]["id"]) == 64


def test_the_plain_joint_loss_is_a_sum(scenes: Path, version: Path, tmp_path: Path) -> None:
    recipe = make_recipe(scenes, pseudo=(str(version),), alpha=0.5, normalise=False, steps=2)
    for record in read_log(train(recipe, tmp_path / "run", Store(tmp_path))):
        assert record["loss"] == pytest.approx(record["human"] + 0.5 * record["pseudo"])
        assert record["ratio"] == 1 != record["ratio_unclipped"] and record["pseudo_average"] > 0
    narrow = make_recipe(scenes, pseudo=(str(version),), clip=(0.98, 0.99), steps=2)
    for record in read_log(train(narrow, tmp_path / "narrow", Store(tmp_path))):
        assert record["clip_rate"] == 1 and record["ratio"] == pytest.approx(
            min(max(record["ratio_unclipped"], 0.98), 0.99)
        )


def test_a_ratio_that_is_clipped_most_of_the_time_is_warned_of(scenes: Path, version: Path, tmp_path: Path) -> None:
    for clip, warned in (([0.98, 0.99], True), ([0.01, 100], False)):
        content = {
            "labelled": str(scenes),
            "network": NETWORK,
            **SHORT,
            "steps": 1,
            "pseudo": [str(version)],
            "clip": clip,
        }
        (tmp_path / "train.yaml").write_text(yaml.safe_dump(content))
        words = ["train", str(tmp_path / "train.yaml"), "--out", str(tmp_path / f"run-{warned}"), "--json"]
        result = CliRunner().invoke(main, [*words, "--store", str(tmp_path / "store")], catch_exceptions=False)
        assert ("clipped in 100% of the steps" in result.stderr) == warned and json.loads(result.stdout)["steps"] == 1


def test_weights_are_averaged_over_the_steps(scenes: Path, tmp_path: Path) -> None:
    """By hand, from the weights and buffers that each step saved: the first as they are, then d = min(.3, n / (n + 9)).
    The network with batch norm has running means, and a count of batches, which is rounded down."""
    network = replace(make_recipe(scenes).network, norm="batch")
    saved: list[dict[str, torch.Tensor]] = []

    def keep(record: Mapping[str, Any]) -> None:
        state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
        saved.append(state["network"])

    recipe = make_recipe(scenes, network=network, steps=5, save_every=1, ema=0.3, lr=1e-2)
    run = train(recipe, tmp_path / "run", Store(tmp_path), keep)
    expected = {name: value.double() for name, value in saved[0].items()}
    for n, weights in enumerate(saved[1:], 2):
        decay = min(0.3, n / (n + 9))
        expected = {name: decay * value + (1 - decay) * weights[name] for name, value in expected.items()}
    ours = load_checkpoint(run)[0].state_dict()
    assert any("running_mean" in name for name in ours) and ours.keys() == expected.keys()
    for name, value in ours.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-7, msg=name)
    assert any(not torch.equal(value, saved[-1][name]) for name, value in ours.items())
    assert json.loads((run / "recipe.json").read_text())["ema"] == 0.3


def test_a_run_from_before_some_keys_is_found_to_be_the_same(scenes: Path, tmp_path: Path) -> None:
    run = train(make_recipe(scenes, steps=1), tmp_path / "run", Store(tmp_path))
    assert not {"ema", "clip", "normalise", "rounds"} & json.loads((run / "recipe.json").read_text()).keys()
    with pytest.raises(TrainError, match="another ema and normalise"):
        train(make_recipe(scenes, steps=1, ema=0.9, normalise=False), run, Store(tmp_path))


def test_a_student_starts_from_its_teacher(scenes: Path, tmp_path: Path) -> None:
    others = write_rectangles(tmp_path / "others", 4, seed=2)
    labelled = {"path": others, "limit": 3}
    teacher = train(make_recipe(scenes, labelled=labelled, steps=2), tmp_path / "teacher", Store(tmp_path))
    recipe = make_recipe(scenes, init=f"checkpoint:{teacher}", steps=1, lr=1e-12)
    student = train(recipe, tmp_path / "student", Store(tmp_path))
    theirs, ours = (set(load_checkpoint(run)[2].trained_on) for run in (teacher, student))
    assert len(theirs) == 3 and theirs < ours and len(ours) == 3 + 12
    weights, start = (load_checkpoint(run)[0].state_dict() for run in (student, teacher))
    assert all(torch.allclose(weights[name], start[name], atol=1e-6) for name in start)
    wider = recipe.model_copy(update={"network": replace(recipe.network, channels=32)})
    with pytest.raises(TrainError, match="another network"):
        train(wider, tmp_path / "wider", Store(tmp_path))
    with pytest.raises(TeacherError, match=r"meta\.json"):
        train(make_recipe(scenes, init="checkpoint:nowhere"), tmp_path / "lost", Store(tmp_path))


def test_a_diverged_training_is_given_up(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="50 steps in a row"):
        train(make_recipe(scenes, steps=200, batch=1, lr=1e30, warmup=0.0), tmp_path / "run", Store(tmp_path))
    log = read_log(tmp_path / "run")
    assert not log[-1]["moved"] and log[-1]["human"] is None and len(log) < 100


def train_share(rank: int, recipe: TrainRecipe, folder: Path, port: int) -> None:
    """One of two processes, in the environment that `accelerate launch` sets up."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    train(recipe, folder, Store(folder))


def test_two_processes_train_what_one_does(scenes: Path, version: Path, tmp_path: Path) -> None:
    """The same images at every step, the same losses and the same averages; one log, one set of files."""
    recipe = make_recipe(scenes, pseudo=(str(version),), steps=3)
    alone = train(recipe, tmp_path / "one", Store(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(train_share, (recipe, tmp_path / "two", port), nprocs=2)
    ours, theirs = read_log(tmp_path / "two"), read_log(alone)
    assert len(ours) == len(theirs) == 3
    for one, other in zip(ours, theirs, strict=True):
        for name in set(one) - {"images_per_s"}:
            assert one[name] == pytest.approx(other[name], rel=1e-3), name
    state = torch.load(tmp_path / "two" / "state.pt", weights_only=True)
    assert state["step"] == 3 and len(state["random"]) == 2
    load_checkpoint(tmp_path / "two")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 3, "pseudo": ("cells",)}, "multiple of 2"),
        ({"pseudo": ("cells",)}, "no version 'cells'"),
        ({"precision": "fp16"}, "fp16"),
        ({"network": NetworkConfig(classes=("a",))}, "network.classes"),
        ({"network": NetworkConfig(backbone="timm:nothing")}, "timm:nothing"),
        ({"network": NetworkConfig(std=(0.2, 0.0, 0.2))}, "must be above 0"),
        ({"labelled": Path("missing.json")}, "missing.json"),
    ],
)
def test_a_training_that_cannot_start_is_one_sentence(
    scenes: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((BuildError, TeacherError), match=message) as caught:
        train(make_recipe(scenes, **changes), tmp_path / "run", Store(tmp_path))
    assert "\n" not in str(caught.value)
