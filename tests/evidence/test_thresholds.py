"""Where thresholds come from: each rule of the papers by hand, by scikit-learn, and on a whole small pool with labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from builder.cli.main import main
from builder.errors import BuildError
from builder.evidence.thresholds import Evidence, high_component, solve
from builder.rules.apply import decide
from builder.rules.keep import Keep
from builder.rules.objects import Objects
from builder.rules.reasons import IGNORED, KEPT
from builder.rules.scores import BINS, PoolScores, Scored, cell
from builder.store.manifest import Manifest, read_manifest
from tests.helpers.pools import CLASSES, write_world


def pool_scores(*scores: list[float], images: int = 10) -> PoolScores:
    """One list a class; each object on an image of its own."""
    score = np.concatenate([np.zeros(0), *scores]).astype(np.float32)
    label = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
    return PoolScores.of(Scored(np.arange(len(score)), label, score), images, len(scores))


def thresholds(keep: dict[str, Any], *scores: list[float], per_image: list[float] | None = None) -> list[float]:
    names = CLASSES[: len(scores)]
    counts = None if per_image is None else np.array(per_image)
    evidence = Evidence(names, 0.05, scores=pool_scores(*scores), per_image=counts)
    return solve(Keep.model_validate(keep), evidence).keep.tolist()


def test_density_keeps_the_best_fifth_of_what_the_labels_let_expect() -> None:
    scores = [n / 16 for n in range(16)]  # on edges
    keep = Keep.model_validate({"density": {}})
    evidence = Evidence(("a",), 0.05, scores=pool_scores(scores), per_image=np.array([1.0]))  # N_c = 10 on 10 images
    solved = solve(keep, evidence)
    above = np.array(scores)
    assert (above >= solved.keep[0]).sum() == 2 and (above >= solved.ignore[0]).sum() == 10


def test_density_leaves_out_a_class_that_the_labels_do_not_know() -> None:
    assert thresholds({"density": {}}, [0.9], [0.9], per_image=[np.nan, 0.0]) == [np.inf, np.inf]


@pytest.mark.parametrize(
    ("images", "expected"),
    [(1, 0.9), (2, 0.7), (3, 0.55), (9, 0.3)],
    ids=["the best", "two", "three", "more than there are: the minimum"],
)
def test_balance_walks_down_until_enough_images_hold_the_class(images: int, expected: float) -> None:
    (found,) = thresholds({"balance": {"images": images}}, [0.905, 0.705, 0.555, 0.1])
    assert found == pytest.approx(expected, abs=0.0101)


def test_mixture_finds_the_component_that_scikit_learn_finds() -> None:
    rng = np.random.default_rng(0)
    low, high = rng.normal(0.25, 0.06, 3000), rng.normal(0.8, 0.05, 1000)
    scores = np.concatenate([low, high]).clip(0.05, 0.999).astype(np.float32)
    edge = high_component(np.bincount(cell(scores), minlength=BINS + 1))
    oracle = GaussianMixture(2, means_init=[[scores.min()], [scores.max()]], random_state=0).fit(scores[:, None])
    top = int(oracle.means_[:, 0].argmax())
    members = scores[oracle.predict(scores[:, None]) == top]
    likeliest = members[np.abs(members - oracle.means_[top, 0]).argmin()]
    assert edge is not None and edge / BINS == pytest.approx(likeliest, abs=0.003)


@pytest.mark.parametrize("scores", [[], [0.5, 0.6, 0.7], [0.5] * 20])
def test_too_few_scores_have_no_mixture(scores: list[float]) -> None:
    assert thresholds({"mixture": {}}, scores) == [np.inf]
    with pytest.raises(BuildError, match=r"keep\.mixture\.few"):
        thresholds({"mixture": {"few": "fail"}}, scores)


def columns(scores: list[float], image: list[int]) -> Objects:
    n = len(scores)
    boxes = np.tile(np.array([0, 0, 10, 10], np.float32), (n, 1))
    size = np.full((max(image, default=0) + 1, 2), 64, np.int32)
    return Objects(
        np.array(image, np.int64), np.zeros(n, np.int16), np.array(scores, np.float32), boxes, size, ["x"] * len(size)
    )


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0.0625, 1, width=32)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_top_box_leaves_no_image_with_a_prediction_without_a_box(rows: list[tuple[int, float]]) -> None:
    keep = Keep.model_validate({"top_box": 0.9, "ignore": None})
    objects = columns([score for _, score in rows], [image for image, _ in rows])
    made = decide(objects, keep, solve(keep, Evidence(("a",), 0.05)), ("a",))
    kept = made.outcome == KEPT
    assert set(objects.image[kept].tolist()) == set(objects.image.tolist())
    best = {i: max(s for j, s in rows if j == i) for i, _ in rows}
    assert kept.tolist() == [score >= min(np.float32(0.9), best[image]) for image, score in rows]


def test_uncertain_boxes_are_refused_where_the_teacher_says_how_sure_it_is() -> None:
    keep = Keep.model_validate({"score": 0.5, "uncertainty": 0.02})
    objects = columns([0.9, 0.9, 0.9], [0, 0, 0])
    sure = Objects(**{**vars(objects), "uncertainty": np.array([0.01, 0.02, 0.03], np.float32)})
    found = [decide(o, keep, solve(keep, Evidence(("a",), 0.05)), ("a",)).outcome.tolist() for o in (sure, objects)]
    assert found == [[KEPT, KEPT, IGNORED], [KEPT] * 3]


@pytest.mark.parametrize(
    ("keep", "word"),
    [
        ({"score": 0.5, "precision": 0.8}, "score and precision"),
        ({"precision": 1.5}, "less than 1"),
        ({"balance": {}}, "images"),
        ({"mixture": {"some": 1}}, "some"),
    ],
)
def test_rules_that_contradict_each_other_or_make_no_sense_are_refused(keep: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Keep.model_validate(keep)


# A whole pool with labels


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, pool=40, truth=300)
    return folder


def run(world: Path, *more: object, store: Path | None = None) -> Result:
    where = store or world / "store"
    return CliRunner().invoke(main, ["build", str(world / "recipe.yaml"), *map(str, more), "--no-report", "--store", str(where), "--json"])  # fmt: skip


def built(world: Path, *more: object, store: Path | None = None) -> Manifest:
    result = run(world, *more, store=store)
    assert result.exit_code == 0, result.output
    return read_manifest(Path(json.loads(result.stdout)["path"]))


def test_a_certified_version_says_its_evidence_and_counts_the_use(world: Path, tmp_path: Path) -> None:
    manifest = built(world, store=tmp_path)
    groups, truth = manifest.provenance.thresholds, manifest.provenance.truth
    assert [(g.certified, g.target, g.units) for g in groups] == [(True, 0.8, truth.certify)] * 2
    assert all(g.p_value <= 0.1 and g.lower >= 0.8 and g.correct <= g.kept for g in groups)
    assert truth.uses == 1 and truth.tune + truth.certify == 300
    assert built(world, store=tmp_path).id == manifest.id
    again = built(world, "--set", "keep.precision.target=0.85", store=tmp_path)
    assert again.provenance.truth.uses == 2
    assert built(world, store=tmp_path).provenance.truth.uses == 1  # the version that is there


def test_the_same_recipe_in_another_store_gives_the_same_bytes(world: Path, tmp_path: Path) -> None:
    one, two = built(world, "--workers", 1, store=tmp_path / "a"), built(world, "--workers", 4, store=tmp_path / "b")
    assert one == two


@pytest.mark.parametrize(
    "rule", ["{density: {}}", "{mixture: {}}", "{balance: {images: 5}}", "{top_box: 0.9}", "{score: 0.6}"]
)
def test_other_rules_are_measured_on_the_half_that_certifies_nothing(world: Path, rule: str) -> None:
    truth = built(world, "--set", f"keep={rule}").provenance.truth
    assert truth.uses == 0 and 0 <= truth.measured.low <= truth.measured.precision <= truth.measured.high <= 1


@pytest.mark.parametrize("kind", ["temperature", "isotonic"])
def test_calibrated_scores_stand_beside_the_raw_ones(world: Path, kind: str) -> None:
    import pyarrow.parquet as pq
    from datasets import load_dataset

    result = run(world, "--set", f"keep={{score: 0.7, calibration: {kind}}}")
    folder = Path(json.loads(result.stdout)["path"])
    rows = pq.read_table(folder / "labels.parquet").to_pylist()
    assert all((row["calibrated"] >= np.float32(0.7)) == (row["outcome"] == "kept") for row in rows)
    assert any(row["calibrated"] != row["score"] for row in rows)
    read = load_dataset(str(folder), split="train", cache_dir=str(world / "cache"))
    objects = [sample["json"]["objects"] for sample in read]
    assert all(len(o["calibrated"]) == len(o["score"]) for o in objects)


def test_what_cannot_be_certified_is_never_passed_over(world: Path, tmp_path: Path) -> None:
    result = run(world, "--set", "keep.precision.target=0.995", store=tmp_path)
    assert result.exit_code == 1 and "cannot be certified" in result.output and result.output.count("\n") == 2
    assert not list((tmp_path / "datasets").rglob("*.tar"))
    for choice, kept in (("fallback", True), ("drop", False)):
        manifest = built(world, "--set", "keep.precision.target=0.995", "--set", f"keep.precision.on_low_support={choice}",
                         "--set", "gates.coverage=off", "--allow-empty", "--allow-partial", store=tmp_path)  # fmt: skip
        assert bool(manifest.kept) == kept
        assert all(not g.certified and g.reason for g in manifest.provenance.thresholds)


def test_precision_without_labels_is_refused_before_any_work(world: Path, tmp_path: Path) -> None:
    result = run(world, "--set", "truth=null", store=tmp_path)
    assert result.exit_code == 1 and "truth: LABELS" in result.output and not tmp_path.joinpath("pools").exists()


def test_exact_bets_certify_too(world: Path) -> None:
    manifest = built(world, "--set", "keep={precision: {target: 0.6, bound: exact, over: version}}")
    (group,) = manifest.provenance.thresholds
    assert group.certified and group.bound == "exact" and group.threshold < 1
