"""What a version says of itself: the words about its quality, and a card that `datasets` obeys."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
import yaml
from click.testing import CliRunner
from datasets import load_dataset

from builder.cli.main import main
from builder.evidence.claims import claims
from builder.report.card import card
from builder.report.card_terms import features
from builder.report.quality import expected_quality, thresholds
from builder.store.manifest import Manifest, read_manifest
from builder.store.shards import ShardRecord
from tests.helpers.pools import write_world

STATEMENT = (
    "If the truth images are exchangeable with the pool and were used neither to train the teacher nor to choose this "
    "recipe, the expected precision of this group is at least 0.8 with confidence about 0.9 (asymptotic; each group "
    "separately)"
)


def group(*classes: str, **fields: Any) -> dict[str, Any]:
    evidence = {"target": 0.8, "delta": 0.1, "iou": 0.5, "bound": "clustered", "units": 103} if fields else {}
    rule = "precision" if fields else "score"
    return {"classes": list(classes), "rule": rule, "threshold": 0.5, **evidence, **fields}


def manifest(*groups: dict[str, Any], keep: dict[str, Any] | None = None, **provenance: Any) -> Manifest:
    classes = [name for one in groups for name in one["classes"]] or ["cat", "dog"]
    inputs = {"keep": {"score": None, "ignore": 0.3, **(keep or {})}, "predictions": "ab" * 32, "pool": "cd" * 32}
    shard = ShardRecord(name="train-000000.tar", bytes=10, sha256="00", samples=3, kept=4, ignored=1)
    return Manifest(
        name="pets",
        version="v2",
        id="ef" * 32,
        kind="detection",
        classes=classes,
        features=["jpg", "json"],
        shards=[shard],
        images={"written": 3, "unreadable": 1, "pool": 4},
        objects={"kept": 4, "ignore_band": 1, "predicted": 5},
        per_class={name: {"predicted": 5, "kept": 4 - n, "ignored": 1} for n, name in enumerate(classes)},
        files={},
        provenance={
            "tool": "tutelage 0",
            "teacher": {"spec": "onnx:model.onnx", "license": "MIT"},
            "inputs": inputs,
            "thresholds": list(groups),
            **provenance,
        },
    )


TRUTH = {"images": 206, "tune": 103, "certify": 103, "uses": 1}


def test_a_certified_group_is_described_in_the_agreed_words() -> None:
    said = expected_quality(manifest(group("cat", certified=True), truth=TRUTH))
    assert STATEMENT in " ".join(said)
    assert "may miss" not in " ".join(said) and "no guarantee" not in " ".join(said)


@pytest.mark.parametrize(
    ("groups", "keep", "uses", "expected", "absent"),
    [
        (
            [group("cat", certified=True), group("dog", "bird", certified=True)],
            {},
            1,
            [STATEMENT, "2 certified groups: cat; 2 classes (dog, bird)", "With 2 groups up to 0.2 may miss"],
            ["all groups together", "Not certified"],
        ),
        (
            [group("cat", certified=True, delta=0.05), group("dog", certified=True, delta=0.05)],
            {"precision": {"target": 0.8, "family": "all", "delta": 0.1}},
            1,
            [
                "of every one of these groups is at least 0.8 with confidence about 0.9 (asymptotic; all groups together)"
            ],
            ["may miss", "each group separately", "0.95"],
        ),
        (
            [group("cat", certified=True, bound="exact")],
            {},
            1,
            ["at least 0.8 with confidence 0.9 (exact, not asymptotic; each group separately)"],
            ["about 0.9"],
        ),
        ([group("cat", certified=True)], {}, 3, ["daptive, no guarantee", "used 3 times, builds that", STATEMENT], []),
        (
            [group("cat", certified=True), group("dog", certified=False, reason="3 of 11 objects")],
            {},
            1,
            [STATEMENT, "Not certified, precision unknown, 43% of the kept boxes: dog (3 of 11 objects)."],
            [],
        ),
        (
            [group("cat", certified=True), group("dog", "cow", certified=False, threshold=None, reason="too few")],
            {},
            1,
            ["Not certified, nothing is kept of them: 2 classes (dog, cow) (too few)."],
            [],
        ),
        ([group("cat", certified=True)], {"where": "area > 9", "min_size": 4.0}, 1, ["before where and min_size"], []),
        (
            [group("cat", certified=False, reason="too few")],
            {},
            1,
            ["Precision unknown: the thresholds were to be solved", "no threshold was certified", "cat (too few)"],
            ["exchangeable"],
        ),
        ([group("cat", "dog")], {}, 0, ["Precision unknown: the thresholds were set by hand."], ["exchangeable"]),
    ],
)
def test_what_is_said_of_quality(
    groups: list[dict[str, Any]], keep: dict[str, Any], uses: int, expected: list[str], absent: list[str]
) -> None:
    truth = TRUTH | {"uses": uses} if uses else None
    said = " ".join(expected_quality(manifest(*groups, keep=keep, truth=truth)))
    for words in expected:
        assert words in said, said
    for words in absent:
        assert words not in said, said


def test_a_measured_precision_is_told_as_an_estimate() -> None:
    found = {"iou": 0.5, "level": 0.9, "kept": 37, "correct": 30, "precision": 0.811, "low": 0.6, "high": 0.94}
    truth = TRUTH | {"uses": 0, "measured": found | {"recall": 0.21}}
    said = expected_quality(manifest(group("cat"), truth=truth))
    assert said[0] == "Precision not certified: the thresholds were set by hand."
    assert "30 of 37 boxes" in said[1] and "precision 0.81 (90% interval 0.60 to 0.94), recall 0.21" in said[1]
    assert "flatters" not in said[1]
    assert "flatters" in expected_quality(manifest(group("cat"), truth=truth, calibration={"kind": "isotonic"}))[1]
    assert "estimate, for truth images that are exchangeable" in said[1] and "at the threshold" not in said[1]
    assert "before where refused" in expected_quality(manifest(group("cat"), keep={"where": "x1 < 9"}, truth=truth))[1]
    density = expected_quality(manifest(group("cat") | {"rule": "density"}, truth=truth))[1]
    assert "no clean estimate" in density and "exchangeable" not in density
    nothing = truth | {"measured": found | {"precision": None, "recall": None}}
    assert expected_quality(manifest(group("cat"), truth=nothing))[0].startswith("Precision unknown")


def test_thresholds_taken_over_say_whose_they_are() -> None:
    parent = {"version": "pets@v1", "id": "12" * 32, "thresholds": "taken over"}
    said = expected_quality(manifest(group("cat", certified=True), truth=TRUTH, parent=parent))
    assert "those of pets@v1" in " ".join(said)
    again = parent | {"thresholds": "solved again"}
    assert "pets@v1" not in " ".join(expected_quality(manifest(group("cat", certified=True), parent=again)))


def test_every_rule_says_where_its_thresholds_come_from() -> None:
    rules = ("score", "precision", "density", "balance", "mixture", "top_box")
    said = {expected_quality(manifest(group("cat") | {"rule": rule}))[0] for rule in rules}
    assert len(said) == len(rules) and all(one.startswith("Precision unknown: ") for one in said)


def test_the_certified_share_counts_kept_boxes() -> None:
    assert claims(manifest(group("cat", certified=True), group("dog"))).share == pytest.approx(4 / 7)
    assert claims(manifest(group("cat"))).share == 0


@pytest.mark.parametrize(
    ("groups", "keep", "kept", "ignored"),
    [
        ([group("a"), group("b") | {"threshold": None}], {}, [0.5, np.nan], [0.3, 0.3]),
        ([group("a"), group("b")], {"ignore": {"a": 0.4, "*": 0.1}}, [0.5, 0.5], [0.4, 0.1]),
        ([group("a") | {"ignore": 0.2}, group("b")], {"ignore": None}, [0.5, 0.5], [0.2, np.nan]),
        ([group("a") | {"threshold": 0.25}], {}, [0.25], [np.nan]),
        ([], {"score": {"cat": 0.7, "*": 0.6}}, [0.7, 0.6], [0.3, 0.3]),
    ],
)
def test_limits(groups: list[dict[str, Any]], keep: dict[str, Any], kept: list[float], ignored: list[float]) -> None:
    solved = thresholds(manifest(*groups, keep=keep))
    np.testing.assert_array_equal(solved.kept_from, np.float32(kept))  # as the rules act on them
    np.testing.assert_array_equal(solved.ignored_from, np.float32(ignored))


def test_the_card_tells_what_a_reader_must_know() -> None:
    text = card(
        manifest(
            group("c|at_s", certified=True, kept=44, correct=43, effective=40.25, p_value=0.012, lower=0.9),
            group("dog", certified=False, reason="too few"),
            truth=TRUTH,
            licences={"source": "unknown", "teacher": "MIT"},
            parent={"version": "pets@v1", "id": "12" * 32},
            gates=[
                {"name": "leak", "status": "ok", "message": "none"},
                {"name": "density", "status": "warn", "message": "dog 3 times"},
            ],
        ).model_copy(update={"tombstones": ["gone-1"]})
    )
    head, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(head)["dataset_info"]["features"] == features(manifest(group("c|at_s"), group("dog")))
    assert STATEMENT in body
    assert "| c\\|at\\_s | precision | 0.5 | ≥ 0.8 at IoU 0.5 | 103 | 44 | 43 | 40.25 | 0.012 | 0.9 |" in body
    assert "Uses of the certify half: 1" in body and "used once" in body
    assert "source images: unknown (**nobody said" in body and "licence of the teacher: MIT\n" in body
    assert "pets@v1, id" in body and "**skip their keys**" in body
    assert "1 of 2 passed" in body and "**warn**, density: dog 3 times" in body
    assert "1 unreadable" in body


def test_nothing_in_a_name_ends_a_cell_or_becomes_markup() -> None:
    name = "a|b *c* <d> `e`\n## f"
    text = card(manifest(group(name, certified=True)))
    assert not re.search(r"^## f", text, re.MULTILINE)
    assert "a\\|b \\*c\\* \\<d\\> \\`e\\` ## f" in text


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version with certified thresholds on calibrated scores."""
    folder = tmp_path_factory.mktemp("calibrated")
    recipe = write_world(folder, pool=24, truth=80)
    options = ["--set", "keep.precision.on_low_support=fallback", "--set", "keep.calibration=temperature"]
    result = CliRunner().invoke(main, ["build", str(recipe), "--store", str(folder / "store"), "--no-report", *options])
    assert result.exit_code == 0, result.output
    return folder / "store" / "datasets" / "pets" / "v1"


