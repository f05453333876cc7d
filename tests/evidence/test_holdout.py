"""Uses of the certify half: whatever looks at one of its images is counted, once, however the build ends. And what is
measured on the tune half."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.cli.main import main
from builder.errors import BuildError
from builder.evidence.estimate import interval
from builder.evidence.holdout import measure
from builder.evidence.uses import count_use
from builder.rules.limits import limits
from builder.store.manifest import Manifest, read_manifest
from builder.store.provenance import Group
from builder.store.store import Store
from builder.truth.read import read_truth
from builder.truth.records import split
from tests.helpers.matched import CLASSES, some_matches
from tests.helpers.pools import write_world


def sha256(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def images(numbers: str) -> list[str]:
    return [sha256(number) for number in numbers]


def test_a_use_counts_all_that_looked_at_one_of_its_images(tmp_path: Path) -> None:
    store = Store(tmp_path)
    steps = [
        ("abcd", "one", 1),
        ("abcd", "one", 1),  # the same again
        ("dcba", "two", 2),
        ("abcd", "one", 2),  # the same again, after another
        ("de", "three", 3),  # one image in common
        ("efg", "four", 2),
        ("xyz", "five", 1),
        ("abcdefgxyz", "six", 6),
    ]
    for looked_at, use, expected in steps:
        assert count_use(store, images(looked_at), sha256(use)) == expected, use


@given(st.lists(st.tuples(st.sets(st.sampled_from("abcdef"), min_size=1), st.integers(0, 4)), max_size=8))
@settings(max_examples=25, deadline=None)
def test_the_count_is_that_of_a_list_of_all_uses(
    tmp_path_factory: pytest.TempPathFactory, uses: list[tuple[set[str], int]]
) -> None:
    store, every = Store(tmp_path_factory.mktemp("store")), list[tuple[set[str], int]]()
    for looked_at, use in uses:
        every.append((looked_at, use))
        assert count_use(store, images("".join(looked_at)), sha256(use)) == len(
            {other for seen, other in every if seen & looked_at}
        )


def test_uses_at_the_same_time_are_all_counted(tmp_path: Path) -> None:
    def use(n: int) -> int:
        return count_use(Store(tmp_path), images("abc"), sha256(n))

    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(use, range(16)))
    assert max(counts) == 16 and counts.count(1) <= 1 and use(0) == 16


def test_a_damaged_list_is_named(tmp_path: Path) -> None:
    count_use(Store(tmp_path), images("abc"), sha256(1))
    (path,) = tmp_path.glob("certify/*/images.json")
    path.write_text("[")
    with pytest.raises(BuildError, match="is damaged"):
        count_use(Store(tmp_path), images("c"), sha256(2))


@pytest.fixture(scope="module")
def labelled_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, pool=20, truth=150)
    return folder


@pytest.fixture
def world(labelled_world: Path, tmp_path: Path) -> Path:
    shutil.copytree(labelled_world, tmp_path / "world")
    return tmp_path / "world"


def run(world: Path, *more: str) -> Result:
    sets = [word for one in more for word in ("--set", one)]
    words = ["build", str(world / "recipe.yaml"), *sets, "--no-report", "--json", "--store", str(world / "store")]
    return CliRunner().invoke(main, words)


def built(world: Path, *more: str) -> Manifest:
    result = run(world, *more)
    assert result.exit_code == 0, result.output
    return read_manifest(Path(json.loads(result.stdout)["path"]))


def uses(manifest: Manifest) -> int:
    return int(manifest.provenance.truth.uses)


def test_a_build_that_looked_and_failed_is_a_use(world: Path) -> None:
    for _ in range(2):  # the same build again is the same use
        result = run(world, "keep.precision.target=0.995")
        assert result.exit_code == 1 and "cannot be certified" in result.output
    manifest = built(world)
    assert uses(manifest) == 2
    said = CliRunner().invoke(main, ["show", manifest.name, "--store", str(world / "store")]).output
    assert "Adaptive, no guarantee" in said and "used twice" in said


def test_a_build_that_ends_before_it_looks_is_none(world: Path) -> None:
    first, second = sorted((world / "pool").iterdir())[0], sorted((world / "truth").iterdir())[0]
    shutil.copy(second, first)
    result = run(world, "gates.on_leak=fail")
    assert result.exit_code == 1 and "gate leak failed" in result.output
    assert run(world, "keep={score: 0.5}").exit_code == 0  # does not look either
    assert uses(built(world)) == 1


def drop_image(world: Path) -> None:
    truth = json.loads((world / "truth.json").read_text())
    truth["images"] = truth["images"][:-1]
    kept = {image["id"] for image in truth["images"]}
    truth["annotations"] = [note for note in truth["annotations"] if note["image_id"] in kept]
    (world / "truth.json").write_text(json.dumps(truth))


def drop_boxes(world: Path, half: int = 1) -> None:
    """The first three of the certify half, or of `tune`."""
    names = {image.name for image in split(read_truth(world / "truth.json", world / "truth"))[half].images}
    truth = json.loads((world / "truth.json").read_text())
    ids = {image["id"] for image in truth["images"] if image["file_name"] in names}
    gone = [note["id"] for note in truth["annotations"] if note["image_id"] in ids][:3]
    left = [note for note in truth["annotations"] if note["id"] not in gone]
    (world / "truth.json").write_text(json.dumps(truth | {"annotations": left}))


def shrink_pool(world: Path) -> None:
    sorted((world / "pool").iterdir())[0].unlink()


@pytest.mark.parametrize("change", [drop_image, drop_boxes, shrink_pool])
def test_other_inputs_on_the_same_images_are_another_use(world: Path, change: Callable[[Path], None]) -> None:
    assert uses(built(world)) == 1
    change(world)
    assert uses(built(world)) == 2


@pytest.mark.parametrize(
    "change",
    [
        "keep.precision.on_low_support=fallback",
        "keep.precision.on_low_support=fail",
        "keep.precision.fallback=0.7",
        "keep.ignore=0.2",
        "keep.where='area > 1'",
        "gates.min_precision=0.8",
        "shards.max_images=7",
        "",
    ],
)
def test_what_fixes_no_test_is_no_other_use(world: Path, change: str) -> None:
    assert uses(built(world)) == 1
    if not change:
        drop_boxes(world, half=0)  # of `tune`, on which nothing is tested
    assert uses(built(world, *[change] if change else [])) == 1


@pytest.mark.parametrize(
    "change", ["keep.nms=0.5", "keep.max_per_image=3", "keep.calibration=isotonic", "keep.precision.delta=0.2",
               "keep.precision.over=class", "keep.precision.iou=0.75", "keep.precision.family=all",
               "keep.precision.bound=exact", "keep.classes={map: {dog: cat}}"]
)  # fmt: skip
def test_what_fixes_the_tests_makes_another_use(world: Path, change: str) -> None:
    assert uses(built(world)) == 1
    result = run(world, change)
    assert result.exit_code == 0 or "cannot be certified" in result.output
    again = built(world, "keep.precision.target=0.75")
    assert uses(again) == 3


def test_a_grouping_that_moves_images_does_not_start_anew(world: Path) -> None:
    assert uses(built(world)) == 1
    assert uses(built(world, 'truth={source: truth.json, images: truth, group: "(.{10})"}')) == 2


def test_a_version_says_the_number_of_when_it_was_built(world: Path) -> None:
    first = built(world)
    assert uses(first) == 1 and uses(built(world, "keep.precision.target=0.75")) == 2
    assert built(world) == first  # it is there: nothing to do
    shutil.rmtree(world / "store" / "datasets" / "pets" / first.version)
    again = built(world)
    assert again.id == first.id and uses(again) == 2


def test_thresholds_that_are_taken_over_are_no_use(world: Path) -> None:
    first = built(world)
    shrink_pool(world)
    assert uses(built(world, f"parent=pets@{first.version}")) == 1
    assert uses(built(world, f"parent=pets@{first.version}", "resolve=true")) == 2


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    iou=st.sampled_from([0.5, 0.75]),
    at=st.tuples(*[st.sampled_from([None, 0.0, 0.5, 0.94, 1.0])] * 3),
    weighted=st.booleans(),
)
def test_each_class_is_measured_by_itself(seed: int, iou: float, at: tuple[float | None, ...], weighted: bool) -> None:
    """Against plain counts, image by image; weighted as the pixels of maps are."""
    drawn, row = some_matches(seed, images=24, grid=50), [0.5, 0.75].index(iou)
    rng = np.random.default_rng(seed)
    weight, object_weight = (rng.integers(1, 9, len(part)) for part in (drawn.label, drawn.object_label))
    tune = replace(drawn, weight=weight, object_weight=object_weight) if weighted else drawn
    groups = [Group(classes=[c], rule="score", threshold=t) for c, t in zip(CLASSES, at, strict=True)]
    thresholds = limits(groups, CLASSES, None)
    found = measure(tune, thresholds, iou, 0.8)
    for n, name in enumerate(CLASSES):
        figures = np.zeros((4, 12), np.int64)  # kept, correct, objects, hits of each unit
        for r in np.flatnonzero((drawn.label == n) & drawn.counted[row] & (drawn.score >= thresholds.keep[n])):
            figures[:2, drawn.unit[drawn.image[r]]] += (weight[r] if weighted else 1) * np.array(
                [1, drawn.right[row, r]]
            )
        for r in np.flatnonzero(drawn.object_label == n):
            hit = drawn.object_score[row, r] >= thresholds.keep[n]
            figures[2:, drawn.unit[drawn.object_image[r]]] += (object_weight[r] if weighted else 1) * np.array([1, hit])
        kept, correct, objects, hits = figures.sum(axis=1).tolist()
        each = found.classes[name]
        assert (each.kept, each.correct, each.objects, each.hits) == (kept, correct, objects, hits)
        assert each.precision == (correct / kept if kept else None)
        assert each.recall == (hits / objects if objects else None)
        assert (each.low, each.high) == interval(figures[0], figures[1], 0.8)
        assert (each.recall_low, each.recall_high) == interval(figures[2], figures[3], 0.8)
    for name in ("kept", "correct", "objects", "hits"):
        assert getattr(found, name) == sum(getattr(each, name) for each in found.classes.values())
