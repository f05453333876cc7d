"""A student of each kind: labelled folders and shards to batches, training, and a teacher that does better."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from builder.errors import BuildError
from builder.store.store import Store
from builder.truth.read import read_truth
from builder.truth.records import Truth
from students.augment.scene import FIT
from students.data.loader import JointBatches
from students.data.streams import LoaderError
from students.evaluate.measure import measure
from students.tasks.base import Task
from students.tasks.choose import task_of
from students.train.loop import train
from students.train.recipe import TrainRecipe
from teachers.base import TeacherOptions
from teachers.from_checkpoint import CheckpointTeacher
from teachers.networks.build import build_network
from teachers.networks.config import NetworkConfig
from tests.helpers.coloured import (
    ARCHS,
    COLOURS,
    NAMES,
    SIZE,
    box_of,
    write_labelled,
    write_version,
)

SHORT = {"steps": 4, "batch": 4, "workers": 0, "save_every": 2, "lr": 1e-3}


def make_recipe(labelled: Path, arch: Any = None, **changes: Any) -> TrainRecipe:
    network = NetworkConfig(arch=arch, backbone="timm:test_resnet", size=SIZE, channels=16, head_depth=1, levels=(4, 8))
    return TrainRecipe(**{"labelled": labelled, "network": network, **SHORT, **changes})


def read_kind(path: Path, kind: str) -> tuple[Truth, Task]:
    return read_truth(path, outlines=kind == "instance"), task_of(ARCHS[kind])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ARCHS)
def test_batches_hold_what_shards_and_people_say(tmp_path: Path, kind: str) -> None:
    truth, task = read_kind(write_labelled(tmp_path / "labelled", kind), kind)
    version = write_version(tmp_path / "version", kind)
    batches = JointBatches(truth, [version], task=task, size=SIZE, batch_size=16, augment=FIT)
    batch = batches[0]
    assert batch.pseudo.tolist() == [False] * 8 + [True] * 8
    for image, target, pseudo in zip(
        batch.images.permute(0, 2, 3, 1).numpy(), batch.targets, batch.pseudo, strict=True
    ):
        (label,) = (n for n, colour in enumerate(COLOURS.values()) if (image == colour).all(2).sum() > 50)
        mask = (image == COLOURS[NAMES[label]]).all(2)
        if kind == "classification":
            expected = np.full(3, 0.1) + 0.7 * np.eye(3)[label] if pseudo else np.eye(3)[label]
            np.testing.assert_allclose(target.probabilities, expected, rtol=1e-6)
        elif kind == "semantic":
            expected = np.where(mask, label, 255 if pseudo else 3)
            if not pseudo:
                expected[0] = 255
            np.testing.assert_array_equal(target.labels, expected)
            assert target.labels.dtype == torch.uint8
        else:
            np.testing.assert_array_equal(target.masks[0], mask)
            assert target.labels.tolist() == [label] and len(target.ignore) == int(pseudo)
            x, y, w, h = box_of(mask)
            assert target.boxes.tolist() == [[x, y, x + w, y + h]]
    for step, streamed in enumerate(batches.stream(0, 2, workers=1)):
        assert torch.equal(streamed.images, batches[step].images)
        for ours, theirs in zip(streamed.to(torch.device("cpu")).targets, batches[step].targets, strict=True):
            assert type(ours) is type(theirs)
            assert all(torch.equal(value, vars(theirs)[name]) for name, value in vars(ours).items())


@pytest.mark.parametrize(
    ("kind", "steps", "lr", "figure", "least"),
    [
        ("classification", 40, 5e-3, "accuracy", 0.9),
        ("semantic", 60, 1e-2, "mIoU", 0.7),
        ("instance", 60, 5e-3, "mask_AP50", 0.1),
    ],
)
def test_a_student_of_each_kind_learns_from_both_and_becomes_a_teacher(
    tmp_path: Path, kind: str, steps: int, lr: float, figure: str, least: float
) -> None:
    labelled = write_labelled(tmp_path / "labelled", kind)
    version = write_version(tmp_path / "version", kind)
    arch = "maskrcnn" if kind == "instance" else None  # the others are inferred
    recipe = make_recipe(labelled, arch, pseudo=(str(version),), steps=steps, batch=8, lr=lr, save_every=1000)
    run = train(recipe, tmp_path / "run", Store(tmp_path))
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert all(record["human_positives"] > 0 and record["pseudo_positives"] > 0 for record in log)
    assert np.mean([r["human"] for r in log[-5:]]) < 0.7 * np.mean([r["human"] for r in log[:5]])
    meta = json.loads((run / "meta.json").read_text())
    assert meta["network"]["arch"] == ARCHS[kind] and ("soft" in meta["recipe"]) == (kind == "classification")
    assert len(meta["trained_on"]) == 12 + 8
    teacher = CheckpointTeacher(run, TeacherOptions())
    assert teacher.description["kind"] == kind
    metrics = measure(teacher, read_kind(labelled, kind)[0]).metrics
    assert metrics[figure] > least


@pytest.mark.parametrize("kind", ARCHS)
def test_an_interrupted_run_of_each_kind_ends_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(record: Any) -> None:
        if record["step"] == 3:
            raise Interrupted

    labelled, version = write_labelled(tmp_path / "labelled", kind), write_version(tmp_path / "version", kind)
    recipe = make_recipe(labelled, ARCHS[kind], pseudo=(str(version),))
    whole = train(recipe, tmp_path / "whole", Store(tmp_path))
    torch.manual_seed(99)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "cut", Store(tmp_path), interrupt)
    torch.manual_seed(98)
    again = train(recipe, tmp_path / "cut", Store(tmp_path))
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (again / "meta.json").read_bytes() == (whole / "meta.json").read_bytes()


@pytest.mark.parametrize("kind", ARCHS)
def test_alpha_0_is_supervised_training(tmp_path: Path, kind: str) -> None:
    """Whatever the pseudo-labels say, the weights are the same, and the loss is that of the human half."""
    labelled, weights = write_labelled(tmp_path / "labelled", kind), set()
    for shift in (0, 1):
        version = write_version(tmp_path / f"version{shift}", kind, shift=shift)
        recipe = make_recipe(labelled, ARCHS[kind], pseudo=(str(version),), alpha=0.0, steps=2)
        run = train(recipe, tmp_path / f"run{shift}", Store(tmp_path))
        weights.add((run / "model.safetensors").read_bytes())
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert all(record["loss"] == pytest.approx(record["human"]) for record in log)
    assert len(weights) == 1


@pytest.mark.parametrize("kind", ["semantic", "instance"])
def test_what_is_ignored_is_counted_by_stream(tmp_path: Path, kind: str) -> None:
    """Maps: void pixels. Instances: anchors half in an ignore region, but no object's."""
    truth, task = read_kind(write_labelled(tmp_path / "labelled", kind), kind)

    def unsure(label: dict[str, Any]) -> None:
        if kind == "instance":  # the region is to hold half of some anchors
            label["objects"]["bbox"][1] = [0.0, 0.0, 32.0, 20.0]

    version = write_version(tmp_path / "version", kind, change=unsure)
    config = replace(make_recipe(tmp_path, ARCHS[kind]).network, classes=truth.classes)
    batch = JointBatches(truth, [version], task=task, size=SIZE, batch_size=16, augment=FIT)[0]
    network = build_network(config)
    outputs = task.forward(network)(batch.images, batch.targets)
    sums = task.sums(network, outputs, batch.targets, batch.pseudo)
    assert sums.ignored is not None
    ignored, everything = sums.ignored.tolist()
    if kind == "semantic":
        void = [sum(int((t.labels == 255).sum()) for t in half) for half in (batch.targets[:8], batch.targets[8:])]
        assert (ignored, everything) == (void, [8 * SIZE * SIZE] * 2) and void[1] > void[0] == 8 * SIZE
    else:
        assert ignored[0] == 0 < ignored[1] < everything[1] == everything[0]


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    folders = {kind: write_labelled(tmp_path / kind, kind) for kind in ARCHS}
    version = write_version(tmp_path / "version", "semantic")
    wrong = write_version(tmp_path / "wrong", "semantic", change=lambda label: label.update(width=31))
    boxes = json.loads(folders["instance"].read_text())
    for note in boxes["annotations"]:
        del note["segmentation"]
    (tmp_path / "instance" / "boxes.json").write_text(json.dumps(boxes))
    cases = [
        (
            make_recipe(folders["semantic"], "linear"),
            "semantic labels, which do not teach classification: use arch fpn",
        ),
        (make_recipe(folders["classification"], "fcos"), "use arch linear"),
        (make_recipe(folders["classification"], "maskrcnn"), "no outlines of objects"),
        (make_recipe(tmp_path / "instance" / "boxes.json", "maskrcnn"), "annotation 1 has no outline"),
        (make_recipe(folders["classification"], pseudo=(str(version),)), "scenes@v1 holds semantic labels"),
    ]
    for number, (recipe, message) in enumerate(cases):
        with pytest.raises(BuildError, match=message) as caught:
            train(recipe, tmp_path / f"run{number}", Store(tmp_path))
        assert "\n" not in str(caught.value)
    truth, task = read_kind(folders["semantic"], "semantic")
    with pytest.raises(LoaderError, match=r"scene-\d .*size") as error:
        JointBatches(truth, [wrong], task=task, size=SIZE, batch_size=2)[0]
    assert "\n" not in str(error.value)


