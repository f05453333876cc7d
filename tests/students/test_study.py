"""The study engine: shares of labels, cells and their cost, and jobs that survive what befalls them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from builder.cli.main import main
from builder.errors import BuildError
from builder.store.labels import read_label
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.records import LabelledImage, Truth
from students.study.cell import run_job
from students.study.data import fold, likenesses, load_data, nested, strata
from students.study.declared import changed, declare
from students.study.grid import Job, as_json, budget, cells, choose, from_json, jobs
from students.study.kinds.choose import read_outcomes
from students.study.recipe import StudyRecipe, load_study
from students.study.results import ARMS, read_results
from students.study.run import estimate, prepare, run_study
from teachers.networks.meta import FORMAT
from tests.helpers.coloured import write_labelled
from tests.helpers.tiny_studies import NETWORK, TRAIN, write_study


def labelled_as(classes: list[list[int]]) -> Truth:
    """A truth whose images show these classes."""
    images = []
    for n, shown in enumerate(classes):
        labels = np.array(shown, np.int16)
        boxes, none = np.zeros((len(shown), 4), np.float32), np.zeros(len(shown), bool)
        area = np.zeros(len(shown), np.float32)
        images.append(LabelledImage(f"{n}.png", Path(f"{n}.png"), 9, 9, boxes, labels, none, area, n, none))
    return Truth(tuple("abcde"), images, tuple(range(5)))


SETS = st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=60)


@given(SETS, st.integers(0, 9), st.floats(0.01, 1), st.floats(0.01, 1), st.randoms())
def test_shares_are_nested_stratified_and_of_no_order(
    shown: list[list[int]], seed: int, one: float, other: float, random: Any
) -> None:
    truth = labelled_as(shown)
    small, large = ({i.name for i in nested(truth, share, seed).images} for share in sorted((one, other)))
    assert small <= large
    assert len(large) == max(1, round(max(one, other) * len(shown)))
    groups = dict(zip((image.name for image in truth.images), strata(truth).tolist(), strict=True))
    whole = Counter(groups.values())
    drawn = Counter(groups[name] for name in large)
    for group, count in whole.items():
        assert abs(drawn[group] - count * len(large) / len(shown)) <= len(whole)
    shuffled = list(truth.images)
    random.shuffle(shuffled)
    again = nested(Truth(truth.classes, shuffled, truth.category_ids), max(one, other), seed)
    assert {image.name for image in again.images} == large


def test_a_share_of_equal_classes_holds_equally_many_of_each() -> None:
    truth = labelled_as([[n % 5] for n in range(100)])
    for seed in range(3):
        shown = Counter(int(image.labels[0]) for image in nested(truth, 0.2, seed).images)
        assert set(shown.values()) == {4}
    assert len({tuple(i.name for i in nested(truth, 0.2, seed).images) for seed in range(3)}) == 3


@given(SETS, st.integers(0, 9), st.integers(2, 5), st.randoms())
def test_folds_part_the_images_and_are_stratified_and_of_no_order(
    shown: list[list[int]], seed: int, folds: int, random: Any
) -> None:
    truth = labelled_as(shown)
    parts = [fold(truth, number, folds, seed) for number in range(1, folds + 1)]
    inside = [{image.name for image in part.images} for part, _ in parts]
    assert sum(map(len, inside)) == len(shown) == len(set.union(*inside))
    assert all({i.name for i in rest.images} == {i.name for i in truth.images} - part
               for part, (_, rest) in zip(inside, parts, strict=True))  # fmt: skip
    assert max(map(len, inside)) - min(map(len, inside)) <= 1
    groups = dict(zip((image.name for image in truth.images), strata(truth).tolist(), strict=True))
    for group in set(groups.values()):
        counts = [sum(groups[name] == group for name in part) for part in inside]
        assert max(counts) - min(counts) <= 1
    shuffled = list(truth.images)
    random.shuffle(shuffled)
    again, _ = fold(Truth(truth.classes, shuffled, truth.category_ids), 1, folds, seed)
    assert {image.name for image in again.images} == inside[0]


def test_an_image_is_counted_as_the_rarest_class_it_shows() -> None:
    assert strata(labelled_as([[0, 1], [0], [0, 0, 2], [], [1]])).tolist() == [1, 0, 2, -1, 1]


def test_cells_come_seed_by_seed_and_can_be_chosen(tmp_path: Path) -> None:
    grid = {"fractions": [0.5, 1], "arms": ["supervised", "self-training", "ceiling"], "alpha": [0.5, 2], "rounds": 2}
    found = cells(load_study(write_study(tmp_path, grid=grid)))
    assert len(found) == 2 * 2 * (1 + 2 * 2 + 2)
    assert [cell.seed for cell in found] == sorted(cell.seed for cell in found)
    assert len(set(found)) == len(found)
    assert {cell.alpha for cell in found if cell.arm == "supervised"} == {0.0}
    chosen = choose(found, ["arm=supervised,ceiling", "fraction=1.0", "alpha=0,2", "seed=1"])
    assert [(cell.arm, cell.fraction, cell.alpha, cell.seed) for cell in chosen] == [
        ("supervised", 1.0, 0.0, 1),
        ("ceiling", 1.0, 2.0, 1),
    ]
    for wrong, told in {"seed=7": "no cell left has seed 7", "colour=red": "KEY=VALUE", "arm": "KEY=VALUE"}.items():
        with pytest.raises(BuildError, match=told):
            choose(found, [wrong])


def test_budgets_are_equal(tmp_path: Path) -> None:
    arms = ["supervised", "longer", "continued", "self-training", "continued-student", "joint", "ceiling", "placebo"]
    arms.append("doubly-robust")
    study = load_study(write_study(tmp_path, grid={"arms": arms}))
    rows = {row.arm: row for row in budget(study, cells(study), 12, 12)}
    assert {row.human + row.beside for row in rows.values()} == {4}
    assert {row.steps for arm, row in rows.items() if arm != "longer"} == {4}
    assert rows["longer"].total == rows["self-training"].total == rows["placebo"].total == 7
    assert rows["self-training"].labelled_by_teacher == 12 and rows["ceiling"].labelled_by_teacher == 0
    assert rows["continued"].total == rows["continued-student"].total == 7
    robust = rows["doubly-robust"]
    assert (robust.teacher_steps, robust.total, robust.labelled_by_teacher) == (3 * 3, 13, 24)
    assert (rows["continued"].beside, rows["continued"].labelled_by_teacher) == (0, 0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"train": TRAIN | {"seed": 3}}, "train.seed is set for each cell"),
        ({"train": TRAIN | {"stepz": 3}}, "unknown key 'stepz'"),
        ({"train": TRAIN | {"network": NETWORK | {"pretrained": "DEFAULT"}}}, "grid.init"),
        ({"grid": {"arms": ["ceiling"]}, "pool_truth": None}, "the arm ceiling needs pool_truth"),
        ({"grid": {"arms": ["joint"]}, "others": []}, "the arm joint needs others"),
        ({"grid": {"fractions": [1, 1]}}, "twice"),
        ({"grid": {"init": {"both": {"pretrained": "a", "checkpoint": "b"}}}}, "two ways"),
        ({"grid": {"init": {"own": {"pretrain": {"steps": 2, "bach": 4}}}}}, "bach"),
        ({"grid": {"init": {"own": {"pretrain": {"steps": 2, "seed": 4}}}}}, "pretrain.seed is that of the study"),
        ({"grid": {"augment": ["S9"]}}, "S9"),
        ({"measure": "val", "val": None}, "no val"),
        ({"primary": [{"arm": "joint", "against": "longer"}]}, "not in grid.arms"),
        ({"primary": [{"arm": "longer", "against": "supervised", "where": {"fraction": 0.3}}]}, "fraction 0.3"),
        ({"build": {"keep": {"score": 2}}}, "build.keep"),
        ({"build": {"teacher": {"flor": 0.1}}}, "flor"),
        ({"teacher": {"steps": 3, "augment": "S5"}}, "S5"),
        ({"teacher": {"steps": 3, "folds": 1}}, "teacher.folds = 1"),
        ({"train": TRAIN | {"doubly_robust": ["a"]}}, "train.doubly_robust is set for each cell"),
        ({"grid": {"arms": ["doubly-robust"]}, "pool": None}, "the arm doubly-robust needs pool"),
        (
            {"grid": {"arms": ["doubly-robust"]}, "train": TRAIN | {"network": NETWORK | {"arch": "maskrcnn"}}},
            "the arm doubly-robust does not learn outlines",
        ),
        (
            {"grid": {"arms": ["doubly-robust"], "fractions": [0.1, 1]}, "teacher": {"steps": 3, "folds": 3}},
            "the share 0.1 of the labels has 1 images, so that one of 3 folds would have none: lower teacher.folds",
        ),
    ],
)
def test_a_study_that_cannot_be_says_why(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = write_study(tmp_path, **change)
    done = CliRunner().invoke(main, ["study", str(path), "--dry-run"])
    assert done.exit_code == 1
    assert told in done.output and "Traceback" not in done.output


def test_studies_lie_in_folders_of_their_names(tmp_path: Path) -> None:
    """Recipes of several studies have the same file name."""
    for name in ("colours", "shades"):
        (tmp_path / name).mkdir()
        path = write_study(tmp_path / name, name=name)
        assert f"runs/studies/{name}\n" in CliRunner().invoke(main, ["study", str(path), "--dry-run"]).output


def test_a_dry_run_shows_grid_and_cost_and_writes_nothing(tmp_path: Path) -> None:
    path, out = write_study(tmp_path), tmp_path / "out"
    done = CliRunner().invoke(main, ["study", str(path), "--out", str(out), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "12, 60 steps, and 12 of their teachers" in done.output and "unknown until" in done.output
    assert not out.exists()
    told = json.loads(CliRunner().invoke(main, ["study", str(path), "--dry-run", "--json", "--only", "seed=0"]).stdout)
    assert told["cells"] == 6 and [row["total"] for row in told["budget"]] == [4, 7, 7]


@pytest.mark.parametrize("name", ["pool", "val", "others"])
def test_an_image_in_two_sets_is_refused(name: str, tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    (tmp_path / name / "0.png").write_bytes((tmp_path / "test" / "1.png").read_bytes())
    with pytest.raises(BuildError, match=r"1 images are in two of .*test"):
        load_data(study, Store(tmp_path / "store"))


def test_images_that_look_like_test_ones_are_told(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    rng = np.random.default_rng(9)
    noise = rng.integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).resize((40, 40)).save(tmp_path / "test" / "1.png")
    again = np.array(Image.fromarray(noise).resize((40, 40)))
    again[0, 0] ^= 4
    Image.fromarray(again).save(tmp_path / "pool" / "0.png")
    told = likenesses(study, load_data(study, Store(tmp_path / "store")))
    assert any(said.startswith("0.png looks like test/1.png of test") for said in told), told


def test_a_start_that_has_seen_test_images_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    study = load_study(write_study(tmp_path, grid={"init": {"own": {"checkpoint": "run"}}}))
    seen = [hashlib.sha256((tmp_path / "test" / "1.png").read_bytes()).hexdigest()]
    (run / "meta.json").write_text(
        json.dumps(
            {
                "format": FORMAT,
                "trained_on": seen,
                "network": {},
                "weights": {"file": "w", "sha256": "0" * 64, "bytes": 1},
            }
        )
    )
    with pytest.raises(BuildError, match=r"grid.init.own has learned from 1 images of test, 'test/1.png' first"):
        load_data(study, Store(tmp_path / "store"))


def test_what_was_declared_is_what_stood_before_the_first_figure(tmp_path: Path) -> None:
    path, out = write_study(tmp_path), tmp_path / "out"
    first, more = load_study(path), load_study(path, ["seeds=9"])
    other = load_study(path, ["primary=[{arm: longer, against: supervised}]"])
    assert changed(first, out) == ()
    declare(other, out, begun=False)
    declare(first, out, begun=False)
    declare(other, out, begun=True)
    assert (changed(first, out), changed(more, out), changed(other, out)) == ((), ("seeds",), ("primary",))
    (out / "declared.json").unlink()  # of a study that an older Tutelage began
    (out / "study.json").write_text(first.model_dump_json())
    declare(other, out, begun=True)
    assert changed(other, out) == ("primary",)


def test_a_pool_with_images_that_pool_truth_lacks_is_refused(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    rows = (tmp_path / "pool.csv").read_text().splitlines()
    (tmp_path / "pool.csv").write_text("\n".join(rows[:-1]))
    with pytest.raises(BuildError, match="pool_truth lacks 1 of the pool's 12 images"):
        load_data(study, Store(tmp_path / "store"))


def run(path: Path, out: Path, *more: str) -> dict[str, Any]:
    done = CliRunner().invoke(main, ["study", str(path), "--out", str(out), "--workers", "1", "--json", *more])
    assert done.exit_code == 0, done.output
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def check_folds_of(out: Path, cell: str, teachers: list[dict[str, Any]]) -> None:
    """Each of two teachers has learned from one half of the labelled images, and said what the other half shows."""
    halves = [set(meta["trained_on"]) for meta in teachers]
    assert [len(half) for half in halves] == [6, 6] and len(halves[0] | halves[1]) == 12
    student = json.loads((out / "cells" / cell[:16] / "run" / "meta.json").read_bytes())
    claimed = student["recipe"]["doubly_robust"]
    assert len(claimed) == 2 and len(student["trained_on"]) == 24
    for version in claimed:
        (folder,) = out.glob(f"store/datasets/{version['name']}/v1")
        opened = Version.open(folder)
        shown = {read_label(s, opened.manifest)["sha256"] for _, samples in opened.shards() for s in samples}
        (learned,) = (set(meta["trained_on"]) for meta in teachers if not shown & set(meta["trained_on"]))
        assert len(shown) == 6 and not learned & shown
    log = (out / "cells" / cell[:16] / "run" / "log.jsonl").read_text().splitlines()
    assert all("claimed" in json.loads(line) for line in log)


def test_every_arm_is_trained_measured_and_told(tmp_path: Path) -> None:
    path = write_study(tmp_path, grid={"arms": [*ARMS], "rounds": 2}, seeds=1)
    out = tmp_path / "out"
    assert run(path, out) == {"out": str(out), "done": 14, "failed": {}, "waiting": 0, "cells": 11}
    rows = {(row.arm, row.round): row for row in read_results(out / "results.parquet")}
    for (arm, _), row in rows.items():
        assert (row.labelled, row.batch, row.metric, row.error) == (12, 4, "accuracy", "")
        assert row.steps == (7 if arm == "longer" else 4)
        seen = read_outcomes(out / row.per_image)
        assert row.value == pytest.approx(float(seen.metric(np.ones((1, 9), int))[0]))
    beside = {arm: row.pool for (arm, _), row in rows.items()}
    assert beside == {
        "supervised": 0,
        "longer": 0,
        "continued": 0,
        "self-training": 12,
        "doubly-robust": 12,
        "continued-student": 12,
        "joint": 6,
        "self-training+joint": 18,
        "ceiling": 12,
        "placebo": 12,
    }
    first, second = rows["self-training", 1], rows["self-training", 2]
    assert (first.teacher_steps, second.teacher_steps) == (3, 7)
    spent = [json.loads((out / row.per_image).with_name("result.json").read_bytes()) for row in (first, second)]
    assert all(spent[1][f"{name}_seconds"] > spent[0][f"{name}_seconds"] for name in ("teacher", "label"))
    metas = [json.loads(meta.read_bytes()) for meta in out.glob("teachers/*/run/meta.json")]
    (begun,) = (meta["weights"]["sha256"] for meta in metas if len(meta["trained_on"]) == 12)
    for arm in ("continued", "continued-student"):
        meta = json.loads((out / rows[arm, 1].per_image).with_name("run").joinpath("meta.json").read_bytes())
        assert meta["recipe"]["init"] == begun and rows[arm, 1].teacher_steps == 3
    assert second.teacher_value == first.value
    assert rows["placebo", 1].teacher_value == first.teacher_value
    robust = rows["doubly-robust", 1]
    assert (robust.teacher_steps, robust.teacher_value) == (9, first.teacher_value)
    check_folds_of(out, robust.cell, [meta for meta in metas if len(meta["trained_on"]) < 12])
    before = (out / "results.parquet").read_bytes(), (out / "index.html").read_bytes()
    assert run(path, out)["done"] == 0
    assert before == ((out / "results.parquet").read_bytes(), (out / "index.html").read_bytes())
    assert not list(out.rglob("state.pt"))


def test_a_teacher_may_have_an_augmentation_of_its_own(tmp_path: Path) -> None:
    """The noise is then the student's alone: one teacher a seed for all augmentations of the grid."""
    grid = {"augment": ["S1", "S4"], "arms": ["supervised", "self-training"]}
    path = write_study(tmp_path, grid=grid, seeds=1, teacher={"steps": 3, "augment": "S1"})
    out = tmp_path / "out"
    assert run(path, out)["done"] == 5
    (teacher,) = out.glob("teachers/*/run/recipe.json")
    students = [json.loads(file.read_bytes())["augment"] for file in out.glob("cells/*/run/recipe.json")]
    assert json.loads(teacher.read_bytes())["augment"] == "S1" and sorted(students) == ["S1", "S1", "S4", "S4"]
    assert run(path, out, "--set", "teacher.augment=null")["done"] == 2, "the teacher under S4, and its student"
    more = ("--set", "teacher.augment=S1", "--set", "train.clip=[0.1, 1]")
    assert run(path, out, *more)["done"] == 2, "the students: a ratio is nothing to who learns human labels alone"


