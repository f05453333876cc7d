"""Labels as other tools write them: Pascal VOC, YOLO, folders of classes and of masks, and how they are told apart."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder, VOCDetection

from builder.truth.coco import read_coco
from builder.truth.masks import read_mask
from builder.truth.read import read_truth
from builder.truth.records import Truth, TruthError
from students.augment.scene import Augment
from students.data.loader import JointBatches
from students.tasks.detection import DETECTION


def save(path: Path, size: tuple[int, int] = (20, 10), turned: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    if turned:
        exif[0x0112] = 6
    Image.new("RGB", size).save(path, exif=exif)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def voc(
    *objects: tuple[str, Sequence[object]],
    difficult: int = 0,
    filename: str = "a.jpg",
    size: tuple[int, int] | None = (20, 10),
) -> str:
    """An annotation with these (name, (xmin, ymin, xmax, ymax)); the first is `difficult`."""
    rows = "".join(
        f"<object><name>{name}</name><difficult>{difficult if n == 0 else 0}</difficult><part><name>head</name><bndbox>"
        "<xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part><bndbox>"
        + "".join(
            f"<{side}>{value}</{side}>" for side, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
        )
        + "</bndbox></object>"
        for n, (name, box) in enumerate(objects)
    )
    said = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{said}{rows}</annotation>"


def names(truth: Truth) -> list[str]:
    return [image.name for image in truth.images]


def refused(source: Path, *words: str, **options: object) -> None:
    with pytest.raises(TruthError) as error:
        read_truth(source, **options)  # type: ignore[arg-type]
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


# Pascal VOC


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


corner = st.integers(0, 90)
side = st.integers(2, 60)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(corner, corner, side, side, st.sampled_from("abc")), max_size=6))
def test_boxes_written_by_the_formulas_are_read_back(objects: list[tuple[int, int, int, int, str]]) -> None:
    """VOC: [x + 1, x + w]; YOLO: centre and size as shares."""
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h, _ in objects], np.float32).reshape(-1, 4)
    labels = [name for *_, name in objects]
    with TemporaryDirectory() as folder:
        root, width, height = Path(folder), 150, 150
        save(root / "voc" / "a.jpg", (width, height))
        rows = [(name, (x + 1, y + 1, x + w, y + h)) for x, y, w, h, name in objects]
        write(root / "voc" / "a.xml", voc(*rows, size=None))
        save(root / "yolo" / "images" / "a.jpg", (width, height))
        shares = [
            f"{'abc'.index(name)} {(x + w / 2) / width!r} {(y + h / 2) / height!r} {w / width!r} {h / height!r}"
            for x, y, w, h, name in objects
            if x + w <= width and y + h <= height
        ]
        write(root / "yolo" / "labels" / "a.txt", "\n".join(shares))
        write(root / "yolo" / "data.yaml", "names: [a, b, c]")
        for format, tolerance in (("voc", 0), ("yolo", 1e-4)):
            truth = read_truth(root / format)
            (image,) = truth.images
            np.testing.assert_allclose(image.boxes, boxes, atol=tolerance)
            assert [truth.classes[label] for label in image.labels] == labels


# YOLO


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    save(tmp_path / "images" / "train" / "a.jpg")
    save(tmp_path / "images" / "train" / "none.jpg")
    save(tmp_path / "images" / "val" / "b.png", (20, 10))
    save(tmp_path / "images" / "val" / "turned.jpg", (20, 10), turned=True)
    write(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.5 1 1\n2 .25 .5 .1 .2 0.875\n")
    write(tmp_path / "labels" / "val" / "b.txt", "2 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.6\n0 0.5 0.5 0 0.5\n\n1 0.5 0.5 1 1")
    write(tmp_path / "labels" / "val" / "turned.txt", "0 0.5 0.25 1.0 0.5")
    write(tmp_path / "data.yaml", yaml.safe_dump({"path": "/nowhere", "names": {0: "cat", 1: "background", 2: "dog"}}))
    return tmp_path


def test_yolo_rows_are_shares_of_the_upright_image(yolo_folder: Path) -> None:
    truth = read_truth(yolo_folder)
    assert (truth.classes, truth.category_ids, truth.dropped_boxes) == (("cat", "dog"), (0, 2), 2)
    assert names(truth) == ["images/train/a.jpg", "images/train/none.jpg", "images/val/b.png", "images/val/turned.jpg"]
    a, none, b, turned = truth.images
    np.testing.assert_allclose(a.boxes, [[0, 0, 20, 10], [4, 4, 6, 6]], atol=1e-5)
    assert a.labels.tolist() == [0, 1]
    assert none.boxes.shape == (0, 4)
    np.testing.assert_allclose(b.boxes, [[2, 2, 10, 6]], atol=1e-5)  # around the polygon
    assert (turned.width, turned.height) == (10, 20)
    np.testing.assert_allclose(turned.boxes, [[0, 0, 10, 10]], atol=1e-5)


def test_yolo_parts_keep_their_names(yolo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = names(read_truth(yolo_folder))
    assert names(read_truth(yolo_folder / "data.yaml")) == whole
    assert names(read_truth(yolo_folder / "images" / "val")) == whole[2:]
    monkeypatch.chdir(yolo_folder / "images")
    assert names(read_truth(Path("val"))) == whole[2:]
    assert len(read_truth(Path("val")).images[0].boxes) == 1


def test_yolo_with_parts_on_top_and_with_images_elsewhere(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        save(tmp_path / part / "images" / f"{part}.jpg")
        write(tmp_path / part / "labels" / f"{part}.txt", "0 .5 .5 .5 .5")
    write(tmp_path / "data.yaml", "names: [cat]")
    assert names(read_truth(tmp_path)) == ["train/images/train.jpg", "valid/images/valid.jpg"]
    valid = read_truth(tmp_path / "valid")
    assert names(valid) == ["valid/images/valid.jpg"]
    assert valid.images[0].boxes.tolist() == [[5, 2.5, 15, 7.5]]
    (tmp_path / "valid" / "images").rename(tmp_path / "pictures")
    moved = read_truth(tmp_path / "valid", tmp_path / "pictures")
    assert (names(moved), moved.images[0].boxes.tolist()) == (["valid.jpg"], [[5, 2.5, 15, 7.5]])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("cat .5 .5 .5 .5", "row 2 is 'cat .5 .5 .5 .5', not class cx cy w h"),
        ("0 .5 .5 .5", "row 2 has 3 numbers after its class"),
        ("0 .5 .5 .5 .5 .5 .5 .5", "row 2 has 7 numbers after its class"),
        ("3 .5 .5 .5 .5", "row 2 has class 3, which data.yaml does not name"),
        ("0.5 .5 .5 .5 .5", "row 2 has class 0.5"),
        ("-1 .5 .5 .5 .5", "row 2 has class -1"),
        ("0 120 .5 .5 .5", "row 2 has 120, not a share"),
        ("0 nan .5 .5 .5", "row 2 has nan, not a share"),
    ],
)
def test_yolo_rows_that_cannot_be_used_are_refused(yolo_folder: Path, row: str, words: str) -> None:
    file = write(yolo_folder / "labels" / "train" / "a.txt", f"0 .5 .5 .5 .5\n{row}\n")
    refused(yolo_folder, words, str(file))


def test_yolo_folders_that_cannot_be_used_are_refused(yolo_folder: Path) -> None:
    lonely = write(yolo_folder / "labels" / "val" / "c.txt", "")
    write(yolo_folder / "labels" / "val" / "classes.txt", "cat")
    refused(yolo_folder, "1 of 3 label files", str(lonely), "have no image")
    lonely.unlink()
    twin = save(yolo_folder / "images" / "val" / "b.jpg")
    refused(yolo_folder, "images/val/b.jpg and images/val/b.png", "share a label file")
    twin.unlink()
    for content, words in (
        ("names: [cat, cat]", "two categories have the name 'cat'"),
        ("nc: 1", "has no names"),
        ("names: {x: cat}", "has no names"),
        ("names: [", "is no YAML"),
    ):
        write(yolo_folder / "data.yaml", content)
        refused(yolo_folder, words)
    (yolo_folder / "data.yaml").unlink()
    refused(yolo_folder, "no data.yaml")
    write(yolo_folder / "data.yaml", "names: [cat]")
    shutil.rmtree(yolo_folder / "labels")
    refused(yolo_folder, "none of 4 images")
    shutil.rmtree(yolo_folder / "images")
    refused(yolo_folder, "holds no images")


def test_yolo_agrees_with_the_coco_file_it_was_made_of(shared_data: Path, tmp_path: Path) -> None:
    coco = read_coco(shared_data / "bccd" / "instances_val.json")
    (tmp_path / "images").mkdir()
    for image in coco.images:
        (tmp_path / "images" / image.name).symlink_to(image.path)
        centre, size = (image.boxes[:, :2] + image.boxes[:, 2:]) / 2, image.boxes[:, 2:] - image.boxes[:, :2]
        shares = np.concatenate([centre, size], axis=1) / np.tile([image.width, image.height], 2)
        rows = [
            f"{label} " + " ".join(f"{v:.6f}" for v in row) for label, row in zip(image.labels, shares, strict=True)
        ]
        write(tmp_path / "labels" / f"{image.path.stem}.txt", "\n".join(rows))
    write(tmp_path / "data.yaml", yaml.safe_dump({"names": list(coco.classes)}))
    truth = read_truth(tmp_path)
    assert truth.classes == coco.classes
    for ours, theirs in zip(truth.images, coco.images, strict=True):
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)
        np.testing.assert_array_equal(ours.labels, theirs.labels)


# Folders of classes and of masks


def test_folders_of_classes_are_torchvisions(shared_data: Path, tmp_path: Path) -> None:
    for path in sorted((shared_data / "cifar10" / "train").iterdir())[::20]:
        folder = tmp_path / path.name.partition("_")[0]
        folder.mkdir(exist_ok=True)
        shutil.copy(path, folder)
    truth, oracle = read_truth(tmp_path), ImageFolder(str(tmp_path))
    assert truth.kind == "classification"
    assert list(truth.classes) == oracle.classes
    assert [(str(image.path), image.label) for image in truth.images] == oracle.samples
    assert {(image.width, image.height) for image in truth.images} == {(32, 32)}
    assert all(image.boxes.shape == (0, 4) and len(image.difficult) == 0 for image in truth.images)


def test_folders_of_classes_that_cannot_be_used(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "deep" / "a.jpg")
    save(tmp_path / "background" / "b.jpg")
    truth = read_truth(tmp_path)
    assert (truth.classes, names(truth)) == (("cat",), ["background/b.jpg", "cat/deep/a.jpg"])
    assert [image.label for image in truth.images] == [None, 0]
    refused(tmp_path, "without --images", images=tmp_path / "cat")
    save(tmp_path / "c.jpg")
    refused(tmp_path, "image c.jpg", "lies in no folder")
    save(tmp_path / "parts" / "train" / "a.jpg")
    refused(tmp_path / "parts", "parts of a data set", str(tmp_path / "parts" / "train"))


def test_masks_are_read_as_pillow_does(shared_data: Path) -> None:
    folder = shared_data / "camvid"
    truth = read_truth(folder / "val.txt", group="^([A-Za-z0-9]+)_")
    assert (truth.kind, len(truth.images), len(truth.classes)) == ("semantic", 51, 11)
    assert names(truth) == [f"{line}.jpg" for line in (folder / "val.txt").read_text().split()]
    assert {image.unit for image in truth.images} <= {"0001TP", "0006R0", "0016E5"}
    for image in truth.images[::10]:
        values = np.asarray(Image.open(folder / "masks" / f"{image.path.stem}.png"))
        ours = read_mask(image, len(truth.classes))
        assert ours.shape == (image.height, image.width) == (360, 480)
        np.testing.assert_array_equal(ours == 255, values == 11)
        np.testing.assert_array_equal(ours[values < 11], values[values < 11])
    assert len(read_truth(folder).images) == 174


@pytest.fixture
def mask_folder(tmp_path: Path) -> Path:
    write(tmp_path / "classes.txt", "background\ncat\n")
    for stem in ("a", "sub/b", "without"):
        save(tmp_path / "images" / f"{stem}.jpg")
    (tmp_path / "masks" / "sub").mkdir(parents=True)
    Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20)).save(tmp_path / "masks" / "a.png")
    Image.new("P", (20, 10), 1).save(tmp_path / "masks" / "sub" / "b.png")
    return tmp_path


def test_masks_of_grey_and_palette(mask_folder: Path) -> None:
    truth = read_truth(mask_folder)
    assert (truth.classes, names(truth)) == (("background", "cat"), ["a.jpg", "sub/b.jpg"])
    grey, palette = (read_mask(image, 2) for image in truth.images)
    assert grey.ravel()[:3].tolist() == [0, 1, 255]
    assert (grey == 255).sum() == 198
    assert (palette == 1).all()


def test_masks_that_cannot_be_used(mask_folder: Path) -> None:
    listing = write(mask_folder / "val.txt", "a\nwithout\n")
    refused(listing, "'without'", "has no mask")
    write(listing, "a\na")
    refused(listing, "'a' stands twice")
    write(listing, "gone")
    refused(listing, "'gone'", "has no image")
    for mode, size, words in (
        ("RGB", (20, 10), "mode RGB"),
        ("I;16", (20, 10), "mode I;16"),
        ("L", (10, 20), "is 10x20, but its image 20x10 upright"),
    ):
        Image.new(mode, size).save(mask_folder / "masks" / "a.png")
        refused(mask_folder, "a.png", words)
    write(mask_folder / "masks" / "a.png", "broken")
    refused(mask_folder, "a.png cannot be read")
    write(mask_folder / "classes.txt", "cat\ncat")
    refused(mask_folder, "'cat' twice")
    (mask_folder / "classes.txt").unlink()
    refused(mask_folder, "classes.txt cannot be read")


# Telling formats apart


def test_formats_that_cannot_be_told_apart_are_listed(voc_folder: Path) -> None:
    save(voc_folder / "a.jpg")
    write(voc_folder / "data.yaml", "names: [cat]")
    write(voc_folder / "labels" / "a.txt", "0 .5 .5 .5 .5")
    refused(voc_folder, "Annotations/ (voc) and data.yaml (yolo)", "one of coco, voc, yolo, classes, masks")
    assert len(read_truth(voc_folder, format="voc").images) == 2
    refused(voc_folder, "none of coco, voc", format="xml")


@pytest.mark.parametrize("name", ["empty", "notes.txt", "a.jpg"])
def test_what_has_no_labels(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "notes.txt", "hello")
    save(tmp_path / "a.jpg")
    refused(tmp_path / name, "no labels of a known format", "coco, voc, yolo")
    refused(tmp_path / "absent", "do not exist")


def test_a_folder_with_one_json_is_coco(tmp_path: Path) -> None:
    empty = '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}'
    write(tmp_path / "labels.json", empty)
    assert read_truth(tmp_path).classes == ("cat",)
    write(tmp_path / "more.json", empty)
    refused(tmp_path, "2 JSON files, labels.json, more.json")


def test_students_ignore_difficult_objects_and_refuse_classes(voc_folder: Path, tmp_path: Path) -> None:
    (voc_folder / "Annotations" / "sub" / "c.xml").unlink()
    batches = JointBatches(
        read_truth(voc_folder), size=20, batch_size=1, augment=Augment(jitter=(1.0, 1.0), flip=0.0)
    )  # fmt: skip
    (target,) = batches[0].targets
    assert target.labels.tolist() == [0]  # the cat
    np.testing.assert_allclose(target.ignore[:, 2:] - target.ignore[:, :2], [[20, 10]])  # the difficult dog
    save(tmp_path / "classes" / "cat" / "a.jpg")
    with pytest.raises(TruthError, match="the labelled set holds classification labels"):
        JointBatches(read_truth(tmp_path / "classes"), task=DETECTION, size=20, batch_size=1)