def test_a_detector_learns_from_an_instance_version(tmp_path: Path) -> None:
    labelled = write_labelled(tmp_path / "labelled", "instance")
    version = write_version(tmp_path / "version", "instance")
    run = train(make_recipe(labelled, pseudo=(str(version),), steps=2), tmp_path / "run", Store(tmp_path))
    assert json.loads((run / "meta.json").read_text())["network"]["arch"] == "fcos"


@pytest.mark.parametrize("kind", ARCHS)
def test_of_maps_alone_the_ratio_only_lowers_pseudo_labels(tmp_path: Path, kind: str) -> None:
    """Its default; `clip: [0.1, 10]` is for all kinds what it was, and then no other run."""
    labelled, version = write_labelled(tmp_path / "labelled", kind), write_version(tmp_path / "version", kind)
    arch = "maskrcnn" if kind == "instance" else None
    stated, weights = {}, {}
    for name, clip in (("default", {}), ("wide", {"clip": (0.1, 10.0)}), ("capped", {"clip": (0.1, 1.0)})):
        recipe = make_recipe(labelled, arch, pseudo=(str(version),), **clip)
        run = train(recipe, tmp_path / name, Store(tmp_path))
        stated[name] = json.loads((run / "recipe.json").read_text()).get("clip")
        weights[name] = (run / "model.safetensors").read_bytes()
        limit = clip.get("clip", (0.1, 1.0 if kind == "semantic" else 10.0))[1]
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert all(record["ratio"] == pytest.approx(min(record["ratio_unclipped"], limit)) for record in log)
    same = "capped" if kind == "semantic" else "wide"
    assert stated == {"default": [0.1, 1.0] if same == "capped" else None, "wide": None, "capped": [0.1, 1.0]}
    assert weights["default"] == weights[same]
