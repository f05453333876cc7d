"""Data sets of YOLO and Darknet: which images a data.yaml or obj.data means, and the names of their classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from builder.truth.read import read_truth
from builder.truth.records import Truth
from teachers.errors import TutelageWarning
from tests.helpers.labels import names, refused, save, write

CORNER = "1 0.25 0.25 0.5 0.5\n"
"""A row of class 1, in the upper left quarter."""


def labels(truth: Truth) -> list[tuple[str, list[str], list[list[float]]]]:
    return [(i.name, [truth.classes[label] for label in i.labels], i.boxes.tolist()) for i in truth.images]


def darknet(folder: Path, images: int = 2) -> Path:
    """What CVAT writes as YOLO 1.1."""
    write(folder / "obj.data", "classes = 2\nnames = data/obj.names\ntrain = data/train.txt\nbackup = backup/\n")
    write(folder / "obj.names", "cat\ndog\n")
    write(folder / "train.txt", "".join(f"data/obj_train_data/{n}.png\n" for n in range(images)))
    for n in range(images):
        save(folder / "obj_train_data" / f"{n}.png")
        write(folder / "obj_train_data" / f"{n}.txt", CORNER)
    return folder


def parts(folder: Path, index: str) -> Path:
    """Three parts of one image each, named like it."""
    for part in ("train", "val", "test"):
        save(folder / "images" / part / f"{part}.jpg")
        write(folder / "labels" / part / f"{part}.txt", CORNER)
    write(folder / "data.yaml", f"names: [cat, dog]\n{index}")
    return folder


ALL = "train: images/train\nval: images/val\ntest: images/test\n"


# Darknet


@pytest.mark.parametrize("given", ["", "obj.data", "train.txt", "obj_train_data"])
def test_darknet_labels_are_boxes_whatever_of_them_is_given(tmp_path: Path, given: str) -> None:
    folder = darknet(tmp_path / "cvat")
    truth = read_truth(folder / given)
    assert truth.kind == "detection"
    assert labels(truth) == [(f"obj_train_data/{n}.png", ["dog"], [[0, 0, 10, 5]]) for n in range(2)]


def test_darknet_without_its_images_finds_them_elsewhere(tmp_path: Path) -> None:
    """CVAT leaves images out unless asked."""
    folder = darknet(tmp_path / "cvat")
    (folder / "obj_train_data" / "0.png").rename(save(tmp_path / "pictures" / "deep" / "0.png"))
    refused(folder, "lists 'data/obj_train_data/0.png', which is not in", "--images DIR")
    (folder / "obj_train_data" / "1.png").rename(tmp_path / "pictures" / "1.png")
    refused(folder, "'data/obj_train_data/0.png'", images=tmp_path / "pictures")
    (tmp_path / "pictures" / "deep" / "0.png").rename(tmp_path / "pictures" / "0.png")
    moved = read_truth(folder, tmp_path / "pictures")
    assert labels(moved) == [(f"{n}.png", ["dog"], [[0, 0, 10, 5]]) for n in range(2)]


def test_darknet_lists_say_which_images_belong_to_a_split(tmp_path: Path) -> None:
    folder = darknet(tmp_path)
    write(folder / "obj.data", "classes=2\ntrain=data/train.txt\nvalid=data/valid.txt\nnames=data/obj.names\n")
    save(folder / "obj_valid_data" / "v.png")
    write(folder / "obj_valid_data" / "v.txt", CORNER)
    write(folder / "valid.txt", "data\\obj_valid_data\\v.png\n")  # written on Windows
    assert (names(read_truth(folder)), read_truth(folder).split) == (["obj_valid_data/v.png"], "val")
    assert len(names(read_truth(f"{folder}#train"))) == 2
    assert len(names(read_truth(folder / "obj.data", split="all"))) == 3


def test_yolo_of_the_first_darknet(tmp_path: Path) -> None:
    """voc_label.py writes labels/ beside JPEGImages/, and absolute lists."""
    save(tmp_path / "JPEGImages" / "a.jpg")
    write(tmp_path / "labels" / "a.txt", CORNER)
    write(tmp_path / "cfg" / "voc.data", f"names = {tmp_path}/cfg/voc.names\nvalid = {tmp_path}/2007_test.txt\n")
    write(tmp_path / "cfg" / "voc.names", "cat\ndog")
    write(tmp_path / "2007_test.txt", f"{tmp_path}/JPEGImages/a.jpg\n")
    assert labels(read_truth(tmp_path / "cfg" / "voc.data"))[0][1:] == (["dog"], [[0, 0, 10, 5]])


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("obj.data", "classes = 3\nnames = obj.names\n", "says classes = 3, but"),
        ("obj.data", "names = data/gone.names\n", "names no file with the classes that is there (names = data/gone"),
        ("obj.names", "cat\n\ndog\n", "line 2 is empty, but classes are counted by lines"),
        ("obj.names", "cat\ncat\n", "two classes have the name 'cat'"),
        ("train.txt", "data/obj_train_data/0.png\n./obj_train_data/0.png\n", "is another line's image too"),
        ("train.txt", "", "holds no images"),
    ],
)
def test_darknet_files_that_do_not_hold_together(tmp_path: Path, file: str, text: str, words: str) -> None:
    write(darknet(tmp_path) / file, text)
    refused(tmp_path, words)


def test_classes_of_labelimg_lie_among_the_labels(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    write(tmp_path / "a.txt", CORNER)
    write(tmp_path / "classes.txt", "cat\ndog\n")
    assert labels(read_truth(tmp_path)) == [("a.jpg", ["dog"], [[0, 0, 10, 5]])]
    shutil.move(tmp_path / "classes.txt", tmp_path / "notes.txt")
    refused(tmp_path, "has no data.yaml (nor obj.names or classes.txt)")


# Splits of a data.yaml


@pytest.mark.parametrize(
    ("given", "split", "expected"),
    [
        ("data.yaml", "val", ["images/val/val.jpg"]),
        ("", "val", ["images/val/val.jpg"]),
        ("data.yaml", "train", ["images/train/train.jpg"]),
        ("data.yaml#test", "val", ["images/test/test.jpg"]),
        ("#train", "val", ["images/train/train.jpg"]),
        ("images/train", "val", ["images/train/train.jpg"]),
        ("data.yaml", "all", ["images/train/train.jpg", "images/val/val.jpg", "images/test/test.jpg"]),
    ],
)
def test_a_data_yaml_stands_for_one_split(tmp_path: Path, given: str, split: str, expected: list[str]) -> None:
    folder = parts(tmp_path / "set", ALL)
    source = f"{folder}{given}" if given.startswith("#") else folder / given
    truth = read_truth(source, split=split)  # type: ignore[arg-type]
    assert names(truth) == expected
    assert truth.split == (split if split == "all" else expected[0].split("/")[1])
    assert all(image.labels.tolist() == [1] for image in truth.images)


def test_a_data_yaml_without_splits_is_of_all_its_images(tmp_path: Path) -> None:
    folder = parts(tmp_path, "")
    assert (len(read_truth(folder).images), read_truth(folder).split) == (3, None)
    refused(Path(f"{folder / 'data.yaml'}#val"), "names no splits: leave #val out")


@pytest.mark.parametrize(
    ("index", "source", "words"),
    [
        ("train: images/train\ntest: images/test\n", "data.yaml", "names no val split (train, test alone)"),
        ("train: images/train\nval:\n", "", "names no val split (train alone): give data.yaml#train"),
        (ALL, "images", "holds the splits train and val and test of"),
        (ALL, "data.yaml#dev", "names the split 'dev': give one of train, val, test, all"),
        ("train: images/train\nval: images/valid\n", "", "val is images/valid, which is not in"),
        ("val: {a: b}\n", "", "val is neither a path nor a list of paths"),
    ],
)
def test_splits_that_are_not_there(tmp_path: Path, index: str, source: str, words: str) -> None:
    refused(parts(tmp_path, index) / source, words)


def test_a_split_is_named_of_labels_that_have_some(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / "classes" / name / "a.jpg")
    refused(Path(f"{tmp_path / 'classes'}#val"), "names a split", "(classes) has none")


def test_paths_of_a_data_yaml_as_tools_write_them(tmp_path: Path) -> None:
    """Roboflow's `../valid/images`, a `path`, lists of images, and several folders."""
    roboflow = tmp_path / "roboflow"
    save(roboflow / "valid" / "images" / "v.jpg")
    write(roboflow / "valid" / "labels" / "v.txt", CORNER)
    write(roboflow / "data.yaml", "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")
    assert names(read_truth(roboflow)) == ["valid/images/v.jpg"]

    elsewhere = parts(tmp_path / "sets" / "pets", "")
    write(elsewhere / "val.txt", "./images/val/val.jpg\nimages/test/test.jpg\n")
    write(tmp_path / "yamls" / "pets.yaml", "path: ../sets/pets\nval: val.txt\nnames: {0: cat, 1: dog}\n")
    truth = read_truth(tmp_path / "yamls" / "pets.yaml")
    assert [(name, shown) for name, shown, _ in labels(truth)] == [
        ("images/val/val.jpg", ["dog"]),
        ("images/test/test.jpg", ["dog"]),
    ]
    write(elsewhere / "data.yaml", "val: [images/val, images/test]\nnames: [cat, dog]\n")
    assert names(read_truth(elsewhere)) == ["images/val/val.jpg", "images/test/test.jpg"]