def test_teachers_of_folds_are_shared_and_digests_of_other_arms_stay(tmp_path: Path) -> None:
    study = load_study(
        write_study(tmp_path, grid={"arms": ["self-training", "doubly-robust"], "alpha": [0.5, 1]}, seeds=1)
    )
    data = load_data(study, Store(tmp_path / "store"))
    every = jobs(study, data, cells(study))
    assert [str(job) for job in every if job.cell.arm == "teacher"] == [
        "teacher S1 random 1 seed 0",
        "teacher S1 random 1 seed 0 without fold 1",
        "teacher S1 random 1 seed 0 without fold 2",
    ]
    assert len({job.folder for job in every}) == 7
    robust = [job for job in every if job.cell.arm == "doubly-robust"]
    assert len(robust) == 2 and all(len(job.needs) == 3 for job in robust)
    assert [from_json(json.loads(json.dumps(as_json(job)))) for job in every] == every
    more = study.model_copy(update={"teacher": study.teacher.model_copy(update={"folds": 3})})
    kept = {job.folder for job in jobs(more, data, cells(more))} & {job.folder for job in every}
    assert kept == {job.folder for job in every if not job.fold and job.cell.arm != "doubly-robust"}
    assert estimate(study, tmp_path / "none", cells(study)).teacher_steps == 9


