"""Human labels: what is read, what is refused and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from builder.errors import BuildError
from builder.scan.sources import find_images
from builder.truth.coco import read_coco
from builder.truth.read import read_detection, read_truth
from builder.truth.records import (
    Truth,
    TruthError,
    check_detection,
    entries,
    read_pixels,
    split,
    subset,
    truth_digest,
    unit_of,
)


def labels(**changes: Any) -> dict[str, Any]:
    """A correct label file: ids not contiguous, a crowd, a box without area, an image without objects."""
    content = {
        "images": [
            {"id": 7, "file_name": "b.png", "width": 20, "height": 10},
            {"id": 3, "file_name": "a.png", "width": 20, "height": 10},
        ],
        "categories": [
            {"id": 0, "name": "background"},
            {"id": 90, "name": "cat"},
            {"id": 12, "name": "dog"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 12, "bbox": [1, 2, 3, 4], "area": 5.5, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 90, "bbox": [0, 0, 20, 10.5], "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 90, "bbox": [4, 4, 0, 3], "area": 0, "iscrowd": 0},
        ],
    }
    return content | changes


def write(folder: Path, content: Any, images: str = ".") -> Path:
    path = folder / "labels.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    (folder / images).mkdir(exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 10)).save(folder / images / name)
    return path


def test_reads_boxes_classes_and_empty_images(tmp_path: Path) -> None:
    truth = read_coco(write(tmp_path, labels()))
    assert truth.classes == ("cat", "dog")
    assert truth.category_ids == (90, 12)
    assert truth.dropped_boxes == 1
    b, a = truth.images
    assert (b.name, b.path, b.width, b.height, b.image_id) == ("b.png", tmp_path / "b.png", 20, 10, 7)
    np.testing.assert_array_equal(b.boxes, np.array([[1, 2, 4, 6], [0, 0, 20, 10.5]], np.float32))
    np.testing.assert_array_equal(b.labels, np.array([1, 0], np.int16))
    np.testing.assert_array_equal(b.crowd, [False, True])
    np.testing.assert_array_equal(b.area, np.array([5.5, 210], np.float32))
    assert a.boxes.shape == (0, 4)
    assert (a.boxes.dtype, a.labels.dtype, a.crowd.dtype, a.area.dtype) == (np.float32, np.int16, bool, np.float32)
    assert (b.boxes.dtype, b.labels.dtype, b.crowd.dtype, b.area.dtype) == (np.float32, np.int16, bool, np.float32)


def test_boxes_of_a_category_that_is_no_class_are_dropped_and_counted(tmp_path: Path) -> None:
    notes = labels()["annotations"]
    truth = read_coco(write(tmp_path, labels(annotations=[*notes, notes[0] | {"id": 4, "category_id": 0}])))
    assert truth.dropped_boxes == 2
    assert [len(image.boxes) for image in truth.images] == [2, 0]


def test_annotations_of_an_image_need_not_stand_together(tmp_path: Path) -> None:
    first, second, _ = labels()["annotations"]
    mixed = [second | {"image_id": 3}, first, second, first | {"image_id": 3}]
    b, a = read_coco(write(tmp_path, labels(annotations=mixed))).images
    assert (b.labels.tolist(), a.labels.tolist()) == ([1, 0], [0, 1])
    assert (b.boxes[:, 0].tolist(), a.boxes[:, 0].tolist()) == ([1, 0], [0, 1])
    assert (b.crowd.tolist(), a.crowd.tolist()) == ([False, True], [True, False])
    assert (b.area.tolist(), a.area.tolist()) == ([5.5, 210], [210, 5.5])


def test_no_images_and_no_annotations(tmp_path: Path) -> None:
    truth = read_coco(write(tmp_path, labels(images=[], annotations=[])))
    assert truth.images == []
    assert truth.classes == ("cat", "dog")


def changed(key: str, index: int, **changes: Any) -> dict[str, Any]:
    entries = labels()[key]
    entries[index] |= changes
    return labels(**{key: entries})


def without(key: str, index: int, name: str) -> dict[str, Any]:
    entries = labels()[key]
    del entries[index][name]
    return labels(**{key: entries})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{not json", "is not JSON"),
        ([], "no COCO object"),
        ({"images": [], "annotations": []}, "'categories'"),
        (without("images", 0, "width"), "'width'"),
        (without("annotations", 1, "bbox"), "'bbox'"),
        (changed("annotations", 1, image_id=8), "1 annotations have an unknown image_id, 8 first"),
        (changed("annotations", 0, category_id=1), "1 annotations have an unknown category_id, 1 first"),
        (changed("annotations", 0, bbox=[1, 2, 3]), "annotations[0].bbox is [1, 2, 3], not [x, y, width, height]"),
        (changed("annotations", 0, bbox=None), "annotations[0].bbox is None"),
        (changed("annotations", 0, bbox=[1, 2, 3, "x"]), "annotations[0].bbox is [1, 2, 3, 'x'], not four finite numbers"),
        (changed("annotations", 0, bbox=[1, 2, 3, None]), "annotations[0].bbox is [1, 2, 3, None], not four"),
        (changed("annotations", 0, bbox=[1e39, 2, 3, 4]), "annotations[0].bbox is [1e+39, 2, 3, 4], not four"),
        (json.dumps(labels()).replace("10.5", "NaN"), "not JSON"),
        (changed("categories", 2, name="cat"), "two categories have the name 'cat'"),
        (changed("categories", 2, id=90), "two categories have the id 90"),
        (changed("images", 1, id=7), "image id 7 stands 2 times"),
        (changed("images", 1, file_name="b.png"), "image file 'b.png' stands twice"),
        (changed("images", 1, file_name="gone.png"), "1 of 2 images, 'gone.png' first"),
        (changed("annotations", 0, image_id=[7]), "annotations[0].image_id: id [7] is neither"),
        (labels(images={"a": 1}), "has images: {'a': 1}, where a COCO file has a list"),
        (labels(annotations=None), "has annotations: None, where a COCO file has a list"),
        (labels(annotations=[1]), "annotations[0] is 1, not an entry of keys"),
        (changed("annotations", 0, bbox=[True, 2, 3, 4]), "annotations[0].bbox is [True, 2, 3, 4], not four"),
        (changed("annotations", 0, iscrowd="0"), "annotations[0].iscrowd is '0', not 0 or 1"),
        (changed("annotations", 0, area=-1), "annotations[0].area is -1, not a number from 0 to 1,000,000,000,000"),
        (changed("annotations", 0, area=1e308), "annotations[0].area is 1e+308, not a number from 0 to 1,000,000,000,000"),
        (changed("annotations", 0, category_id=2**80), "annotations[0].category_id: id 1.2089258196146292e+24 is"),
        (changed("images", 0, width="80"), "images[0].width is '80', not a whole number of pixels"),
        (changed("images", 0, height=-5), "images[0].height is -5, not a whole number of pixels"),
        (changed("images", 0, height=10**9), "images[0].height is 1000000000, not a whole number of pixels"),
        (changed("images", 0, file_name=["a"]), "images[0].file_name is ['a'], not the path of a file"),
        (changed("images", 0, file_name="a\0b"), "images[0].file_name is 'a\\x00b', not the path of a file"),
        (changed("categories", 0, name=None), "categories[0].name is None, not a name"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, content: Any, words: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(TruthError) as error:
        read_coco(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_label_file(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match=r"absent\.json cannot be read"):
        read_coco(tmp_path / "absent.json")


def test_where_images_are_looked_for(tmp_path: Path) -> None:
    path = write(tmp_path, labels(), images="images")
    assert find_images(path, ["a.png", "b.png"]) == [tmp_path / "images" / name for name in ("a.png", "b.png")]
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "images" / "a.png").rename(other / "a.png")
    assert find_images(path, ["a.png"], other) == [other / "a.png"]
    with pytest.raises(BuildError, match=r"1 of 2 images, 'a\.png' first.*--images DIR"):
        find_images(path, ["a.png", "b.png"])
    with pytest.raises(BuildError, match=r"1 of 2 images, 'b\.png' first"):
        find_images(path, ["a.png", "b.png"], other)
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    assert find_images(path, ["a.png", "b.png"]) == [tmp_path / "a.png", tmp_path / "b.png"]  # before images/


@pytest.mark.parametrize("folder", ["images/val", "val", "images", "annotations/images", "annotations/data"])
def test_images_of_coco_s_own_layout_are_found(tmp_path: Path, folder: str) -> None:
    """Of those of other splits under the same names none is taken."""
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_val.json"
    for place in (folder, "images/train", "train"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "a.png").touch()
    assert find_images(path, ["a.png"]) == [tmp_path / folder / "a.png"]
    (tmp_path / folder / "a.png").unlink()
    with pytest.raises(BuildError, match=r"1 of 1 images, 'a\.png' first"):
        find_images(path, ["a.png"])


def test_pixels_are_refused_unless_they_are_of_the_stated_size(tmp_path: Path) -> None:
    path = write(tmp_path, labels())
    truth = read_coco(path)
    assert read_pixels(truth.images[0]).shape == (10, 20, 3)

    turned = Image.new("RGB", (20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "b.png", exif=exif)
    with pytest.raises(TruthError, match=r"b\.png is 10x20 upright, but .* 20x10"):
        read_pixels(truth.images[0])
    (tmp_path / "b.png").write_bytes(b"broken")
    with pytest.raises(TruthError, match="not an image"):
        read_pixels(truth.images[0])
    (tmp_path / "b.png").unlink()
    with pytest.raises(TruthError, match="No such file"):
        read_pixels(truth.images[0])


def test_subsets_are_nested_and_in_file_order(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 10} for i in range(40)]
    path = write(tmp_path, labels(images=images, annotations=[]))
    for image in images:
        Image.new("RGB", (20, 10)).save(tmp_path / image["file_name"])
    truth = read_coco(path)
    chosen = {limit: [image.image_id for image in subset(truth, limit, seed=1).images] for limit in (0, 5, 20, 40, 99)}
    assert [len(ids) for ids in chosen.values()] == [0, 5, 20, 40, 40]
    assert set(chosen[5]) < set(chosen[20])
    assert all(ids == sorted(ids) for ids in chosen.values())
    assert chosen[5] != [image.image_id for image in subset(truth, 5, seed=2).images]
    shuffled = Truth(truth.classes, truth.images[::-1], truth.category_ids)
    assert {image.image_id for image in subset(shuffled, 5, seed=1).images} == set(chosen[5])


def test_ignore_marks_difficult_objects_but_crowds_stay_crowds(tmp_path: Path) -> None:
    first, crowd, _ = labels()["annotations"]
    b, _ = read_coco(write(tmp_path, labels(annotations=[first | {"ignore": 1}, crowd | {"ignore": 1}]))).images
    assert (b.difficult.tolist(), b.crowd.tolist()) == ([True, False], [False, True])
    assert b.difficult.dtype == bool


def many(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(folder / name)
    images = [{"id": i, "file_name": name, "width": 20, "height": 10} for i, name in enumerate(names)]
    path = folder / "labels.json"
    path.write_text(json.dumps(labels(images=images, annotations=[])))
    return path


@pytest.mark.parametrize(
    ("group", "name", "unit"),
    [
        ("^([A-Za-z0-9]+)_", "0006R0_f00930.jpg", "0006R0"),
        ("p(\\d+)", "scans/p17_left.png", "17"),
        ("folder", "site/patient/1.png", "site/patient"),
    ],
)
def test_units(group: str, name: str, unit: str) -> None:
    assert unit_of(name, group) == unit


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("folder", "image 'a.png' lies in no folder"),
        ("^(z)", "'^(z)' finds no unit in image 'a.png'"),
        ("(z)?a", "finds no unit in image 'a.png'"),
        ("a", "has no group"),
        ("(", "neither folder nor a regular expression"),
    ],
)
def test_groups_that_name_no_unit_are_refused(tmp_path: Path, group: str, words: str) -> None:
    with pytest.raises(TruthError) as error:
        read_truth(many(tmp_path, ["a.png"]), group=group)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_unit_is_never_cut_and_stays_in_its_half(tmp_path: Path) -> None:
    names = [f"s{unit}/{frame}.png" for unit in range(40) for frame in range(3)]
    path = many(tmp_path, names)
    truth = read_truth(path, group="folder")
    tune, certify = split(truth)
    assert sorted(i.name for half in (tune, certify) for i in half.images) == sorted(names)
    units = [{image.unit for image in half.images} for half in (tune, certify)]
    assert not units[0] & units[1]
    assert min(map(len, units)) >= 10  # of 40, at half each: less has a probability of .001
    few = split(Truth(truth.classes, truth.images[60:], truth.category_ids))
    for part, whole in zip(few, (tune, certify), strict=True):
        assert {image.name for image in part.images} <= {image.name for image in whole.images}
    alone = split(read_truth(path))
    assert {i.unit for i in alone[0].images} & {i.unit for i in alone[1].images} == {""}
    assert 40 <= len(alone[0].images) <= 80


def test_truth_images_as_a_pool(tmp_path: Path) -> None:
    names = ["b/2.png", "u\u0308.png"]  # the second not in NFC
    truth = read_coco(many(tmp_path, names))
    first, second = entries(truth)
    assert (first.name, second.name) == ("b/2.png", "\u00fc.png")
    assert [image.name for image in truth.images] == [first.name, second.name]
    assert Path(first.uri).read_bytes() == (tmp_path / names[0]).read_bytes()
    assert Path(first.uri).is_absolute()
    assert (first.offset, first.bytes) == (0, (tmp_path / names[0]).stat().st_size)
    (tmp_path / names[0]).unlink()
    assert entries(truth)[0].bytes == 0


def test_digest_is_of_images_and_labels_alone(tmp_path: Path) -> None:
    first, crowd, _ = notes = labels()["annotations"]
    truth = read_coco(write(tmp_path, labels()))
    hashes = {"a.png": "1" * 64, "b.png": "2" * 64}
    digest = truth_digest(truth, hashes)
    other = labels(
        images=[
            image | {"file_name": "x" + image["file_name"], "id": image["id"] + 1} for image in labels()["images"][::-1]
        ],
        annotations=[note | {"image_id": note["image_id"] + 1} for note in notes[::-1]],
        categories=labels()["categories"][::-1],
    )
    for name in ("xa.png", "xb.png"):
        Image.new("RGB", (20, 10)).save(tmp_path / name)
    renamed = read_coco(write(tmp_path, other))
    assert truth_digest(renamed, {f"x{name}": value for name, value in hashes.items()}) == digest
    assert truth_digest(truth, hashes | {"a.png": "3" * 64}) != digest
    for changed_note in ({"bbox": [1, 2, 3, 5]}, {"category_id": 90}, {"iscrowd": 1}, {"ignore": 1}, {"image_id": 3}):
        changed_labels = labels(annotations=[first | changed_note, crowd, notes[2]])
        assert truth_digest(read_coco(write(tmp_path, changed_labels)), hashes) != digest
    with pytest.raises(KeyError):
        truth_digest(truth, {})


def test_those_who_need_boxes_say_so(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        Image.new("RGB", (20, 10)).save(tmp_path / "classes" / name / "a.png")
    with pytest.raises(TruthError, match="classes holds classification labels, but boxes are needed: give a COCO JSON"):
        read_detection(tmp_path / "classes")
    with pytest.raises(TruthError, match="the truth holds classification labels"):
        check_detection(read_truth(tmp_path / "classes"))
    assert read_detection(str(write(tmp_path, labels()))).classes == ("cat", "dog")


@pytest.mark.parametrize("name", ["bccd/instances_val", "coco/instances_train", "coco/instances_val"])
def test_agrees_with_pycocotools_on_real_labels(
    shared_data: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shared_data / f"{name}.json"
    truth, oracle = read_coco(path), COCO(str(path))
    assert [image.image_id for image in truth.images] == oracle.getImgIds()
    assert list(truth.category_ids) == oracle.getCatIds()
    assert truth.dropped_boxes == 0
    for image in truth.images:
        notes = oracle.loadAnns(oracle.getAnnIds(imgIds=image.image_id))
        xyxy = [[x, y, x + w, y + h] for x, y, w, h in (note["bbox"] for note in notes)]
        np.testing.assert_array_equal(image.boxes, np.array(xyxy, np.float32).reshape(-1, 4))
        assert [truth.category_ids[label] for label in image.labels] == [note["category_id"] for note in notes]
        assert image.crowd.tolist() == [bool(note["iscrowd"]) for note in notes]
        assert image.path.is_file()
