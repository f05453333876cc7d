"""What labels can be expected to certify: against the solver on drawn labels, and as `sweep` and a build say it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from builder.cli.main import main
from builder.evidence.certify import solve
from builder.evidence.matching import Matches
from builder.evidence.planning import LIKELY, Need, plan
from builder.rules.keep import Precision
from builder.rules.scores import PoolScores, Scored
from tests.helpers.matched import some_matches
from tests.helpers.pools import write_world

TARGET = 0.8


def pool_of(matches: Matches) -> PoolScores:
    rows = Scored(matches.image, matches.label.astype(np.int64), matches.score, matches.weight)
    return PoolScores.of(rows, matches.images, len(matches.classes))


def labels(images: int, seed: int, sharpness: float) -> Matches:
    """Images by themselves, of a teacher that is right with probability score ** sharpness."""
    return replace(some_matches(seed, images=images, sharpness=sharpness), unit=np.arange(images))


def share_certified(images: int, sharpness: float, options: Precision, need: Need, draws: int = 60) -> float:
    pool = pool_of(labels(3000, 1, sharpness))
    solved = [
        solve(labels(images, 100 + seed, sharpness), pool, options, 0.05, lambda names, t: []) for seed in range(draws)
    ]
    return float(np.mean([any(g.certified and tuple(g.classes) == need.classes for g in groups) for groups in solved]))


@pytest.mark.parametrize("sharpness", [0.3, 0.6])
def test_with_the_images_that_it_asks_for_the_solver_certifies(sharpness: float) -> None:
    """`bird`, a twentieth of the boxes, needs more images than there are; what is told suffices, and is not far more
    than needed."""
    options = Precision(target=TARGET, over="class")
    pool = pool_of(labels(3000, 1, sharpness))
    told = []
    for seed in range(5):
        needs = {need.classes: need for need in plan(labels(60, seed, sharpness), pool, options, 60)}
        told.append(needs[("bird",)])
    assert all(not need.likely and (need.images is None or need.images > 60) for need in told)
    assert all(need.images or not need.sure for need in told)
    known = sorted((need for need in told if need.images), key=lambda need: need.images or 0)
    middle = known[len(known) // 2]
    assert len(known) >= 3 and share_certified(middle.images or 0, sharpness, options, middle) >= 0.6
    assert share_certified(max(10, (middle.images or 0) // 4), sharpness, options, middle) < LIKELY
    boxes = (middle.more_objects or 0) / middle.more_images
    truth = labels(3000, 1, sharpness)
    assert boxes == pytest.approx((truth.object_label == 2).sum() / 3000, rel=1.0)


def test_a_chance_is_that_of_the_solver() -> None:
    options = Precision(target=TARGET, over="version")
    for sharpness in (0.2, 6.0):
        (need,) = plan(labels(80, 3, sharpness), pool_of(labels(3000, 1, sharpness)), options, 40)
        assert need.chance == pytest.approx(share_certified(40, sharpness, options, need), abs=0.3)


def test_more_labels_do_not_help_a_teacher_that_is_flat_below_the_target() -> None:
    flat = labels(400, 2, 0.0)
    half = np.random.default_rng(0).random(len(flat.score)) < 0.5
    flat = replace(flat, right=flat.right & half, counted=np.ones_like(flat.counted))
    (need,) = plan(flat, pool_of(flat), Precision(target=TARGET, over="version"), 400)
    assert need.images is None and need.chance < 0.2 and need.advice() == "more labels alone will hardly do"


def test_a_rarer_class_of_a_group_is_told_what_it_needs_for_its_own_threshold() -> None:
    tune = labels(60, 0, 0.3)
    pool = pool_of(labels(3000, 1, 0.3))
    needs = plan(tune, pool, Precision(target=TARGET), 60)
    assert [(need.classes, need.own) for need in needs] == [
        (("cat",), False), (("dog", "bird"), False), (("dog",), True), (("bird",), True),
    ]  # fmt: skip
    dog, bird = (need.images for need in needs[2:])
    assert dog and bird and 60 < dog < bird
    per_image = pool.total[2] / pool.images
    assert bird * per_image >= 6 * 11  # the support from which on a class has its own


def test_pixels_are_counted_in_images() -> None:
    """Every pixel is right: 22 equal images are needed, however many pixels they have."""
    rng, images = np.random.default_rng(0), 30
    weight = rng.integers(9000, 11000, images)
    rows: dict[str, Any] = {
        "image": np.arange(images), "label": np.zeros(images, np.int16), "score": np.full(images, 0.9, np.float32),
        "area": np.ones(images, np.float32), "right": np.ones((2, images), bool), "counted": np.ones((2, images), bool),
        "object_image": np.arange(images), "object_label": np.zeros(images, np.int16), "weight": weight,
        "object_area": np.ones(images, np.float32), "object_counts": np.ones(images, bool), "object_weight": weight,
        "object_score": np.full((2, images), 0.9, np.float32), "names": tuple(map(str, range(images))),
    }  # fmt: skip
    tune = replace(labels(images, 0, 1.0), **rows, unit=np.arange(images), shared=np.array([True, False, False]))
    few, more = (plan(tune, pool_of(tune), Precision(target=TARGET, over="class"), n)[0] for n in (10, 40))
    assert few.chance == 0 and few.images and 22 <= few.images <= 26 and few.more_objects is None
    assert more.likely and "images to certify on" in few.advice()


# As it is said


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, pool=20, truth=60)
    return folder


def run(world: Path, *words: str) -> Result:
    return CliRunner().invoke(main, [words[0], str(world / "recipe.yaml"), *words[1:], "--store", str(world / "store")])


def test_sweep_shows_the_plan_without_a_use(world: Path) -> None:
    assert run(world, "build", "--only", "label").exit_code == 0
    for precision in (0.8, 0.97):
        text = (world / "recipe.yaml").read_text()
        (world / "recipe.yaml").write_text(text.replace("precision: 0.8", f"precision: {precision}"))
        shown = run(world, "sweep").output
        assert f"what the labels can be expected to certify at {precision}" in shown
        needs = json.loads(run(world, "sweep", "--json").stdout)["plan"]
        assert all(0 <= need["chance"] <= 1 for need in needs)
        (world / "recipe.yaml").write_text(text)
    assert not (world / "store" / "certify").exists()


def test_a_build_that_will_hardly_be_certified_says_so_before_it_looks(world: Path) -> None:
    result = run(world, "build", "--set", "keep.precision.target=0.97", "--no-report")
    assert result.exit_code == 1 and "is unlikely to be certified" in result.stderr
    assert "this look at the certify half is counted all the same" in " ".join(result.stderr.split())