def test_a_killed_study_goes_on_to_the_same_table(tmp_path: Path) -> None:
    grid = {"arms": ["supervised", "self-training"]}
    path = write_study(tmp_path, train=TRAIN | {"steps": 24, "save_every": 4}, grid=grid, seeds=1)
    out, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "builder.cli", "study", str(path), "--out", str(out), "--workers", "1"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not any(len(log.read_bytes().splitlines()) > 8 for log in out.glob("cells/*/run/log.jsonl")):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(out.glob("cells/*/result.json")) and list(out.glob("cells/*/run/meta.json"))
    assert run(path, out)["done"] == 3
    torch.set_num_threads(1)  # as a worker has
    found = done_here(load_study(path), whole)
    told = {row.cell: row for row in read_results(out / "results.parquet")}
    for job, result in found:
        if job.digest in told:
            row = vars(told[job.digest])
            assert {k: v for k, v in result.items() if not k.endswith("seconds") and v == v} == {
                k: v for k, v in row.items() if not k.endswith("seconds") and v == v
            }
    assert len(told) == 2


def done_here(study: StudyRecipe, out: Path) -> list[tuple[Job, dict[str, Any]]]:
    """The jobs of a study and their results, made in this process; null is NaN."""
    store = Store(out / "store")
    data = load_data(study, store)
    prepare(study, out, data, store)
    found = jobs(study, data, cells(study))
    for job in found:
        run_job(study, out, job)
    results = [json.loads((out / job.folder / "result.json").read_bytes()) for job in found]
    nan = float("nan")
    return [(j, {k: nan if v is None else v for k, v in r.items()}) for j, r in zip(found, results, strict=True)]