def test_boxes_of_a_data_set_of_poses(tmp_path: Path) -> None:
    """With an even count of numbers, keypoints would be taken for a polygon."""
    save(tmp_path / "images" / "a.jpg")
    row = write(tmp_path / "labels" / "a.txt", "0 0.25 0.25 0.5 0.5 0.9 0.9 0.8 0.8")
    write(tmp_path / "data.yaml", "names: [person]\nkpt_shape: [2, 2]\n")
    assert read_truth(tmp_path).images[0].boxes.tolist() == [[0, 0, 10, 5]]
    row.write_text("0 0.25 0.25 0.5 0.5 0.9 0.9")
    refused(tmp_path, "has 6 numbers after its class, not 4 and 4 of keypoints")


# Names of classes


@pytest.mark.parametrize(
    ("written", "classes"),
    [
        ("[yes, no]", ("yes", "no")),
        ("[1, 2.50]", ("1", "2.50")),
        ("[2024-01-01, 12:30]", ("2024-01-01", "12:30")),
        ("[010, 1e3, 0x1F]", ("010", "1e3", "0x1F")),
        ("[null, ~, true]", ("null", "~", "true")),
        ("{0: on, 2: off}", ("on", "off")),
        ("\n  0: person\n  1: Norway: NO", None),
    ],
)
def test_names_are_the_text_as_written(tmp_path: Path, written: str, classes: tuple[str, ...] | None) -> None:
    save(tmp_path / "images" / "a.jpg")
    write(tmp_path / "labels" / "a.txt", "")
    write(tmp_path / "data.yaml", f"names: {written}\n")
    if classes is None:
        refused(tmp_path, "is not YAML")
    else:
        assert read_truth(tmp_path).classes == classes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nc: 3\nnames: [a, b]", "says nc: 3, but has 2 names"),
        ("names: [[a, b], c]", "class 0 has a list or a mapping as its name"),
        ("names: {0: {a: b}}", "class 0 has a list or a mapping as its name"),
        ("names: [a, ]\nnc: 1\nnames: [b]", "the key 'names' stands twice"),
        ("names: {0: a, 0: b}", "the key '0' stands twice"),
        ("names: ['', b]", "class 0 has no name"),
        ("names: [caf\u00e9, cafe\u0301]", "two classes have the name"),
        ("names:", "has no names"),
        ("names: data.names", "has no names"),
        ("- a", "is no mapping of keys to values"),
        ("names: " + "[" * 3000, "is not YAML"),
        ("names: *gone", "is not YAML"),
    ],
)
def test_names_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, words: str) -> None:
    save(tmp_path / "images" / "a.jpg")
    write(tmp_path / "labels" / "a.txt", "")
    write(tmp_path / "data.yaml", text)
    refused(tmp_path, words)


def test_a_val_that_is_the_train_split_is_told(tmp_path: Path) -> None:
    folder = parts(tmp_path, "train: images/val\nval: images/val\n")
    with pytest.warns(TutelageWarning, match="val is the same as train"):
        assert names(read_truth(folder)) == ["images/val/val.jpg"]
    assert names(read_truth(folder, split="train")) == ["images/val/val.jpg"]
