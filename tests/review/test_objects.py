"""What comes back from a person, as overrides; and the versions that come of them, through the command line."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from builder.browse.documents import Names
from builder.browse.edits import edits_of
from builder.cli.main import main
from builder.cut.recall import new_version
from builder.errors import BuildError
from builder.report.quality import expected_quality
from builder.review.objects import Edited, Shown, overrides_of, shown_objects
from builder.rules.overrides import Box, Override, add_overrides, load_overrides
from builder.store.files import sha256_file
from builder.store.manifest import read_manifest, write_manifest
from builder.store.shards import read_samples
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.verify import problems
from tests.helpers.pools import CLASSES, tree, write_images, write_recipe, write_results, write_world

SHA = "c" * 64
ONE: Box = (10.0, 10.0, 30.0, 30.0)
TWO: Box = (40.0, 10.0, 60.0, 30.0)
SHOWN = [
    Shown("k#0", "k", SHA, "cat", ONE, 0.9, "kept"),
    Shown("k#1", "k", SHA, "dog", TWO, 0.35, "ignored"),
    Shown("k#2", "k", SHA, "dog", ONE, 0.1, "dropped"),
]


def back(place: int, **changes: Any) -> Edited:
    was = SHOWN[place]
    return replace(Edited(was.id, "k", was.label, was.box, None, "ann"), **changes)


ALL = [back(0), back(1), back(2)]


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        (ALL, []),
        ([back(0)], []),  # tools that hide ignored and dropped objects do not give them back
        ([back(1), back(2)], [Override(SHA, ONE, "reject", "cat", None, "eve")]),
        ([], [Override(SHA, ONE, "reject", "cat", None, "eve")]),
        ([*ALL[:1], back(1, verdict="accept")], [Override(SHA, TWO, "accept", "dog", None, "ann")]),
        ([back(0, verdict="reject", label="bird")], [Override(SHA, ONE, "reject", "cat", None, "ann")]),
        ([back(0, label="bird")], [Override(SHA, ONE, "relabel", "bird", None, "ann", "cat")]),
        ([back(0, label="bird", verdict="accept")], [Override(SHA, ONE, "relabel", "bird", None, "ann", "cat")]),
        ([back(0, box=(10.4, 10.0, 30.0, 29.6))], []),
        ([back(0, box=(11.0, 10.0, 30.0, 30.0))], [Override(SHA, ONE, "move", "cat", (11.0, 10.0, 30.0, 30.0), "ann")]),
        ([back(0, box=TWO, label="dog")], [Override(SHA, ONE, "move", "dog", TWO, "ann", "cat")]),
        ([*ALL, Edited(None, "k", "bird", TWO, None, "bob")], [Override(SHA, TWO, "add", "bird", TWO, "bob")]),
        ([*ALL, Edited(None, "k", "bird", TWO, "reject", "bob")], []),
        ([*ALL, Edited(None, "k", "bird", (5.0, 5.0, 5.0, 5.0), None, "bob")], []),
        ([*ALL, back(0, box=TWO)], [Override(SHA, TWO, "add", "cat", TWO, "ann")]),  # a copy of an object
        ([*ALL, Edited("z#0", "z", "bird", TWO, None, "bob")], []),  # an image that was not asked for
    ],
)
def test_what_the_differences_say(edited: list[Edited], expected: list[Override]) -> None:
    assert overrides_of(SHOWN, edited, {"k": SHA}, {"k": "eve"}) == expected
    assert overrides_of(SHOWN[::-1], edited[::-1], {"k": SHA}, {"k": "eve"}) == expected


def test_a_box_drawn_over_the_edge_in_the_app() -> None:
    """The next version shows what lies on the image, and by that box the override must be found again."""
    drawn = {"label": "cat", "bounding_box": [0.75, -0.5, 0.5, 1.0]}
    sample = {"key": "k", "metadata": {"width": 64, "height": 48}, "pseudo": {"detections": [drawn]}}
    assert [one.box for one in edits_of(sample, Names(), {}, "ann")] == [(48.0, 0.0, 64.0, 24.0)]


BESIDE: Box = (12.0, 10.0, 32.0, 30.0)
CROWD = [Shown("k#0", "k", SHA, "cat", ONE, 0.9, "kept"), Shown("k#1", "k", SHA, "cat", BESIDE, 0.6, "kept")]
LEFT = Override(SHA, BESIDE, "accept", "cat", None, "ann")


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (None, [LEFT]),  # deleted
        (Edited("k#0", "k", "cat", ONE, "reject", "ann"), [LEFT]),
        (Edited("k#0", "k", "cat", TWO, None, "ann"), [LEFT]),
        (Edited("k#0", "k", "dog", ONE, None, "ann"), []),
        (Edited("k#0", "k", "cat", ONE, None, "ann"), []),
    ],
)
def test_a_kept_object_left_beside_an_edit_is_accepted(first: Edited | None, expected: list[Override]) -> None:
    """A rejected, added or relabelled box would take others of its class with it."""
    edited = [Edited("k#1", "k", "cat", BESIDE, None, "ann"), *([first] if first else [])]
    said = overrides_of(CROWD, edited, {"k": SHA}, {"k": "ann"})
    assert [one for one in said if one.action == "accept"] == expected
    drawn = [Edited(None, "k", "cat", (13.0, 10.0, 33.0, 30.0), None, "ann"), edited[0]]
    assert LEFT in overrides_of(CROWD[1:], drawn, {"k": SHA}, {"k": "ann"})


def test_images_that_did_not_come_back_say_nothing() -> None:
    assert overrides_of(SHOWN, [], {}, {}) == []


def test_an_object_that_was_never_shown_is_an_error() -> None:
    with pytest.raises(BuildError, match="pull with the version that was reviewed"):
        overrides_of(SHOWN, [back(0, id="k#9")], {"k": SHA}, {})


# versions


def run(*arguments: object, store: Path) -> Result:
    quick = ["--no-report"] if arguments[0] == "build" else []
    return CliRunner().invoke(main, [*map(str, arguments), *quick, "--store", str(store)])


def build(folder: Path, *more: str) -> Path:
    result = run("build", folder / "recipe.yaml", "--json", *more, store=folder / "store")
    assert result.exit_code == 0, result.output
    return Path(json.loads(result.stdout)["path"])


def write_boxes(folder: Path, names: list[str], *, shift: float = 0.0, file: str = "results.json") -> None:
    """Of each image a kept, an ignored and a dropped box, far apart; the teacher of `shift` sees them elsewhere."""
    rng = np.random.default_rng(3)
    boxes = [(4.0, 4.0, 24.0, 20.0), (34.0, 4.0, 24.0, 20.0), (4.0, 28.0, 50.0, 18.0)]
    results = [
        {
            "image_id": 10 + n,
            "category_id": category,
            "bbox": [*(np.array(box[:2]) + shift * rng.choice([-1, 1], 2)).tolist(), *box[2:]],
            "score": score,
        }
        for n in range(len(names))
        for box, category, score in zip(boxes, (3, 7, 3), (0.9, 0.4, 0.1), strict=True)
    ]
    (folder / file).write_text(json.dumps(results))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    names = write_images(folder / "pool", 12)
    write_results(folder, names)
    write_boxes(folder, names)
    write_recipe(folder, shards={"max_images": 4})
    build(folder)
    return folder


@pytest.fixture
def world(built: Path, tmp_path: Path) -> Path:
    """A copy of: v1 of 12 images in three shards, each with a kept cat, an ignored dog and a dropped cat."""
    shutil.copytree(built, tmp_path / "world")
    return tmp_path / "world"


def version(folder: Path, number: int) -> Path:
    return folder / "store" / "datasets" / "pets" / f"v{number}"


def labels(folder: Path) -> dict[str, dict[str, Any]]:
    """name -> label JSON, of all samples."""
    found = {}
    for tar in sorted((folder / "data").iterdir()):
        for sample in read_samples(tar):
            label = orjson.loads(sample.members["json"].read())
            found[label["name"]] = label
    return found


def objects(folder: Path, name: str) -> list[tuple[str, str, bool, list[float]]]:
    """Class, source, whether ignored, and xyxy box of each object of an image."""
    said = labels(folder)[name]["objects"]
    return [
        (CLASSES[category], source, ignore, [x, y, x + w, y + h])
        for category, source, ignore, (x, y, w, h) in zip(
            said["category"], said["source"], said["ignore"], said["bbox"], strict=True
        )
    ]


CAT, DOG, WEAK = (4.0, 4.0, 28.0, 24.0), (34.0, 4.0, 58.0, 24.0), (4.0, 28.0, 54.0, 46.0)
NEW: Box = (40.0, 26.0, 60.0, 46.0)
MOVED: Box = (6.0, 5.0, 29.0, 26.0)


def review(folder: Path) -> list[Override]:
    """What ann says of the first two images, in the first shard, and bob of the ninth, in the third."""
    sha = [label["sha256"] for _, label in sorted(labels(version(folder, 1)).items())]
    said = [
        Override(sha[0], CAT, "reject", "cat", None, "ann"),
        Override(sha[0], DOG, "accept", "dog", None, "ann"),
        Override(sha[0], NEW, "add", "bird", NEW, "ann"),
        Override(sha[1], CAT, "move", "cat", MOVED, "ann"),
        Override(sha[1], WEAK, "relabel", "bird", None, "ann", "cat"),
        Override(sha[8], NEW, "move", "bird", NEW, "bob"),  # nothing is there
        Override(sha[8], (56.0, 28.0, 63.0, 46.0), "reject", "bird", None, "bob"),
        Override("e" * 64, NEW, "accept", "dog", None, "bob"),
    ]
    add_overrides(Store(folder / "store"), "pets", said, CLASSES)
    return said


IMAGE0 = [("dog", "human", False, list(DOG)), ("bird", "human", False, list(NEW))]
IMAGE1 = [
    ("cat", "human", False, list(MOVED)),
    ("dog", "teacher", True, list(DOG)),
    ("bird", "human", False, list(WEAK)),
]


def test_a_build_takes_what_people_said(world: Path) -> None:
    review(world)
    path = build(world)
    assert path == version(world, 2) and build(world) == path
    assert objects(path, "image_00000.jpg") == IMAGE0 and objects(path, "image_00001.jpg") == IMAGE1
    assert labels(path)["image_00000.jpg"]["objects"]["score"] == pytest.approx([0.4, 1.0])
    before, after = labels(version(world, 1)), labels(path)
    assert [name for name in before if before[name] != after[name]] == ["image_00000.jpg", "image_00001.jpg"]
    manifest = read_manifest(path)
    numbers = {
        "count": 8,
        "applied": 5,
        "orphans": 1,
        "waiting": 1,
        "elsewhere": 1,
    } | dict.fromkeys(("accept", "reject", "relabel", "move", "add"), 1)
    said = manifest.provenance.overrides
    assert {name: said.stored()[name] for name in numbers} == numbers and len(said.digest) == 64
    assert manifest.objects["predicted"] == 36 and manifest.objects["added"] == 1
    assert sum(n for reason, n in manifest.objects.items() if reason != "predicted") == 37
    assert manifest.per_class["bird"] == {"predicted": 0, "kept": 2, "ignored": 0}
    assert (manifest.kept, manifest.ignored) == (10 + 2 + 2, 11)
    rows = pq.read_table(path / "labels.parquet").to_pylist()
    assert Counter(row["source"] for row in rows) == {"teacher": 32, "human": 5}
    assert not problems(Version.open(path))


def test_a_store_that_nobody_reviewed_says_so(world: Path) -> None:
    manifest = read_manifest(version(world, 1))
    assert manifest.provenance.overrides is None and "overrides.json" not in manifest.files
    assert {row["source"] for row in pq.read_table(version(world, 1) / "labels.parquet").to_pylist()} == {"teacher"}
    review(world)
    assert build(world, "--set", "review=false") == version(world, 1)


def test_the_next_version_takes_thresholds_and_untouched_shards_over(world: Path) -> None:
    review(world)
    store = Store(world / "store")
    made = new_version(store, Version.open(version(world, 1)), 1, report=False)
    first, path = version(world, 1), made.folder
    assert path == version(world, 2) and objects(path, "image_00001.jpg") == IMAGE1
    shared = [os.path.samefile(first / "data" / s.name, path / "data" / s.name) for s in made.manifest.shards]
    assert shared == [False, True, False]
    assert made.manifest.provenance.parent.version == "pets@v1"
    assert made.manifest.provenance.thresholds == read_manifest(first).provenance.thresholds
    assert run("verify", "pets@v2", store=world / "store").exit_code == 0
    sha = labels(path)["image_00000.jpg"]["sha256"]
    add_overrides(store, "pets", [Override(sha, DOG, "relabel", "bird", None, "bob", "dog")])
    again = new_version(store, Version.open(path), 1, report=False)
    assert again.folder == version(world, 3)
    assert objects(again.folder, "image_00000.jpg")[0] == ("bird", "human", False, list(DOG))
    assert objects(again.folder, "image_00001.jpg") == IMAGE1


@pytest.mark.parametrize("score", [0.05, 0.3, 0.95])
def test_verdicts_outlive_a_threshold(world: Path, score: float) -> None:
    review(world)
    path = build(world, "--set", f"keep.score={score}", "--set", "keep.ignore=null")
    for name, expected in (("image_00000.jpg", IMAGE0), ("image_00001.jpg", IMAGE1)):
        found = [row for row in objects(path, name) if row[1] == "human"]
        assert found == [row for row in expected if row[1] == "human"]
    cats = [row for row in objects(path, "image_00000.jpg") if row[0] == "cat"]
    assert [row[3] for row in cats] == ([list(WEAK)] if score < 0.1 else [])


def test_verdicts_outlive_a_teacher(world: Path) -> None:
    review(world)
    names = sorted(os.listdir(world / "pool"))
    write_boxes(world, names, shift=2.0, file="other.json")
    path = build(world, "--set", "teacher.spec=replay:other.json")
    rows = objects(path, "image_00000.jpg")
    assert [(label, source) for label, source, _, _ in rows] == [("dog", "human"), ("bird", "human")]
    assert [(label, source) for label, source, _, _ in objects(path, "image_00001.jpg")] == [
        (label, source) for label, source, _, _ in IMAGE1
    ]
    assert read_manifest(path).provenance.overrides.orphans == 1
    (world / "nothing.json").write_text("[]")
    path = build(world, "--set", "teacher.spec=replay:nothing.json")
    said = read_manifest(path).provenance.overrides
    assert (said.applied, said.orphans, said.waiting) == (1, 4, 2)
    assert objects(path, "image_00000.jpg") == [("bird", "human", False, list(NEW))]
    told = json.loads((path / "overrides.json").read_text())["overrides"]
    assert Counter(row["state"] for row in told) == {"applied": 1, "orphaned": 4, "waiting": 2, "elsewhere": 1}


def test_an_image_whose_only_objects_people_added_or_refused(world: Path) -> None:
    sha = labels(version(world, 1))["image_00003.jpg"]["sha256"]
    (world / "nothing.json").write_text("[]")
    add_overrides(Store(world / "store"), "pets", [Override(sha, NEW, "add", "bird", NEW, "ann")])
    path = build(world, "--set", "teacher.spec=replay:nothing.json", "--set", "images.drop_empty=true")
    assert list(labels(path)) == ["image_00003.jpg"]
    add_overrides(Store(world / "store"), "pets", [Override(sha, CAT, "reject", "cat", None, "ann")])
    path = build(world, "--set", "images.drop_empty=true")
    assert len(labels(path)) == 12 and not problems(Version.open(path))


@pytest.mark.parametrize("gone", ["overrides.json", "labels.parquet", "data/train-000000.tar", "README.md"])
def test_repair_gives_back_what_people_said(world: Path, gone: str) -> None:
    review(world)
    path = build(world)
    before = tree(path)
    (path / gone).write_bytes(b"{}")
    assert run("verify", "pets@v2", store=world / "store").exit_code == 1
    result = run("verify", "pets@v2", "--repair", store=world / "store")
    assert result.exit_code == 0, result.output
    assert tree(path) == before


def test_overrides_that_are_no_longer_in_force_cannot_be_given_back(world: Path) -> None:
    said = review(world)
    path = build(world)
    (path / "overrides.json").unlink()
    add_overrides(Store(world / "store"), "pets", [replace(said[0], action="accept")])
    result = run("verify", "pets@v2", "--repair", store=world / "store")
    assert result.exit_code == 1 and "overrides.json" in result.output and result.output.count("\n") == 1


def test_explain_diff_and_export_know_who_decided(world: Path) -> None:
    review(world)
    build(world)
    told = run("explain", "pets@v2", "image_00000.jpg", store=world / "store").output
    assert "rejected by ann" in told and "accepted by ann" in told and "drawn by ann" in told
    told = run("explain", "pets@v2", "image_00001.jpg", store=world / "store").output
    assert "given the class bird by ann, who was shown cat" in told and "its box was drawn by ann" in told
    told = run("explain", "pets@v2", "image_00008.jpg", store=world / "store").output
    assert "move of a bird at 40.0, 26.0, 60.0, 46.0 by bob: orphaned" in told and "reject of a bird" in told
    told = run("diff", "pets@v1", "pets@v2", store=world / "store").output
    line = "by people: 0 → 1 accepted, 0 → 1 added, 0 → 1 moved, 0 → 1 rejected, 0 → 1 relabelled"
    assert line in told.splitlines()
    assert run("export", "pets@v2", world / "coco", "--format", "coco", store=world / "store").exit_code == 0
    notes = json.loads((world / "coco" / "annotations.json").read_text())["annotations"]
    assert Counter(note["source"] for note in notes) == {"teacher": 21, "human": 4}
    shown = run("show", "pets@v2", store=world / "store").output
    assert "5 of 8 overrides applied" in shown and "1 orphaned" in shown


def test_an_accepted_object_that_was_kept_anyway_is_a_difference(world: Path) -> None:
    sha = labels(version(world, 1))["image_00003.jpg"]["sha256"]
    add_overrides(Store(world / "store"), "pets", [Override(sha, CAT, "accept", "cat", None, "ann")])
    build(world)
    told = json.loads(run("diff", "pets@v1", "pets@v2", "--json", store=world / "store").stdout)
    assert not told["empty"] and told["people"] == {"accepted": [0, 1]} and told["total"]["rescored"] == 0


def test_a_label_that_the_teacher_lacks_is_refused_before_anything_is_written(world: Path) -> None:
    add_overrides(Store(world / "store"), "pets", [Override(SHA, NEW, "add", "lorry", NEW, "ann")])
    result = run("build", world / "recipe.yaml", store=world / "store")
    assert result.exit_code == 1 and result.output.count("\n") == 1
    assert "'lorry'" in result.output and "review: false" in result.output
    assert not version(world, 2).exists()


def test_what_people_said_of_a_removed_image_is_not_counted(world: Path) -> None:
    review(world)
    build(world)
    (world / "pool" / "image_00000.jpg").unlink()
    path = build(world, "--set", "parent=pets@v2")
    manifest = read_manifest(path)
    assert len(manifest.tombstones) == 1 and not problems(Version.open(path))
    assert os.path.samefile(version(world, 2) / "data" / "train-000000.tar", path / "data" / "train-000000.tar")
    said = manifest.provenance.overrides
    assert (said.applied, said.elsewhere, manifest.objects["added"]) == (2, 4, 0)


@pytest.mark.parametrize("lost", ["pools", "predictions"])
def test_a_version_is_cut_again_from_itself_where_the_store_lacks_what_it_was_made_of(world: Path, lost: str) -> None:
    review(world)
    shutil.copytree(world / "store", world / "whole")
    expected = new_version(Store(world / "whole"), Version.open(world / "whole/datasets/pets/v1"), 1, report=False)
    shutil.rmtree(world / "store" / lost)
    made = new_version(Store(world / "store"), Version.open(version(world, 1)), 1, report=False)
    assert made.manifest.id == expected.manifest.id and tree(made.data) == tree(expected.data)


def test_a_version_of_no_store_gets_one_sentence(world: Path) -> None:
    review(world)
    path = shutil.copytree(version(world, 1), world / "elsewhere")
    with pytest.raises(BuildError, match=r"elsewhere is no version of .*store: build or pull it there"):
        new_version(Store(world / "store"), Version.open(path), 1)
    assert not version(world, 2).exists()


def test_certified_thresholds_and_calibration_are_taken_over(tmp_path: Path) -> None:
    write_world(tmp_path, pool=20, truth=150)
    first = read_manifest(build(tmp_path, "--set", "keep.calibration=temperature"))
    (some, *_) = shown_objects(Version.open(version(tmp_path, 1)))
    kept = next(one for one in some if one.outcome != "kept")
    store = Store(tmp_path / "store")
    add_overrides(store, "pets", [Override(kept.sha256, kept.box, "accept", kept.label, None, "ann")])
    made = new_version(store, Version.open(version(tmp_path, 1)), 1, report=False).manifest
    for name in ("thresholds", "calibration", "truth"):
        assert getattr(made.provenance, name) == getattr(first.provenance, name)
    assert made.provenance.overrides.applied == 1 and made.kept == first.kept + 1
    again = next(
        one for image in shown_objects(Version.open(version(tmp_path, 2))) for one in image if one.id == kept.id
    )
    assert (again.outcome, again.score) == ("kept", kept.score)
    assert not problems(Version.open(version(tmp_path, 2)))


@pytest.mark.parametrize("batch", [1, 2, 5, 1 << 16])
def test_what_is_shown_is_what_labels_say(built: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr("builder.review.objects.BATCH", batch)
    images = list(shown_objects(Version.open(version(built, 1))))
    said = labels(version(built, 1))
    hashes = {label["key"]: label["sha256"] for label in said.values()}
    assert [image[0].key for image in images] == list(hashes)
    for image in images:
        assert [one.outcome for one in image] == ["kept", "ignored", "dropped"]
        assert [one.id for one in image] == [f"{image[0].key}#{n}" for n in range(3)]
        assert {one.sha256 for one in image} == {hashes[image[0].key]}
        assert [one.box for one in image] == [CAT, DOG, WEAK]
        assert [one.label for one in image] == ["cat", "dog", "cat"]
    few = sorted(hashes)[:3]
    assert sorted(image[0].key for image in shown_objects(Version.open(version(built, 1)), few)) == few


def test_a_round_of_review_gives_what_was_said(world: Path) -> None:
    """Shown, edited by somebody, pulled, cut again, shown: what is shown then is what they left."""
    shown = [one for image in shown_objects(Version.open(version(world, 1))) for one in image]
    first = shown[0].key
    edited = [
        Edited(one.id, one.key, "bird", MOVED, None, "ann")
        for one in shown
        if one.key == first and one.outcome == "kept"
    ]
    edited.append(Edited(None, first, "dog", NEW, None, "ann"))
    said = overrides_of(shown, edited, {first: shown[0].sha256}, {first: "ann"})
    store = Store(world / "store")
    add_overrides(store, "pets", said, CLASSES)
    path = new_version(store, Version.open(version(world, 1)), 1, report=False).folder
    again = next(image for image in shown_objects(Version.open(path)) if image[0].key == first)
    left = [(one.label, one.box) for one in again if one.outcome == "kept"]
    assert left == [("bird", MOVED), ("dog", NEW)]
    unchanged = [Edited(one.id, one.key, one.label, one.box, None, "ann") for one in again]
    assert overrides_of(again, unchanged, {first: shown[0].sha256}, {first: "ann"}) == []
    assert load_overrides(store.root / "reviews" / "pets" / "overrides.json") == said


def test_verify_holds_sources_against_each_other(world: Path) -> None:
    review(world)
    path = build(world)
    table = pq.read_table(path / "labels.parquet")
    place = table.schema.get_field_index("source")
    swapped = pa.array(["teacher"] * len(table))
    pq.write_table(table.set_column(place, "source", swapped), path / "labels.parquet")
    manifest = read_manifest(path)
    files = manifest.files | {"labels.parquet": sha256_file(path / "labels.parquet")}
    write_manifest(path, manifest.model_copy(update={"files": files}))
    assert [one.what for one in problems(Version.open(path))] == [
        "labels.parquet: the objects of 2 images are not those of data/train-000000.tar"
    ]


def test_gc_keeps_what_people_said_and_sweeps_what_a_killed_pull_left(world: Path) -> None:
    review(world)
    reviews = world / "store" / "reviews" / "pets"
    (reviews / ".tmp-overrides.json-7").write_bytes(b"{")
    found = json.loads(run("gc", "--predictions", "--json", store=world / "store").stdout)["garbage"]
    assert [Path(one["path"]).name for one in found if one["path"].startswith(str(reviews))] == [
        ".tmp-overrides.json-7"
    ]
    assert list(tree(reviews)) == ["overrides.json"]


def test_the_card_and_the_figures_say_what_people_decided(world: Path) -> None:
    review(world)
    path = build(world)
    card = (path / "README.md").read_text()
    assert "boxes that a teacher model drew; people decided on 5 of them" in card
    assert "- review: 5 of 8 overrides applied (1 accepted, 1 rejected, 1 relabelled, 1 moved, 1 added)" in card
    assert expected_quality(read_manifest(path))[-1].startswith("People decided on 5 boxes")
    assert not any("People" in text for text in expected_quality(read_manifest(version(world, 1))))
