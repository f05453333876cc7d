"""What people hand over, wrong or unusual: one short sentence each, and what is mended counts at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from builder.cli.main import main
from builder.cut.parent import ranges
from builder.errors import BuildError
from builder.label.replay.replay import Replay
from builder.recipe.recipe import ShardOptions, load_recipe
from builder.rules.where import COLUMNS, Where
from builder.scan.pool import ChunkFacts, Pool
from builder.store.manifest import read_manifest
from builder.truth.read import read_truth
from builder.truth.records import TruthError
from teachers.base import TeacherOptions
from tests import ROOT
from tests.helpers.pools import tree, write_images, write_recipe, write_results, write_world


def run(recipe: Path, *arguments: object) -> Result:
    words = ["build", recipe, *arguments, "--no-report", "--json", "--store", recipe.parent / "store"]
    return CliRunner().invoke(main, list(map(str, words)))


def built(recipe: Path, *arguments: object) -> dict[str, Any]:
    result = run(recipe, *arguments)
    assert result.exit_code == 0, result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


def told(result: Result) -> str:
    """The one sentence of a run that failed."""
    assert result.exit_code == 1, result.output
    (line,) = result.output.strip().splitlines()
    return line


# The wording of a recipe's errors

WRONG = [
    ("keep.precision=abc", "keep.precision = 'abc': expected a number, or a section such as {target: 0.8}"),
    ("keep.precision=true", "keep.precision = true: expected a number, or a section such as {target: 0.8}"),
    ("keep.precision=1.5", "keep.precision.target = 1.5: must be less than 1"),
    (
        "keep.precision.tagret=0.8",
        "unknown key 'keep.precision.tagret': did you mean 'keep.precision.target'? See 'Recipe reference'",
    ),
    ("keep.precision.iou=0.75", "'keep.precision.target' is missing: add it"),
    ("keep={density: true}", "keep.density = true: expected a section such as {share: 0.2}"),
    ("keep.density=0.2", "keep.density = 0.2: expected a section such as {share: 0.2}"),
    ("keep.balance=3", "keep.balance = 3: expected a section such as {images: 100}"),
    ("keep.mixture=drop", "keep.mixture = 'drop': expected a section such as {few: ignore}"),
    ("keep=null", "keep = null: expected a section such as {score: 0.5}"),
    ("keep=0.5", "keep = 0.5: expected a section such as {score: 0.5}"),
    ("keep.score=abc", "keep.score = 'abc': expected a number, or a mapping such as"),
    ("keep.score=[1]", "keep.score = [1]: expected a number, or a mapping such as"),
    ("keep.score={cat: high}", "keep.score.cat = 'high': expected a number"),
    ("keep.score={cat: 2}", "keep.score.cat = 2: must be less than or equal to 1"),
    ("keep.ignore=abc", "keep.ignore = 'abc': expected a number, a mapping such as"),
    ("keep.max_per_image=0.5", "keep.max_per_image = 0.5: expected a whole number"),
    ("keep.where=3", "keep.where = 3: expected text"),
    ("keep.refused=maybe", "keep.refused = 'maybe': must be 'ignore' or 'drop'"),
    ("gates=off", "gates = false (YAML reads off and no as false): expected a section such as {on_leak: fail}"),
    ("gates.density=off", "gates.density = false (YAML reads off and no as false): expected a section such as"),
    ("gates.on_leak=off", "gates.on_leak = false (YAML reads off and no as false): must be 'drop' or 'fail'"),
    ("gates.leak_distance=65", "gates.leak_distance = 65: must be less than or equal to 64"),
    ("images=3", "images = 3: expected a section such as {near_duplicates: 4}"),
    ("images.drop_empty=maybe", "images.drop_empty = 'maybe': expected true or false"),
    ("images.near_duplicates=17", "images.near_duplicates = 17: must be less than or equal to 16"),
    ("shards=[]", "shards = []: expected a section such as {max_mb: 256}"),
    ("shards.max_mb=big", "shards.max_mb = 'big': expected a whole number"),
    ("shards.max_images=0", "shards.max_images = 0: must be greater than or equal to 1"),
    ("pool=null", "pool = null: expected a path, or a section such as {source: data/images}"),
    ("pool.foo.bar=1", "unknown key 'pool.foo'"),
    ("teacher=3", "teacher = 3: expected a spec, or a section such as"),
    ("teacher.classes=cat", "teacher.classes = 'cat': expected a list"),
    ("teacher={images: a.json}", "teacher = {'images': 'a.json'}: names no teacher: add spec, or ensemble"),
    ("teacher={spec: x, iou: 0.5}", "iou is at which boxes of an ensemble are one object: remove it"),
    ("teacher={spec: x, tta: true}", "teacher.tta = true: expected a section such as {flip: true, scales"),
    ("teacher={spec: x, tta: {flip: false}}", "tta must name a view besides the image itself"),
    ("teacher={spec: x, weight: 2}", "unknown key 'teacher.weight'"),
    ("teacher.ensemble=[a]", "has both spec and ensemble: remove one"),
    ("teacher={ensemble: a}", "teacher.ensemble = 'a': expected a list such as [{spec:"),
    ("teacher={ensemble: []}", "ensemble names no teacher: add one or more, each with a spec"),
    ("teacher={ensemble: [{weight: 2}]}", "'teacher.ensemble.0.spec' is missing: add it"),
    ("teacher={ensemble: [3]}", "teacher.ensemble.0 = 3: expected a section of keys"),
    ("teacher={ensemble: [{spec: a, weight: 0}]}", "teacher.ensemble.0.weight = 0: must be greater than 0"),
    ("teacher={ensemble: [{spec: a, weigth: 2}]}", "unknown key 'teacher.ensemble.0.weigth'"),
    ("teacher={ensemble: [a, 'replay:r.json']}", "teacher.ensemble.1 = {'spec': 'replay:r.json'}: stored predictions"),
    ("teacher={ensemble: [a], device: cpu}", "device is each teacher's own: move it to those of the ensemble"),
    ("teacher={ensemble: [a], images: b}", "images is for replay: teachers only: remove it"),
    ("teacher={ensemble: [a], iou: 1}", "teacher.iou = 1: must be less than 1"),
    ("truth=[]", "truth = []: expected a path, or a section such as {source: data/images}"),
    ("name=a b", "name = 'a b': expected letters, digits, - and _"),
    ("name=3", "name = 3: expected letters, digits, - and _"),
    (f"name={'x' * 5000}", "xx…: expected letters"),
]


@pytest.mark.parametrize(("override", "words"), WRONG, ids=[override[:30] for override, _ in WRONG])
def test_a_wrong_value_is_told_with_its_key_and_what_is_expected(tmp_path: Path, override: str, words: str) -> None:
    recipe = write_recipe(tmp_path, truth="truth.json", keep={})
    with pytest.raises(BuildError) as error:
        load_recipe(recipe, [override])
    message = str(error.value).removeprefix(f"recipe {recipe}: ")
    assert words in message
    assert "\n" not in message and len(message) < 250 and "pydantic" not in message and "instance" not in message


def test_the_forms_a_score_may_have_stay_what_they_are(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    for text, value in (("0.5", 0.5), ("1", 1.0), ("{cat: 0.5, '*': 1}", {"cat": 0.5, "*": 1.0}), ("null", 0.5)):
        assert load_recipe(recipe, [f"keep.score={text}"]).keep.model_dump()["score"] == value


# No error is as long as the file it is about

LONG = "x" * 5000


def write_labels(folder: Path, **changes: Any) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}],
    }
    for key, change in changes.items():
        content[key][0] |= change
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10)).save(folder / "a.png")
    (folder / "labels.json").write_text(json.dumps(content))
    return folder / "labels.json"


def read_voc(folder: Path, text: str) -> None:
    write_labels(folder)
    (folder / "a.xml").write_text(text)
    read_truth(folder, format="voc")


def read_yolo(folder: Path, names: str, row: str) -> None:
    write_labels(folder)
    (folder / "data.yaml").write_text(names)
    (folder / "a.txt").write_text(row)
    read_truth(folder, format="yolo")


def read_masks(folder: Path, classes: str, listing: str) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text(classes)
    (folder / "val.txt").write_text(listing)
    read_truth(folder / "val.txt", format="masks")


def replay(folder: Path, **changes: Any) -> None:
    labels = write_labels(folder)
    result = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5} | changes
    (folder / "results.json").write_text(json.dumps([result]))
    Replay(folder / "results.json", labels, TeacherOptions())


LENGTHY = {
    "a COCO JSON taken for VOC": lambda d: read_truth(write_labels(d, categories={"name": LONG}), format="voc"),
    "a COCO JSON taken for masks": lambda d: read_truth(write_labels(d, categories={"name": LONG}), format="masks"),
    "a COCO JSON taken for YOLO": lambda d: read_truth(write_labels(d, categories={"name": LONG}), format="yolo"),
    "a VOC class without box": lambda d: read_voc(d, f"<annotation><object><name>{LONG}</name></object></annotation>"),
    "a VOC corner": lambda d: read_voc(
        d, f"<annotation><object><name>a</name><bndbox><xmin>{LONG}</xmin></bndbox></object></annotation>"
    ),
    "a VOC root": lambda d: read_voc(d, f"<{LONG}/>"),
    "a YOLO row": lambda d: read_yolo(d, "names: [cat]", LONG),
    "a YOLO class": lambda d: read_yolo(d, "names: [cat]", f"{'9' * 300} .5 .5 .5 .5"),
    "YOLO names": lambda d: read_yolo(d, f"names: [{LONG}, {LONG}]", ""),
    "a YAML that is none": lambda d: read_yolo(d, f"names: [{LONG}\n{LONG}: {LONG}", ""),
    "a class of masks": lambda d: read_masks(d, f"{LONG}\n{LONG}", "a"),
    "an entry of a list of masks": lambda d: read_masks(d, "cat", LONG),
    "an image of a COCO JSON": lambda d: read_truth(write_labels(d, images={"file_name": LONG})),
    "a size in a COCO JSON": lambda d: read_truth(write_labels(d, images={"width": LONG})),
    "an image_id": lambda d: read_truth(write_labels(d, annotations={"image_id": LONG})),
    "a box": lambda d: read_truth(write_labels(d, annotations={"bbox": LONG})),
    "a box of many numbers": lambda d: read_truth(write_labels(d, annotations={"bbox": [1] * 999})),
    "a replayed box": lambda d: replay(d, bbox=[LONG]),
    "a replayed box of many numbers": lambda d: replay(d, bbox=[1] * 999),
    "a replayed category": lambda d: replay(d, category_id=LONG),
}


@pytest.mark.parametrize("what", LENGTHY)
def test_no_error_is_as_long_as_the_file(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "sets" / "in" / "labels"
    with pytest.raises((TruthError, BuildError)) as error:
        LENGTHY[what](folder)
    message = str(error.value).replace(str(tmp_path), "")
    assert "\n" not in message and len(message) < 300
    assert ": " in message  # what to do about it


def test_a_list_that_is_none_is_told_in_one_short_sentence(tmp_path: Path) -> None:
    (tmp_path / "pool.txt").write_text(f'{{"{LONG}": 1}}\n')
    line = told(run(write_recipe(tmp_path, pool="pool.txt")))
    assert "longer than a file's name can be: correct the list" in line and len(line) < 250


def test_a_json_given_as_voc_is_told_so_in_one_sentence(tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "pool")
    recipe = write_recipe(tmp_path, truth={"source": str(labels), "format": "voc"})
    line = told(run(recipe))
    assert 'labels.json: entry 1, \'{"images"' in line and "give a folder of Pascal VOC labels" in line


# Labels that say nothing


def test_labels_without_images_or_objects(tmp_path: Path) -> None:
    recipe = write_world(tmp_path, 4, 12)
    content = json.loads((tmp_path / "truth.json").read_text())
    (tmp_path / "empty").mkdir()
    assert "has no labels of a known format" in told(run(recipe, "--set", "truth={source: empty}"))
    for empty, words in (
        ({"images": [], "annotations": []}, "labels truth.json name no image: give labels with images"),
        ({"annotations": []}, "labels truth.json have 12 images and not one object"),
    ):
        (tmp_path / "truth.json").write_text(json.dumps(content | empty))
        assert words in told(run(recipe))


def test_few_units_are_told_as_such(tmp_path: Path) -> None:
    recipe = write_world(tmp_path, 40, 120)
    result = run(recipe, "--set", "truth.group=^image_0(5[01])")  # two units, one in each half
    line = result.output.strip().splitlines()[-1]  # after the plan
    assert result.exit_code == 1 and line.startswith("Error: ")
    assert "of one image or group are alike: they count as 0.0 independent ones, and 11 are needed" in line
    assert "are alike" not in run(recipe).output


# Results that others stored


def test_an_image_that_is_renamed_to_what_the_listing_says_is_labelled_at_once(tmp_path: Path) -> None:
    names = write_images(tmp_path / "pool", 6)
    write_results(tmp_path, names)
    moved = tmp_path / "pool" / "other.jpg"
    (tmp_path / "pool" / names[2]).rename(moved)
    recipe = write_recipe(tmp_path, pool={"source": "pool", "chunk": 8})
    assert "other.jpg: not among the images of listing.json" in told(run(recipe))
    lenient = ("--max-failure-rate", 0.5)
    assert built(recipe, *lenient)["images_labelled"] == 0  # tried once is enough, while nothing changes
    moved.rename(tmp_path / "pool" / names[2])
    assert built(recipe)["images_labelled"] == 6
    again = built(recipe)
    assert (again["images_labelled"], again["failures"], again["samples"]) == (0, [], 6)


def test_a_corrected_listing_is_another_teacher(tmp_path: Path) -> None:
    names = write_images(tmp_path / "pool", 4)
    write_results(tmp_path, names)
    listing = json.loads((tmp_path / "listing.json").read_text())
    wrong = [image | {"width": 100} for image in listing["images"]]
    (tmp_path / "listing.json").write_text(json.dumps(listing | {"images": wrong}))
    recipe = write_recipe(tmp_path)
    assert "is 64x48, but 100x48 in listing.json" in told(run(recipe))
    (tmp_path / "listing.json").write_text(json.dumps(listing))
    assert built(recipe)["samples"] == 4


# Shards of many tiny images


def pool_of(sizes: list[tuple[int, int]]) -> Pool:
    """A pool of chunks of (images, megabytes)."""
    facts = tuple(ChunkFacts(f"{n:064x}", images, size * 1_000_000) for n, (images, size) in enumerate(sizes))
    return Pool("0" * 64, "pool", Path("pool.parquet"), {}, facts, frozenset(), 0)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 20)), max_size=30),
    max_mb=st.integers(1, 40),
    max_images=st.integers(1, 40),
)
def test_shards_hold_whole_chunks_and_as_many_as_fit(
    sizes: list[tuple[int, int]], max_mb: int, max_images: int
) -> None:
    options = ShardOptions(max_mb=max_mb, max_images=max_images)
    found = list(ranges(pool_of(sizes), options, None))
    assert [n for chunks in found for n in chunks] == list(range(len(sizes)))

    def fits(chunks: range) -> bool:
        images, size = (sum(column) for column in zip(*(sizes[n] for n in chunks), strict=True))
        return images <= max_images and size <= max_mb

    for n, chunks in enumerate(found):
        assert len(chunks) == 1 or fits(chunks)
        assert n + 1 == len(found) or not fits(range(chunks.start, chunks.stop + 1))


def test_a_cap_on_images_makes_more_shards_and_the_same_bytes_whoever_writes(tmp_path: Path) -> None:
    write_results(tmp_path, write_images(tmp_path / "pool", 12))
    recipe = write_recipe(tmp_path, pool={"source": "pool", "chunk": 2}, shards={"max_images": 5})
    for workers in (1, 3):
        words = ["build", recipe, "--workers", workers, "--no-report", "--store", tmp_path / f"store{workers}"]
        assert CliRunner().invoke(main, list(map(str, words))).exit_code == 0
    one, three = tree(tmp_path / "store1"), tree(tmp_path / "store3")
    assert one == three
    manifest = read_manifest(tmp_path / "store1" / "datasets" / "pets" / "v1")
    assert [shard.samples for shard in manifest.shards] == [4, 4, 4]


# Conditions, whose databases are used again


def columns(area: list[float], classes: list[str]) -> dict[str, Any]:
    numbers = {name: np.array(area, np.float32) for name in COLUMNS}
    return numbers | {"class": pa.array(classes), "name": pa.array(classes)}


def test_a_condition_sees_only_the_objects_it_is_given(tmp_path: Path) -> None:
    condition, cast = Where("area > 5"), Where("CAST(class AS INTEGER) > 1")
    for area in ([1.0, 9.0, 7.0], [2.0], [6.0, 6.0], []):
        true, null, _ = condition(columns(area, ["cat"] * len(area)))
        assert true.tolist() == [a > 5 for a in area] and not null.any()
    with pytest.raises(BuildError, match="failed: Conversion Error"):
        cast(columns([1.0], ["cat"]))
    assert cast(columns([1.0, 1.0], ["2", "1"]))[0].tolist() == [True, False]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda n: condition(columns([float(n), 9.0], ["cat", "dog"]))[0].tolist(), range(50))
        assert list(found) == [[n > 5, True] for n in range(50)]


# Labels of other formats, with a real teacher


def write_as_voc(
    root: Path, images: dict[int, dict[str, Any]], notes: list[dict[str, Any]], names: dict[int, str]
) -> None:
    (root / "Annotations").mkdir(parents=True)
    for id, image in images.items():
        rows = "".join(
            f"<object><name>{names[note['category_id']]}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for note in notes
            if note["image_id"] == id
            for x, y, w, h in [note["bbox"]]
        )
        size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
        name = Path(image["file_name"])
        text = f"<annotation><filename>{name}</filename>{size}{rows}</annotation>"
        (root / "Annotations" / f"{name.stem}.xml").write_text(text)


def write_as_yolo(
    root: Path, images: dict[int, dict[str, Any]], notes: list[dict[str, Any]], names: dict[int, str]
) -> None:
    (root / "labels").mkdir(parents=True)
    places = {id: place for place, id in enumerate(names)}
    for id, image in images.items():
        width, height = image["width"], image["height"]
        rows = [
            f"{places[note['category_id']]} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}\n"
            for note in notes
            if note["image_id"] == id
            for x, y, w, h in [note["bbox"]]
        ]
        (root / "labels" / f"{Path(image['file_name']).stem}.txt").write_text("".join(rows))
    (root / "data.yaml").write_text(yaml.safe_dump({"names": list(names.values())}))


def test_labels_in_three_formats_measure_a_real_teacher_alike(shared_data: Path, tmp_path: Path) -> None:
    content = json.loads((shared_data / "coco" / "instances_val.json").read_text())
    crowded = {note["image_id"] for note in content["annotations"] if note["iscrowd"]}
    images = {image["id"]: image for image in content["images"] if image["id"] not in crowded}
    images = dict(list(images.items())[:20])
    notes = [note for note in content["annotations"] if note["image_id"] in images]
    used = {note["category_id"] for note in notes}
    categories = [category for category in content["categories"] if category["id"] in used]
    names = {category["id"]: category["name"] for category in categories}

    for folder, chosen in (("truth", images.values()), ("pool", content["images"][-2:])):
        (tmp_path / folder).mkdir()
        for image in chosen:
            (tmp_path / folder / image["file_name"]).symlink_to(shared_data / "coco" / "images" / image["file_name"])
    assert not {image["id"] for image in content["images"][-2:]} & images.keys()
    said = {"images": list(images.values()), "categories": categories, "annotations": notes}
    (tmp_path / "coco.json").write_text(json.dumps(said))
    write_as_voc(tmp_path / "voc", images, notes, names)
    write_as_yolo(tmp_path / "yolo", images, notes, names)

    weights = str(shared_data / "models" / "yolox_nano_416.onnx")
    spec = f"onnx:{ROOT / 'examples' / 'coco_yolox' / 'yolox_nano_416.yaml'}"
    measured = []
    for n, source in enumerate(("coco.json", "voc", "yolo")):
        recipe = write_recipe(
            tmp_path, teacher={"spec": spec, "weights": weights}, truth={"source": source, "images": "truth"}
        )
        found = built(recipe)
        assert found["images_labelled"] == (2 if n == 0 else 0)
        truth = read_manifest(Path(found["path"])).provenance.truth
        measured.append((truth.images, truth.tune, truth.certify, truth.measured))
    assert measured[0] == measured[1] == measured[2]
    assert measured[0][0] == 20 and measured[0][3].correct > 10


def test_labelled_images_without_stored_predictions_are_not_passed_over(tmp_path: Path) -> None:
    """Evidence would be of the others alone."""
    recipe = write_world(tmp_path, 4, 40)
    listing = json.loads((tmp_path / "listing.json").read_text())
    gone = listing["images"].pop()
    (tmp_path / "listing.json").write_text(json.dumps(listing))
    results = json.loads((tmp_path / "results.json").read_text())
    results = [result for result in results if result["image_id"] != gone["id"]]
    (tmp_path / "results.json").write_text(json.dumps(results))
    line = told(run(recipe))
    assert "1 of 40 labelled images cannot be read (2.5%, allowed 1.0%)" in line
    assert f"{gone['file_name']}: not among the images of listing.json" in line
