"""Which format labels have, by what lies there; a layout that is not read is never taken for another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from builder.truth.read import read_truth
from builder.truth.recognise import recognise
from tests.helpers.labels import refused, save, voc, write

EMPTY = '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}'


def test_formats_that_cannot_be_told_apart_are_listed(tmp_path: Path) -> None:
    save(tmp_path / "JPEGImages" / "b.jpg")
    write(tmp_path / "Annotations" / "b.xml", voc(("dog", (1, 1, 20, 10))))
    save(tmp_path / "a.jpg")
    write(tmp_path / "data.yaml", "names: [cat]")
    write(tmp_path / "labels" / "a.txt", "0 .5 .5 .5 .5")
    refused(tmp_path, "Annotations/b.xml (voc) and data.yaml (yolo)", "one of coco, voc, yolo, classes, masks")
    assert len(read_truth(tmp_path, format="voc").images) == 1
    refused(tmp_path, "none of coco, voc", format="xml")


@pytest.mark.parametrize("name", ["empty", "notes.txt", "a.jpg"])
def test_what_has_no_labels(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "notes.txt", "hello")
    save(tmp_path / "a.jpg")
    refused(tmp_path / name, "no labels of a known format", "coco, voc, yolo")
    refused(tmp_path / "absent", "do not exist")
    refused(Path("s3://bucket/a.json"), "s3://bucket/a.json is an address, and human labels are read from a disk")


def test_a_folder_with_one_json_is_coco(tmp_path: Path) -> None:
    write(tmp_path / "annotations" / "instances_val.json", EMPTY)
    save(tmp_path / "val2017" / "a.jpg")
    assert read_truth(tmp_path).classes == ("cat",)
    write(tmp_path / "labels.json", EMPTY)
    assert read_truth(tmp_path).classes == ("cat",)
    write(tmp_path / "more.json", EMPTY)
    refused(tmp_path, "2 JSON files, labels.json, more.json")


def classes_with(*files: str) -> Callable[[Path], None]:
    """Two folders of images, and these files."""

    def make(folder: Path) -> None:
        for name in ("cat", "dog"):
            for number in range(2):
                save(folder / name / f"{number}.jpg")
        for file in files:
            write(folder / file, "0 .5 .5 .5 .5")

    return make


def folders_of_images(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            save(folder / name / "a.jpg")

    return make


def masks_in(folder_of_masks: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for number in range(3):
            save(folder / "photos" / f"{number}.jpg")
            (folder / folder_of_masks).mkdir(exist_ok=True)
            Image.new("P", (20, 10)).save(folder / folder_of_masks / f"{number}.png")

    return make


def darknet_without_names(folder: Path) -> None:
    save(folder / "obj_train_data" / "0.png")
    write(folder / "obj_train_data" / "0.txt", "0 .5 .5 .5 .5")


OTHERS = {
    "Darknet without names": (darknet_without_names, "has no data.yaml (nor obj.names or classes.txt)"),
    "KITTI": (
        lambda folder: (save(folder / "image_2" / "0.png"), write(folder / "label_2" / "0.txt", "Car 0 0 0")),
        "label_2/0.txt may say what its images show, in a layout that is not read",
    ),
    "MOT": (
        lambda folder: (save(folder / "img1" / "0.jpg"), write(folder / "gt" / "gt.txt", "1,1,0,0,1,1")),
        "gt/gt.txt may say what its images show",
    ),
    "WIDER FACE": (
        lambda folder: (
            save(folder / "WIDER_train" / "images" / "0--Parade" / "0.jpg"),
            write(folder / "wider_face_split" / "wider_face_train_bbx_gt.txt", "0--Parade/0.jpg"),
        ),
        "wider_face_split/wider_face_train_bbx_gt.txt may say",
    ),
    "Open Images": (
        lambda folder: (save(folder / "pictures" / "0.jpg"), write(folder / "bboxes" / "all.csv", "ImageID,XMin")),
        "bboxes/all.csv may say",
    ),
    "Hugging Face's imagefolder": (classes_with("metadata.jsonl"), "metadata.jsonl may say"),
    "CamVid as SegNet has it": (folders_of_images("train", "trainannot", "val", "valannot"), "parts of a data set"),
    "COCO's images alone": (folders_of_images("train2017", "val2017"), "parts of a data set"),
    "Cityscapes": (folders_of_images("leftImg8bit", "gtFine"), "gtFine/ is no class"),
    "ADE20K": (folders_of_images("images", "annotations"), "annotations/ is no class"),
    "masks beside photos": (masks_in("drawn"), "drawn/ looks like masks of the images beside it"),
    "a pool": (folders_of_images("monday"), "monday/ alone has images"),
    "a pool's images": (folders_of_images("images", "cat"), "images/ is no class"),
    "labels of LabelMe": (classes_with("cat/0.json"), "cat/0.json may say"),
}


@pytest.mark.parametrize("layout", OTHERS)
def test_a_layout_that_is_not_read_is_never_taken_for_classes(tmp_path: Path, layout: str) -> None:
    make, words = OTHERS[layout]
    make(tmp_path)
    refused(tmp_path, words)


def test_folders_of_classes_are_still_recognised(tmp_path: Path) -> None:
    classes_with("README.md", "LICENSE.txt", "readme.roboflow.txt", "classes.txt", "labels.csv")(tmp_path)
    assert recognise(tmp_path) == "classes"
    folders_of_images("train", "test")(tmp_path)  # a train is a class among others
    assert read_truth(tmp_path).classes == ("cat", "dog", "test", "train")
    write(tmp_path / "boxes.txt", "")
    refused(tmp_path, "boxes.txt may say", "or say format classes")
    assert read_truth(tmp_path, format="classes").classes == ("cat", "dog", "test", "train")
    grey = tmp_path / "digits"
    for name in ("one", "two"):  # the same names and one channel in all folders
        (grey / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(grey / name / "0.png")
    assert read_truth(grey).kind == "classification"


def test_label_studio_s_notes_are_no_coco_labels(tmp_path: Path) -> None:
    """Its YOLO export: classes.txt, images/, labels/ and notes.json."""
    save(tmp_path / "images" / "a.jpg")
    write(tmp_path / "labels" / "a.txt", "1 .5 .5 .5 .5")
    write(tmp_path / "classes.txt", "cat\ndog\n")
    write(tmp_path / "notes.json", '{"categories": [], "info": {}}')
    truth = read_truth(tmp_path)
    assert (truth.classes, truth.images[0].labels.tolist()) == (("cat", "dog"), [1])
