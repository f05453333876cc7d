"""`tutelage doctor` on folders of runs and studies: what it finds, what it cannot look at, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from builder.cli.main import main
from builder.errors import BuildError
from builder.store.files import digest
from builder.store.store import Store
from builder.truth.coco import read_coco
from builder.truth.read import read_truth
from students.doctor.diagnose import doctor
from students.doctor.records import Diagnosis
from students.study.cell import run_job
from students.study.data import load_data
from students.study.grid import cells, jobs
from students.study.recipe import load_study
from students.study.results import CellResult, write_results
from students.study.run import prepare, run_study
from students.train.loop import train
from tests import ROOT
from tests.helpers.rectangles import write_rectangles, write_version
from tests.helpers.tiny_studies import write_study
from tests.helpers.training import make_recipe


def names(diagnosis: Diagnosis) -> list[str]:
    return [found.name for found in diagnosis.findings]


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(main, ["doctor", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def write_run(folder: Path, steps: int, record: Callable[[int], dict[str, Any]], /, **recipe: Any) -> Path:
    """A run as it lies there: a record of each step over those of a healthy joint training, and its recipe."""
    folder.mkdir()
    lines = []
    for step in range(1, steps + 1):
        learned = {"human": 2.0 / step + 0.3, "pseudo": 0.3, "pseudo_positives": 8.0, "moved": True}
        joint = {"ratio": 1.1, "ratio_unclipped": 1.1, "clip_rate": 0.0, "human_ignored": 0.0, "pseudo_ignored": 0.0}
        lines.append(json.dumps({"step": step, "gradient_norm": 1.0} | learned | joint | record(step)))
    (folder / "log.jsonl").write_text("\n".join(lines))
    given = {"steps": steps, "batch": 16, "lr": 1e-3, "clip_norm": 10.0, "alpha": 1.0, "pseudo": [], "init": None}
    (folder / "recipe.json").write_text(json.dumps(given | recipe))
    return folder


def write_cells(folder: Path, values: dict[str, list[float]], **more: Any) -> Path:
    """A study of which only the results are left: of each arm a value for each seed."""
    folder.mkdir()
    rows = [
        CellResult(
            study="toy", cell=digest([arm, seed]), arm=arm, augment="S1", init="random", fraction=1.0, labelled=100,
            alpha=float(arm in ("self-training", "ceiling")), round=1, seed=seed, metric="accuracy", value=value,
            **{"teacher_value": 0.6} if arm == "self-training" else {}, **more,
        )
        for arm, each in values.items()
        for seed, value in enumerate(each)
    ]  # fmt: skip
    write_results(folder / "results.parquet", rows)
    return folder


# Runs


def test_the_log_of_a_map_student_shows_its_ratio(tmp_path: Path) -> None:
    """CamVid with class thresholds (docs/log.md): the ratio ended at 9.9, 11.0 unclipped, and nothing was gained."""
    run = write_run(
        tmp_path / "run",
        600,
        lambda step: {"ratio": 9.9, "ratio_unclipped": 11.0, "clip_rate": 0.62, "pseudo_ignored": 0.3},
        alpha=0.5,
    )
    found = doctor(run, Store(tmp_path / "store"))
    assert names(found) == ["ratio-at-limit"] and not found.won and found.verdict == ""
    assert "62 % of the steps (9.9, without the limit 11): the pseudo-labels are far easier" in invoke(run)
    mild = write_run(tmp_path / "mild", 600, lambda step: {"ratio": [1.0, 2.9], "ratio_unclipped": [1.0, 2.9]})
    assert names(doctor(mild, Store(tmp_path / "store"))) == ["ratio-multiplies"]


def test_a_healthy_run_has_a_clean_bill_that_says_what_was_not_looked_at(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 100, lambda step: {})
    first, second = invoke(run, "--store", tmp_path / "none").splitlines()
    assert first == "run run: nothing found in the log of 100 steps"
    assert second.startswith("not looked at: val (no figure on it in the log")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (lambda step: {"moved": step % 10 != 0, "human": None if step % 10 == 0 else 2.0 / step}, "no-step"),
        (lambda step: {"human": 2.3}, "not-learning"),
        (lambda step: {"gradient_norm": 30.0}, "clipped"),
        (lambda step: {"human": 2.0 - 0.015 * step}, "still-falling"),
        (lambda step: {"pseudo_ignored": 0.8, "human_ignored": 0.2}, "mostly-ignored"),
        (
            lambda step: {"human": 2.0 / step**2} | ({"val": {"AP": 0.5 - step / 1000}} if step % 20 == 0 else {}),
            "overfit",
        ),
    ],
)
def test_faults_are_seen_in_a_log(record: Callable[[int], dict[str, Any]], name: str, tmp_path: Path) -> None:
    assert names(doctor(write_run(tmp_path / "run", 100, record), Store(tmp_path / "store"))) == [name]


def test_a_real_run_its_version_and_its_labels(tmp_path: Path) -> None:
    scenes = write_rectangles(tmp_path / "scenes", 6)
    pool = write_rectangles(tmp_path / "pool", 6, seed=1)
    store = Store(tmp_path / "store")
    version = write_version(tmp_path / "store/datasets/scenes/v1", read_coco(pool), ["red", "blue", "green"])
    run = train(make_recipe(scenes, pseudo=("scenes@v1",)), tmp_path / "run", store)
    alone = doctor(run, Store(tmp_path / "other"))
    assert any("scenes@v1" in blind and "--store" in blind for blind in alone.blind)
    found = doctor(run, store, read_coco(pool), read_coco(scenes))
    assert "scenes@v1" in found.looked and "the pool's true labels" in found.looked
    assert names(found)[0] == "leak" and "6 of 6 test images were learned from" in str(found.findings[0])
    told = json.loads(invoke(run, "--store", store.root, "--truth", pool, "--test", scenes, "--json"))
    assert told["findings"][0]["figures"] == {"images": 6, "of": 6} and told["verdict"] == "" and not told["won"]
    assert any(blind.startswith("how the teacher of scenes@v1 learned (unknown is no run") for blind in found.blind)
    apart = doctor(run, store, test=read_coco(write_rectangles(tmp_path / "test", 1, seed=9)))
    assert "leak" not in names(apart) and "1 test images" in apart.looked
    stranger = doctor(run, store, read_coco(write_rectangles(tmp_path / "strange", 1, seed=9)))
    assert any("no image of --truth is in them" in blind for blind in stranger.blind)
    shutil.rmtree(version)
    assert any("not in the store" in blind for blind in doctor(run, store).blind)


# Studies


def test_a_study_of_which_only_the_results_are_left() -> None:
    """CIFAR-10 and BCCD, as docs/studies reads them: the networks are short of steps, and so are their teachers."""
    cifar, bccd = (doctor(ROOT / "docs/studies" / name) for name in ("cifar10", "bccd"))
    assert "better than the baseline at 0 of 6 settings" in cifar.verdict and "-9.9 points" in cifar.verdict
    assert names(cifar)[:2] == names(bccd)[:2] == ["short-of-steps", "short-teacher"]
    passes = next(found for found in cifar.findings if found.name == "unequal-passes")
    assert passes.where == ("S4, 100 % of the labels",) and "the 56 images" in passes.sentence
    assert "3 seeds show a direction only" in str(bccd.findings[-1])
    for found in (cifar, bccd):
        text = "; ".join(found.blind)
        for missing in ("students' logs", "teachers' logs", "versions they learned", "ceiling", "alike.json"):
            assert missing in text


def test_where_self_training_won_only_that_is_told(tmp_path: Path) -> None:
    values = {"supervised": [0.70, 0.71], "longer": [0.76, 0.75], "self-training": [0.78, 0.78]}
    out = write_cells(tmp_path / "won", values, steps=10, batch=4)
    assert doctor(out).won
    first, second = invoke(out).splitlines()
    assert first == (
        "study won: self-training wins: +2.5 points of accuracy against longer (2 seeds, a direction only)"
    )
    assert second.startswith("not looked at: ")
    lost = doctor(write_cells(tmp_path / "lost", values | {"self-training": [0.75, 0.78]}, steps=10, batch=4))
    assert lost.verdict.startswith("self-training is not shown to be better: +1.0 points")
    assert not lost.won and names(lost) == ["short-of-steps", "short-teacher", "few-seeds"]


def test_without_a_baseline_nothing_is_claimed(tmp_path: Path) -> None:
    found = doctor(write_cells(tmp_path / "study", {"self-training": [0.7, 0.7]}))
    assert found.verdict.startswith("whether its students are any better is not known") and not found.won


def assert_runs_are_read(out: Path, teacher: Path) -> None:
    """The students of a study, each as a run: their teacher is found by its weights; true labels are no selection."""
    for run in out.glob("cells/*/run"):
        named = json.loads((run / "recipe.json").read_text())["pseudo"]
        found = doctor(run, Store(out / "store"))
        looked, blind = "; ".join(found.looked), "; ".join(found.blind)
        taught = bool(named) and not named[0]["name"].startswith("ceiling-")
        assert (f"the log of its teacher {teacher}" in looked) == taught
        assert ("no-filter" in names(found)) == taught
        assert ("replay:predictions.csv is no run" in blind) == (bool(named) and not taught)
        assert "how its loss went (the log has no 100 steps" in blind and "still-falling" not in names(found)
        if taught:
            weights, elsewhere = teacher / "meta.json", teacher / "elsewhere.json"
            weights.rename(elsewhere)
            assert "no run with its weights at run, nor beside this one" in "; ".join(
                doctor(run, Store(out / "store")).blind
            )
            elsewhere.rename(weights)


def test_a_real_study_is_read_whole(tmp_path: Path) -> None:
    grid = {"arms": ["supervised", "longer", "self-training", "ceiling", "placebo"]}
    study, out = load_study(write_study(tmp_path, grid=grid, seeds=1)), tmp_path / "out"
    store = Store(out / "store")
    data = load_data(study, store)
    prepare(study, out, data, store)
    for job in jobs(study, data, cells(study)):
        run_job(study, out, job)  # in this process, which has its libraries
    run_study(study, out)
    found = doctor(out)
    assert found.looked[0] == "5 cells of the arms ceiling, longer, placebo, self-training, supervised"
    for part in ("the classes of the labels", "1 students' logs", "1 teachers' logs", "1 versions they learned"):
        assert part in found.looked
    assert "the pool's true labels" in found.looked and "images that look like measured ones" in found.looked
    short = "how the losses went (no log has 100 steps with a figure to tell it by)"
    assert found.blind == (short, "val during training (no val in train)")
    if not found.won:  # of three steps a teacher is sure of nothing, and all of it is kept
        assert "no-filter" in names(found)
    assert "1 seed" in found.verdict
    assert_runs_are_read(out, next(out.glob("teachers/*/run")))
    stranger = doctor(out, truth=read_truth(tmp_path / "test.csv"), test=read_truth(tmp_path / "test.csv"))
    assert {"the pool's true labels (none is of an image of the versions)"} < set(stranger.blind)
    assert stranger.blind[-1].startswith("--test (it is for runs")
    boxes = doctor(out, truth=read_coco(write_rectangles(tmp_path / "boxes", 2)))
    assert any("the pool's true labels (" in blind for blind in boxes.blind)
    shutil.rmtree(out / "store")
    shutil.rmtree(next(out.glob("teachers/*")))
    (tmp_path / "pool.csv").unlink()
    text = "; ".join(doctor(out).blind)
    for missing in ("versions they learned (not in store/)", "teachers' logs", "the pool's true labels"):
        assert missing in text


# What is no run and no study


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (None, "does not exist: give the folder of a run or of a study"),
        ([], "is neither a run nor a study"),
        (["recipe.json"], "has no log.jsonl of a training"),
        ([""], "is a file: give the folder of a run or of a study"),
        (["study.json"], "has no results.parquet yet: run `tutelage study`"),
        (["round-1/log.jsonl", "rounds.html"], "holds rounds: give one of them"),
    ],
)
def test_what_cannot_be_looked_at_is_said_in_a_sentence(files: list[str] | None, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in files or ():
        if not name:
            folder.write_text("")
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    if files == []:
        folder.mkdir()
    with pytest.raises(BuildError, match=says):
        doctor(folder, Store(tmp_path / "store"))
    failed = CliRunner().invoke(main, ["doctor", str(folder)])
    assert failed.exit_code == 1 and says in failed.output and "Traceback" not in failed.output


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"human": "much"}, "human is 'much', no number"),
        ({"human": "1.5"}, "human is '1.5', no number"),
        ({"human": True}, "human is True, no number"),
        ({"ratio": {}}, "a ratio or clip_rate is {}, no number"),
        ({"gradient_norm": "x"}, "gradient_norm is 'x', no number"),
        ({"val": {"AP": "high"}}, "AP is 'high', no number"),
    ],
)
def test_a_log_that_no_training_wrote_is_refused(record: dict[str, Any], says: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 3, lambda step: record)
    failed = CliRunner().invoke(main, ["doctor", str(run)])
    assert failed.exit_code == 1 and f"holds what no training writes ({says})" in failed.output
    assert "restore it from a copy, or train again" in failed.output


@pytest.mark.parametrize(
    ("steps", "record", "recipe", "blind"),
    [
        (150, {}, {"steps": 600}, ["how it ends (the log has 150 of 600 steps"]),
        (3, {}, {"steps": 600}, ["how it ends (the log has 3 of 600 steps", "how its loss went"]),
        (150, {"human": None, "val": None}, {}, ["how its loss went", "val (no figure on it"]),
        (150, {"human": 1.0, "val": {"AP": None}}, {"init": "checkpoint:x"}, ["val (no figure on it"]),
        (30, {}, {"pseudo": ["cells@v1"]}, ["what it learned from (no recipe.json that names the versions)"]),
        (30, {}, {"pseudo": None}, ["what it learned from"]),
        (30, {}, {"pseudo": [{"name": "cells", "version": "v1"}]}, ["what it learned from"]),
    ],
)
def test_what_a_log_or_a_recipe_does_not_show_is_said(
    steps: int, record: dict[str, Any], recipe: dict[str, Any], blind: list[str], tmp_path: Path
) -> None:
    """A loss that falls in a straight line is one that still falls, in a run that ended."""
    run = write_run(tmp_path / "run", steps, lambda step: {"human": 2.0 - 0.01 * step} | record, **recipe)
    found = doctor(run, Store(tmp_path / "store"))
    assert names(found) == []
    for each in blind:
        assert each in "; ".join(found.blind)


@pytest.mark.parametrize("alike", ["{", '{"a": 1}', "[1]"])
def test_a_damaged_list_of_alike_images_is_not_looked_at(alike: str, tmp_path: Path) -> None:
    out = write_cells(tmp_path / "study", {"self-training": [0.7]})
    (out / "alike.json").write_text(alike)
    assert any("alike.json cannot be read" in blind for blind in doctor(out).blind)


def test_failed_cells_are_told_with_their_error(tmp_path: Path) -> None:
    out = write_cells(tmp_path / "study", {"self-training": [0.7], "longer": [0.8]}, error="out of memory")
    text = "; ".join(doctor(out).blind)
    assert "2 cells that failed (out of memory)" in text and "not in cells/" not in text


def test_a_study_without_a_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="has no arm that learns pseudo-labels: add self-training"):
        doctor(write_cells(tmp_path / "study", {"supervised": list(np.linspace(0.5, 0.6, 3))}))
