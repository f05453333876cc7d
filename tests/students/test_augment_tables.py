"""Augment-S2 to S4: what is drawn, how strong, and what recipes say of it; every kind of label trains with it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms import v2

from builder.errors import BuildError
from builder.store.store import Store
from builder.truth.read import read_truth
from students.augment import policies
from students.augment.operations import Distortion, motion
from students.augment.policies import NO_BOXES, OPERATIONS, AutoAugment, RandAugment, Step
from students.augment.scene import S1, S2, S3, S4, Augment, AugmentRecipe
from students.data.loader import IMAGENET_GREY, JointBatches
from students.tasks.choose import task_of
from students.train.loop import train
from students.train.recipe import TrainRecipe, load_train_recipe
from tests.helpers.coloured import ARCHS, COLOURS, write_labelled

GREY = (124, 116, 104)
CLASSES_TABLES = {
    "imagenet": (policies.IMAGENET, v2.AutoAugmentPolicy.IMAGENET),
    "cifar10": (policies.CIFAR10, v2.AutoAugmentPolicy.CIFAR10),
}


def test_objects_in_boxes_are_moved_as_often_as_in_the_authors_code() -> None:
    boxes = np.array([[10.0, 10, 200, 300], [300, 10, 500, 300], [100, 300, 200, 470]])
    moved = Counter[int]()
    for seed in range(3000):
        for shift in S2.policy.draw(640, 480, np.random.default_rng(seed), boxes).shifts:  # type: ignore[union-attr]
            moved[abs(shift.pixels)] += len(shift.boxes)
    assert set(moved) == {24, 72}
    assert moved[24] / 9000 == pytest.approx(0.2 / 3 / 5, abs=0.004)
    assert moved[72] / 9000 == pytest.approx(0.6 / 3 / 5, abs=0.006)


@pytest.mark.parametrize("side", [32, 640, 1280])
def test_lengths_are_in_proportion_to_the_scene(side: int) -> None:
    steps = (Step("TranslateX", 1, 4), Step("Cutout", 1, 8))
    found = AutoAugment((steps,)).draw(side, side // 2, np.random.default_rng(0), NO_BOXES)
    assert found.warp is not None
    assert abs(found.warp[0, 2]) == pytest.approx(100 * side / 640)
    (x1, y1, x2, y2) = found.cutouts[0]
    assert x2 - x1 == y2 - y1 == 2 * int(80 * side / 640)
    assert 0 <= (x1 + x2) / 2 < side and 0 <= (y1 + y2) / 2 < side // 2


def names_of(found: Distortion) -> set[str]:
    named = {colour.name for colour in found.colours}
    return named | ({"Cutout"} if found.cutouts else set()) | ({"boxes"} if found.shifts else set())


def test_s4_has_randaugment_instead_of_autoaugment() -> None:
    assert isinstance(S2.policy, AutoAugment) and S3.policy == S2.policy
    assert S4.policy == RandAugment(layers=2, magnitude=10.0)
    assert (S1.jitter, S2.jitter, S3.jitter, S4.jitter) == ((0.8, 1.2), (0.8, 1.2), (0.5, 2.0), (0.5, 2.0))
    boxes = np.tile([[10.0, 10, 200, 300]], (8, 1))
    seen: dict[str, Counter[str]] = {"S3": Counter(), "S4": Counter()}
    for name, augment in (("S3", S3), ("S4", S4)):
        for seed in range(4000):
            found = augment.place(640, 480, 64, np.random.default_rng(seed), boxes).distortion
            seen[name].update(names_of(found))
            seen[name]["moved"] += found.warp is not None
    assert set(seen["S3"]) == {"Equalize", "Cutout", "Color", "boxes", "moved"}
    assert set(seen["S4"]) == set(OPERATIONS) - set(policies.MOVING) | {"moved"}
    once = 1 - (16 / 17) ** 2  # of two draws among sixteen operations and none
    for name in set(OPERATIONS) - set(policies.MOVING):
        assert seen["S4"][name] / 4000 == pytest.approx(once, abs=0.025), name
    alone = [RandAugment(layers=1).draw(640, 480, np.random.default_rng(seed), boxes) for seed in range(2000)]
    nothing = sum(one.warp is None and not names_of(one) for one in alone)
    assert nothing / 2000 == pytest.approx(1 / 17, abs=0.02)
    assert seen["S4"]["moved"] / 4000 == pytest.approx(1 - (12 / 17) ** 2, abs=0.03)
    assert seen["S3"]["moved"] / 4000 == pytest.approx((0.6 + 0 + 0 + 1 + 0.6) / 5, abs=0.03)
    assert seen["S3"]["Color"] / 4000 == pytest.approx(0.2, abs=0.03)
    assert seen["S3"]["Cutout"] / 4000 == pytest.approx(0.16, abs=0.03)


def test_the_levels_are_the_authors() -> None:
    """Level 10 of RandAugment, as `level_to_arg` of the TensorFlow code has it."""
    values: dict[str, set[float]] = {}
    for seed in range(600):
        found = RandAugment(layers=1).draw(640, 480, np.random.default_rng(seed), NO_BOXES)
        for name, value in found.colours:
            values.setdefault(name, set()).add(round(value, 6))
        for x1, _, x2, _ in found.cutouts:
            values.setdefault("Cutout", set()).add(x2 - x1)
    plain = {"AutoContrast": {0.0}, "Equalize": {0.0}, "Invert": {0.0}, "Posterize": {4.0}, "Solarize": {256.0}}
    enhanced = {name: {1.9} for name in ("Color", "Contrast", "Brightness", "Sharpness")}
    assert values == plain | enhanced | {"SolarizeAdd": {110.0}, "Cutout": {80.0}}


def test_at_level_0_nothing_moves() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    boxes = np.array([[5.0, 5, 30, 30]], np.float32)
    moving = tuple(
        (Step(name, 1, 0), Step(other, 1, 0)) for name in policies.MOVING for other in ("Cutout", policies.IN_BOXES)
    )
    for seed in range(60):
        policy = AutoAugment((*moving, (Step("SolarizeAdd", 1, 0), Step("Color", 1, 5))))
        still, plain = (
            augment(pixels, boxes, 64, GREY, np.random.default_rng(seed))
            for augment in (replace(S1, policy=policy), S1)
        )
        for ours, theirs in zip(still, plain, strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", sorted(CLASSES_TABLES))
def test_tables_of_classes_are_torchvisions(name: str) -> None:
    table, policy = CLASSES_TABLES[name]
    theirs = v2.AutoAugment(policy)._policies
    ours = [tuple((step.name, step.probability, int(step.level)) for step in pair) for pair in table]
    assert ours == [tuple((n, p, m or 0) for n, p, m in pair) for pair in theirs]


@pytest.mark.parametrize("operation", sorted(v2.AutoAugment._AUGMENTATION_SPACE))
def test_levels_of_classes_are_torchvisions(operation: str) -> None:
    magnitudes, signed = v2.AutoAugment._AUGMENTATION_SPACE[operation]
    expected = magnitudes(10, 200, 300)
    for level in range(10):
        value = 0.0 if expected is None else float(expected[level])
        policy = AutoAugment(((Step(operation, 1, level), Step("Invert", 0, 0)),), None)
        drawn = [policy.draw(300, 200, np.random.default_rng(seed), NO_BOXES) for seed in range(8)]
        if operation in policies.MOVING:
            wanted = [motion(operation, s * (int(value) if "Trans" in operation else value), 300, 200) for s in (-1, 1)]
            found = [np.eye(3) if one.warp is None else one.warp for one in drawn]
            assert all(any(np.allclose(f, w, atol=1e-6) for w in wanted) for f in found)
            assert level == 0 or all(any(np.allclose(f, w, atol=1e-6) for f in found) for w in wanted)
        else:
            found_values = {one.colours[0].value for one in drawn}
            signs = {1 - value, 1 + value} if signed else {value * (255 if operation == "Solarize" else 1)}
            assert sorted(found_values) == pytest.approx(sorted(signs), abs=1e-4)


# recipes


def test_a_recipe_chooses_and_changes_a_policy(tmp_path: Path) -> None:
    def build(section: Any, arch: Any = "fcos") -> Augment:
        path = tmp_path / "train.yaml"
        path.write_text(f"{{labelled: l.json, steps: 1, augment: {section}}}")
        return load_train_recipe(path).augment.build(0.5, task_of(arch).autoaugment)

    assert [build(name) for name in ("S1", "S2", "S3", "S4")] == [S1, S2, S3, S4]
    assert build("{policy: S4, jitter: [0.3, 1], magnitude: 5, layers: 3, cutout: 7}") == Augment(
        (0.3, 1.0), 0.5, RandAugment(3, 5.0, replace(policies.RANDAUGMENT_RANGES, cutout=7.0))
    )
    assert build("{policy: S2, rotate: 10}").policy == AutoAugment(
        policies.DETECTION, replace(policies.AUTOAUGMENT_RANGES, rotate=10.0)
    )
    assert build("S3", "fpn").policy == AutoAugment(policies.DETECTION)
    assert build("S2", "linear").policy == AutoAugment(policies.IMAGENET, None)
    assert build("{policy: S2, autoaugment: cifar10}", "linear").policy == AutoAugment(policies.CIFAR10, None)
    assert build("{policy: S2, autoaugment: detection}", "linear") == S2
    with pytest.raises(BuildError, match=r"augment\.shear .*imagenet"):
        build("{policy: S2, shear: 0.1}", "linear")


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("S5", "augment.policy = 'S5'"),
        ("{policy: S1, magnitude: 4}", "magnitude is no part of S1: use policy S4"),
        ("{policy: S4, autoaugment: imagenet}", "autoaugment is no part of S4: use policy S2 or S3"),
        ("{policy: S4, jitter: [2, 0.5]}", "jitter goes from 2.0 down to 0.5"),
        ("{policy: S4, magnitude: 0}", "augment.magnitude = 0"),
        ("{policy: S4, magnitud: 3}", "augment.magnitud"),
        ("{policy: S2, autoaugment: svhn}", "augment.autoaugment = 'svhn'"),
    ],
)
def test_a_wrong_section_is_one_sentence(tmp_path: Path, section: str, words: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(f"{{labelled: l.json, steps: 1, augment: {section}}}")
    with pytest.raises(BuildError) as caught:
        load_train_recipe(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_description_says_what_the_recipe_says() -> None:
    assert AugmentRecipe().model_dump(mode="json") == "S1"  # as in runs from before there were sections
    section = {"policy": "S4", "jitter": [0.5, 1.5], "magnitude": 8.0}
    assert AugmentRecipe.model_validate(section).model_dump(mode="json") == section
    assert AugmentRecipe.model_validate(
        AugmentRecipe.model_validate(section).model_dump()
    ) == AugmentRecipe.model_validate(section)
    with pytest.raises(ValidationError):
        AugmentRecipe.model_validate(3)


@pytest.mark.parametrize("kind", ["detection", *sorted(ARCHS)])
def test_every_kind_trains_with_every_policy(tmp_path: Path, kind: str) -> None:
    labels = write_labelled(tmp_path / "labels", "instance" if kind == "detection" else kind, count=6)
    arch = {**ARCHS, "detection": "fcos"}[kind]
    network = {
        "arch": arch,
        "backbone": "timm:test_resnet",
        "size": 64,
        "channels": 16,
        "head_depth": 1,
        "levels": [8, 16],
    }
    for name in ("S2", "S3", "S4"):
        content = {"labelled": labels, "network": network, "steps": 1, "batch": 4, "workers": 0, "augment": name}
        records: list[Any] = []
        train(TrainRecipe.model_validate(content), tmp_path / name, Store(tmp_path / "store"), records.append)
        assert math.isfinite(records[0]["loss"]) and records[0]["loss"] > 0


def test_batches_are_the_same_with_workers(tmp_path: Path) -> None:
    truth = read_truth(write_labelled(tmp_path, "instance", count=6), outlines=True)
    batches = JointBatches(truth, task=task_of("maskrcnn"), size=48, batch_size=3, augment=S3, seed=3)
    apart = batches.stream(0, 4, workers=2)
    for step, other in zip(range(4), apart, strict=True):
        one = batches[step]
        assert torch.equal(one.images, other.images)
        for a, b in zip(one.targets, other.targets, strict=True):
            assert torch.equal(a.boxes, b.boxes) and torch.equal(a.masks, b.masks)


def test_the_loader_tells_a_policy_of_its_boxes(tmp_path: Path) -> None:
    truth = read_truth(write_labelled(tmp_path, "instance", count=6), outlines=True)
    table = ((Step(policies.IN_BOXES, 3, 10), Step("Invert", 0, 0)),)  # of a third of the boxes, three times
    augment = Augment((1.0, 1.0), 0.0, AutoAugment(table))
    batch = JointBatches(truth, task=task_of("maskrcnn"), size=32, batch_size=6, augment=augment)[0]
    for image, target in zip(batch.images.permute(0, 2, 3, 1).numpy(), batch.targets, strict=True):
        colour = list(COLOURS.values())[int(target.labels[0])]
        mask, outside = (image == colour).all(axis=2), (image == IMAGENET_GREY).all(axis=2)
        assert outside.sum() >= 6 * 10  # 120 pixels of 640 are 6 of 32
        np.testing.assert_array_equal(target.masks[0].numpy(), mask)
        rows, columns = np.nonzero(mask)
        assert target.boxes[0].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
