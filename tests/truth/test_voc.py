"""Labels of Pascal VOC."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import VOCDetection

from builder.truth.coco import read_coco
from builder.truth.read import read_truth
from builder.truth.records import TruthError
from students.augment.scene import Augment
from students.data.loader import JointBatches
from students.tasks.detection import DETECTION
from teachers.errors import TutelageWarning
from tests.helpers.labels import names, refused, save, voc, write


@pytest.fixture
def voc_folder(tmp_path: Path) -> Path:
    """b has two objects, one of them difficult, and a click; c none; d no annotation at all."""
    save(tmp_path / "JPEGImages" / "b.jpg")
    save(tmp_path / "JPEGImages" / "sub" / "c.png", (7, 5))
    save(tmp_path / "JPEGImages" / "d.jpg")
    objects = (("dog", (1, 1, 20, 10)), ("cat", (3, 4, 5, 6.5)), ("cat", (4, 4, 4, 9)), ("background", (1, 1, 5, 5)))
    write(tmp_path / "Annotations" / "b.xml", voc(*objects, difficult=1))
    write(tmp_path / "Annotations" / "sub" / "c.xml", voc(filename="wrong", size=None))
    return tmp_path


def test_voc_corners_are_pixels_from_1_inside_the_box(voc_folder: Path) -> None:
    truth = read_truth(voc_folder)
    assert (truth.kind, truth.classes, truth.category_ids, truth.dropped_boxes) == (
        "detection", ("cat", "dog"), (1, 2), 2,
    )  # fmt: skip
    b, c = truth.images
    assert (b.name, b.width, b.height, c.name, c.width, c.height) == ("b.jpg", 20, 10, "sub/c.png", 7, 5)
    assert b.boxes.tolist() == [[0, 0, 20, 10], [2, 3, 5, 6.5]]  # the first covers the image
    assert b.labels.tolist() == [1, 0]
    assert b.difficult.tolist() == [True, False]
    assert not b.crowd.any()
    assert b.area.tolist() == [200, 10.5]
    assert c.boxes.shape == (0, 4)
    assert c.path.is_file()
    dtypes = (b.boxes.dtype, b.labels.dtype, b.crowd.dtype, b.difficult.dtype, b.area.dtype)
    assert dtypes == (np.float32, np.int16, bool, bool, np.float32)


def test_voc_beside_images_elsewhere_and_by_list(voc_folder: Path, tmp_path: Path) -> None:
    whole = read_truth(voc_folder)
    (voc_folder / "JPEGImages").rename(tmp_path / "elsewhere")
    assert names(read_truth(voc_folder, tmp_path / "elsewhere")) == names(whole)
    refused(voc_folder, "b.xml", "--images DIR")
    listing = write(voc_folder / "ImageSets" / "Main" / "cat_val.txt", "sub/c  -1\n")
    assert names(read_truth(listing, tmp_path / "elsewhere")) == ["sub/c.png"]
    write(listing, "gone")
    refused(listing, "entry 1, 'gone', has no XML file", images=tmp_path / "elsewhere")

    beside = tmp_path / "beside"
    save(beside / "x.y.jpg")
    save(beside / "odd.jpg")
    write(beside / "x.y.xml", voc(("cat", (1, 1, 4, 4))))
    write(beside / "other.xml", voc(filename="odd.jpg"))  # only its filename leads to the image
    assert names(read_truth(beside)) == ["odd.jpg", "x.y.jpg"]
    save(beside / "x.y.png")
    refused(beside, "fits x.y.jpg and x.y.png")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation>", "b.xml is not XML"),
        ("<html/>", "no Pascal VOC annotation but <html>"),
        (voc(("", (1, 1, 2, 2))), "object 1 has no name"),
        (voc(("cat", (1, "x", 2, 2))), "object 1 (cat) has the ymin 'x', which is no number"),
        (voc(("cat", (1, 1, 2, "inf"))), "object 1 (cat) has the ymax 'inf'"),
        (voc(("dog", (1, 1, 3, 3)), ("cat", (1, 1, "", 2))), "object 2 (cat) has the xmax ''"),
        (voc(("cat", (1, 1, 2, 2)), difficult=7), "difficult '7'"),
        ("<annotation><object><name>cat</name></object></annotation>", "(cat) has no bndbox"),
    ],
)  # fmt: skip
def test_voc_that_cannot_be_used_is_refused(voc_folder: Path, text: str, words: str) -> None:
    write(voc_folder / "Annotations" / "b.xml", text)
    refused(voc_folder, words, "b.xml")


def test_voc_agrees_with_torchvision_and_with_the_coco_file_made_of_it(shared_data: Path, tmp_path: Path) -> None:
    """BCCD's COCO JSON holds its VOC corners as they were written: written back, the devkit's convention adds the pixel
    that both corners belong to."""
    coco = read_coco(shared_data / "bccd" / "instances_val.json")
    for image in coco.images:
        rows = [(coco.classes[label], box) for label, box in zip(image.labels, image.boxes.tolist(), strict=True)]
        text = voc(*rows, filename=image.name, size=(image.width, image.height))
        write(tmp_path / "VOCdevkit" / "VOC2012" / "Annotations" / f"{image.path.stem}.xml", text)
    root = tmp_path / "VOCdevkit" / "VOC2012"
    (root / "JPEGImages").symlink_to(shared_data / "bccd" / "images")
    listing = write(root / "ImageSets" / "Main" / "val.txt", "\n".join(i.path.stem for i in coco.images))
    truth = read_truth(listing)
    assert names(truth) == names(coco)
    assert truth.dropped_boxes == 0
    oracle = VOCDetection(str(tmp_path), year="2012", image_set="val")
    for number, (ours, theirs) in enumerate(zip(truth.images, coco.images, strict=True)):
        np.testing.assert_array_equal(ours.boxes, theirs.boxes - np.array([1, 1, 0, 0], np.float32))
        pixels, target = oracle[number]
        objects = target["annotation"]["object"]
        assert [truth.classes[label] for label in ours.labels] == [item["name"] for item in objects]
        corners = [[float(item["bndbox"][s]) for s in ("xmin", "ymin", "xmax", "ymax")] for item in objects]
        np.testing.assert_array_equal(ours.boxes + np.array([1, 1, 0, 0], np.float32), np.array(corners, np.float32))
        assert pixels.size == (ours.width, ours.height)


def test_a_real_box_without_area_is_dropped_and_counted(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "edge" / "zero_area_BloodImage_00343.xml"
    shutil.copy(file, tmp_path)
    save(tmp_path / "BloodImage_00343.jpg", (640, 480))
    truth = read_truth(tmp_path)
    assert truth.dropped_boxes == 1
    assert len(truth.images[0].boxes) == len(ElementTree.parse(file).findall("object")) - 1


# What the corners call the first pixel


def marked(text: str, database: str, segmented: str = "0") -> str:
    source = f"<source><database>{database}</database></source><segmented>{segmented}</segmented><object>"
    return text.replace("<object>", source, 1)


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (voc(("cat", (0, 4, 5, 9))), [0, 4, 5, 9]),
        (voc(("cat", (3, 4, 5, 9)), ("cat", (2, 0.5, 4, 4))), [3, 4, 5, 9]),
        (marked(voc(("cat", (3, 4, 5, 9))), "", ""), [3, 4, 5, 9]),  # FiftyOne
        (voc(("cat", (3, 4, 5, 9)), ("cat", (1, 3, 4, 4))), [2, 3, 5, 9]),
        (marked(voc(("cat", (3, 4, 5, 9))), "The VOC2007 Database"), [2, 3, 5, 9]),
        (marked(voc(("cat", (3, 4, 5, 9))), "Tutelage"), [2, 3, 5, 9]),
        (voc(), None),
    ],
)
def test_corners_show_what_they_count_from(tmp_path: Path, text: str, box: list[float] | None) -> None:
    save(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", text)
    assert read_truth(tmp_path).images[0].boxes.tolist()[:1] == ([box] if box else [])


def test_corners_that_do_not_show_it_are_told_and_can_be_set(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc(("cat", (3, 4, 5, 9))))
    with pytest.warns(TutelageWarning, match="does not show whether the corners.*counted_from: 0"):
        assert read_truth(tmp_path).images[0].boxes.tolist() == [[2, 3, 5, 9]]
    assert read_truth(tmp_path, counted_from=1).images[0].boxes.tolist() == [[2, 3, 5, 9]]
    assert read_truth(tmp_path, counted_from=0).images[0].boxes.tolist() == [[3, 4, 5, 9]]
    write(tmp_path / "b.xml", voc(("cat", (0, 4, 5, 9)), filename="b.jpg"))
    save(tmp_path / "b.jpg")
    assert read_truth(tmp_path).images[0].boxes.tolist() == [[3, 4, 5, 9]]  # one corner proves it of the set
    for name in ("cat", "dog"):
        save(tmp_path / "classes" / name / "a.jpg")
    refused(tmp_path / "classes", "counted_from is about Pascal VOC", counted_from=0)


def test_voc_of_fiftyone_itself_is_read_as_it_was(tmp_path: Path) -> None:
    """Its own exporter writes it, and its own importer says where the boxes are."""
    voc_of_fiftyone = pytest.importorskip("fiftyone.utils.voc")
    metadata = pytest.importorskip("fiftyone.core.metadata")
    boxes = np.array([[23, 33, 35, 45], [87, 4, 111, 30]], np.float32)
    for number in range(2):
        save(tmp_path / "data" / f"{number}.png", (160, 120))
    objects = [
        voc_of_fiftyone.VOCObject("red", voc_of_fiftyone.VOCBoundingBox(*map(int, box))) for box in boxes.tolist()
    ]
    for number in range(2):
        file = tmp_path / "labels" / f"{number}.xml"
        file.parent.mkdir(exist_ok=True)
        annotation = voc_of_fiftyone.VOCAnnotation(
            path=f"./data/{number}.png", folder="", filename=f"{number}.png", segmented="", objects=objects[: 2 - number],
            metadata=metadata.ImageMetadata(width=160, height=120, num_channels=3),
        )  # fmt: skip
        voc_of_fiftyone.VOCAnnotationWriter().write(annotation, str(file))
    for source, images in ((tmp_path, None), (tmp_path / "labels", tmp_path / "data")):
        truth = read_truth(source, images)
        assert [image.boxes.tolist() for image in truth.images] == [boxes.tolist(), boxes[:1].tolist()]
    theirs = voc_of_fiftyone.load_voc_detection_annotations(str(tmp_path / "labels" / "0.xml")).to_detections()
    shares = np.array([d.bounding_box for d in theirs.detections]) * [160, 120, 160, 120]
    np.testing.assert_allclose(np.concatenate([shares[:, :2], shares[:, :2] + shares[:, 2:]], 1), boxes)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_xml_says_its_own_encoding(tmp_path: Path, encoding: str) -> None:
    save(tmp_path / "a.jpg")
    declared = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
    (tmp_path / "a.xml").write_bytes((declared + voc(("caf\u00e9", (1, 1, 4, 4)))).encode(encoding))
    assert read_truth(tmp_path).classes == ("caf\u00e9",)


@pytest.mark.parametrize("encoding", ["utf-7", "gb2312", "no-such"])
def test_xml_in_an_encoding_that_is_not_read(tmp_path: Path, encoding: str) -> None:
    save(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", f'<?xml version="1.0" encoding="{encoding}"?>{voc(("cat", (1, 1, 4, 4)))}')
    refused(tmp_path, "a.xml is not XML that can be read", "save it as UTF-8")


def test_two_xml_files_of_one_image(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc(("cat", (1, 1, 4, 4))))
    write(tmp_path / "b.xml", voc(("cat", (1, 1, 4, 4)), filename="a.jpg"))
    refused(tmp_path, "a.xml and", "b.xml are both of a.jpg: keep one")


def test_students_ignore_difficult_objects_and_refuse_classes(voc_folder: Path, tmp_path: Path) -> None:
    (voc_folder / "Annotations" / "sub" / "c.xml").unlink()
    batches = JointBatches(
        read_truth(voc_folder), size=20, batch_size=1, augment=Augment(jitter=(1.0, 1.0), flip=0.0)
    )  # fmt: skip
    (target,) = batches[0].targets
    assert target.labels.tolist() == [0]  # the cat
    np.testing.assert_allclose(target.ignore[:, 2:] - target.ignore[:, :2], [[20, 10]])  # the difficult dog
    save(tmp_path / "classes" / "cat" / "a.jpg")
    save(tmp_path / "classes" / "dog" / "a.jpg")
    with pytest.raises(TruthError, match="the labelled set holds classification labels"):
        JointBatches(read_truth(tmp_path / "classes"), task=DETECTION, size=20, batch_size=1)