def test_calibrated_scores_and_tombstones_reach_the_readers(calibrated: Path, tmp_path: Path) -> None:
    version = tmp_path / "version"
    shutil.copytree(calibrated, version)
    built = read_manifest(version)
    first = next(iter(webdataset.WebDataset(str(version / "data" / "train-000000.tar"), shardshuffle=False)))["__key__"]
    text = card(built.model_copy(update={"tombstones": [first]}))
    (version / "README.md").write_text(text)
    rows = load_dataset(str(version), split="train", cache_dir=str(tmp_path / "cache"))
    objects = rows[0]["json"]["objects"]
    assert len(objects["calibrated"]) == len(objects["score"]) and rows.features["json"]["objects"]["calibrated"]
    assert any(row["json"]["objects"]["calibrated"] != row["json"]["objects"]["score"] for row in rows)
    assert "`calibrated` the same after calibration" in text
    samples = webdataset.WebDataset(str(version / "data" / "train-000000.tar"), shardshuffle=False)
    code = re.search(r"## Removed images.*?```python\n(.*?)```", text, re.DOTALL)
    assert code
    names = {"rows": rows, "samples": samples}
    (version / "gone.json").write_text(json.dumps({"tombstones": [first]}))
    script = code[1].replace("manifest.json", str(version / "gone.json"))
    exec(compile(script, "card", "exec"), names)  # noqa: S102 - our own card
    keys = [sample["__key__"] for sample in names["samples"]]
    assert first not in keys and keys == names["rows"]["__key__"] and len(keys) == len(rows) - 1
