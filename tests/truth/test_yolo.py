"""Labels of YOLO."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.truth.coco import read_coco
from builder.truth.read import read_truth
from tests.helpers.labels import names, refused, save, voc, write

corner = st.integers(0, 90)
side = st.integers(2, 60)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(corner, corner, side, side, st.sampled_from("abc")), max_size=6, unique=True))
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
            truth = read_truth(root / format, counted_from=1 if format == "voc" else None)
            (image,) = truth.images
            np.testing.assert_allclose(image.boxes, boxes, atol=tolerance)
            assert [truth.classes[label] for label in image.labels] == labels


@pytest.fixture
def yolo_folder(tmp_path: Path) -> Path:
    save(tmp_path / "images" / "train" / "a.jpg")
    save(tmp_path / "images" / "train" / "none.jpg")
    save(tmp_path / "images" / "val" / "b.png", (20, 10))
    save(tmp_path / "images" / "val" / "turned.jpg", (20, 10), turned=True)
    write(tmp_path / "labels" / "train" / "a.txt", "0 0.5 0.5 1 1\n2 .25 .5 .1 .2\n")
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
        ("names: [cat, cat]", "two classes have the name 'cat'"),
        ("nc: 1", "has no names"),
        ("names: {x: cat}", "has no names"),
        ("names: [", "is not YAML"),
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