def children() -> list[int]:
    """Processes that this one has started."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc to find the worker")
def test_what_fails_stays_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    init = {"random": {}, "broken": {"pretrained": "broken.safetensors"}}
    grid = {"init": init, "arms": ["supervised", "longer", "self-training"]}
    path, out = write_study(tmp_path, grid=grid, seeds=1), tmp_path / "out"
    lines: list[str] = []

    def kill_first(line: str) -> None:
        if not line.startswith("["):  # of look-alikes
            return
        lines.append(line)
        if len(lines) == 1:
            for pid in set(children()) - before:
                os.kill(pid, signal.SIGKILL)

    before = set(children())
    ran = run_study(load_study(path), out, workers=1, tell=kill_first)
    assert len(lines) == 8 and ran.done == 3 and ran.waiting == 0
    assert all(line.endswith((" s left", " min left")) for line in lines[:-1]) and not lines[-1].endswith("left")
    rows = {(row.init, row.arm): row for row in read_results(out / "results.parquet")}
    assert len(rows) == 6
    assert rows["random", "supervised"].done and rows["random", "self-training"].done
    assert "killed by signal 9" in rows["random", "longer"].error
    for arm in ("supervised", "longer", "self-training"):
        row = rows["broken", arm]
        assert np.isnan(row.value) and "broken.safetensors" in row.error and row.labelled == 12
    assert "what it learns from failed" in rows["broken", "self-training"].error
    done = CliRunner().invoke(main, ["study", str(path), "--out", str(out), "--workers", "1"])
    assert done.exit_code == 1
    assert "4 jobs failed" in done.output and "Traceback" not in done.output
    again = {(row.init, row.arm): row for row in read_results(out / "results.parquet")}
    assert again["random", "longer"].done


@pytest.mark.parametrize(("kind", "metric"), [("instance", "AP"), ("semantic", "mIoU")])
def test_boxes_masks_and_maps_are_learned_as_classes_are(kind: str, metric: str, tmp_path: Path) -> None:
    """In this process, since the workers are the same."""
    paths = {}
    for number, name in enumerate(("labelled", "test", "pool", "others")):
        paths[name] = str(write_labelled(tmp_path / name, kind, 6))
        for file in (tmp_path / name).rglob("*.png"):
            if file.parent.name != "masks":  # other pixels in each set
                pixels = np.array(Image.open(file))
                pixels[0, 0] = 10 * number
                Image.fromarray(pixels).save(file)
    arch = {"instance": "fcos", "semantic": "fpn"}[kind]
    options = {"floor": 0.0, "max_detections": 5} if kind == "instance" else {"batch_size": 2}
    network = {"arch": arch, "backbone": "timm:test_resnet", "size": 32, "channels": 16, "head_depth": 1}
    study = StudyRecipe.model_validate(
        {
            "name": kind,
            "labelled": paths["labelled"],
            "test": paths["test"],
            "pool": str(tmp_path / "pool" / ("images" if kind == "semantic" else "")),
            "pool_truth": paths["pool"],
            "others": [paths["others"]],
            "train": TRAIN | {"network": network | {"levels": [4, 8]}, "steps": 2},
            "teacher": {"steps": 1},
            "build": {"keep": {"score": 0.0, "ignore": None}, "teacher": options},
            "grid": {"fractions": [0.5], "arms": ["self-training+joint", "ceiling"]},
            "seeds": 1,
        }
    )
    out = tmp_path / "out"
    results = [result for _, result in done_here(study, out)]
    assert [(row.get("arm"), row.get("pool")) for row in results[1:]] == [("self-training+joint", 12), ("ceiling", 6)]
    assert {row["metric"] for row in results} == {metric}
    for row in results[1:]:
        seen = read_outcomes(out / row["per_image"])
        assert row["value"] == pytest.approx(float(seen.metric(np.ones((1, 6), int))[0]))
    told = json.loads((out / "told.json").read_bytes())
    assert told["ceiling"]["kept"] == pytest.approx({"instance": 6, "semantic": 1.0}[kind])


def test_a_start_is_pre_trained_on_the_pool_once_a_seed(tmp_path: Path) -> None:
    init = {"simclr": {"pretrain": {"steps": 2, "batch": 4}}}
    study = load_study(write_study(tmp_path, grid={"init": init, "arms": ["supervised", "longer"]}, seeds=1))
    found = done_here(study, tmp_path / "out")
    assert [job.cell.arm for job, _ in found] == ["pretrain", "supervised", "longer"]
    for job, _ in found[1:]:
        meta = json.loads((tmp_path / "out" / job.folder / "run" / "meta.json").read_bytes())
        assert len(meta["trained_on"]) == 24  # the labelled images and the pool's
