"""Boxes that cannot be meant so are told, or refused; those of people's usual sets are not."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from PIL import Image

from builder.truth.read import read_truth
from builder.truth.records import TruthError
from teachers.base import VOID
from teachers.errors import TutelageWarning
from tests.helpers.labels import save, voc, write

WIDTH, HEIGHT = 20, 10


def coco(folder: Path, boxes: list[list[float]]) -> Path:
    save(folder / "a.png")
    notes = [{"id": n, "image_id": 1, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)]
    images = [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}]
    content = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "cat"}]}
    return write(folder / "labels.json", json.dumps(content))


CORNERS = [[2, 1, 8, 7], [10, 4, 16, 9], [12, 5, 19, 9], [9, 2, 18, 8]]


def test_corners_that_are_taken_for_sides_are_told(tmp_path: Path) -> None:
    with pytest.warns(TutelageWarning, match=r"3 of 4 boxes of .*labels\.json reach far beyond their images: check"):
        read_truth(coco(tmp_path, CORNERS))


def test_shares_of_an_image_are_no_pixels(tmp_path: Path) -> None:
    with pytest.raises(TruthError, match=r"all 4 boxes of .*labels\.json lie in the first pixel of their images"):
        read_truth(coco(tmp_path, [[0.1 * n, 0.1, 0.5, 0.4] for n in range(4)]))


def test_a_box_that_ends_before_it_begins_is_told(tmp_path: Path) -> None:
    with pytest.warns(TutelageWarning, match=r"1 of 2 boxes of .*labels\.json end before they begin .* left out"):
        truth = read_truth(coco(tmp_path, [[9, 9, -4, -3], [1, 1, 4, 3]]))
    assert (truth.inverted_boxes, truth.dropped_boxes, len(truth.images[0].boxes)) == (1, 1, 1)


def test_a_box_wholly_outside_of_its_image_is_no_object_and_told(tmp_path: Path) -> None:
    outside = [[WIDTH, 1, 4, 3], [1, HEIGHT + 2, 4, 3], [-9, 1, 9, 3]]
    with pytest.warns(TutelageWarning, match=r"3 of 23 boxes of .*labels\.json lie wholly outside .* left out"):
        truth = read_truth(coco(tmp_path, [*outside, *([1, 1, 1 + n / 4, 3] for n in range(20))]))
    assert (truth.outside_boxes, truth.dropped_boxes, len(truth.images[0].boxes)) == (3, 3, 20)


def test_so_is_one_of_voc(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    write(tmp_path / "a.xml", voc(("cat", (12, 2, 5, 8)), ("cat", (1, 1, 9, 9)), filename="a.png"))
    with pytest.warns(TutelageWarning, match="1 of 2 boxes of .* end before they begin"):
        assert read_truth(tmp_path).images[0].boxes.tolist() == [[0, 0, 9, 9]]


@pytest.mark.parametrize(
    "boxes",
    [
        [[x, y, x2 - x, y2 - y] for x, y, x2, y2 in CORNERS],
        [[-0.5, -0.5, WIDTH + 1, HEIGHT + 1]] * 1 + [[0, 0, WIDTH, 5], [3, 3, 4, 4]],  # rounding
        [[15, 2, 9, 5], *([2, n, 6, 1.5] for n in range(8))],  # one of nine is cut off by the frame and marked whole
        [[0, 0, 0.5, 0.5]],  # a click
        [[4, 4, 0, 3], [1, 1, 4, 4]],  # without area, as BCCD has one
    ],
)
def test_what_people_mark_is_silent(tmp_path: Path, boxes: list[list[float]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_truth(coco(tmp_path, boxes))


def test_predictions_are_no_labels_of_people(tmp_path: Path) -> None:
    for n in range(3):
        save(tmp_path / "images" / f"{n}.png")
        write(tmp_path / "labels" / f"{n}.txt", "0 .5 .5 .2 .2" + (" 0.91" if n else ""))
    write(tmp_path / "data.yaml", "train: images\nval: images\nnames: [cat]\n")
    with pytest.warns(TutelageWarning, match=r"2 of 3 label files, .*1\.txt first, have confidences"):
        truth = read_truth(f"{tmp_path / 'data.yaml'}#train")
    assert [len(image.boxes) for image in truth.images] == [1, 1, 1]


@pytest.mark.parametrize("file", ["coco/instances_train.json", "coco/instances_val.json", "bccd/instances_train.json"])
def test_public_sets_are_silent(shared_data: Path, file: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_truth(shared_data / file, (shared_data / file).parent / "images").images


def masks(folder: Path, values: list[int]) -> Path:
    for number, value in enumerate(values):
        save(folder / "images" / f"{number}.png")
        (folder / "masks").mkdir(exist_ok=True)
        Image.new("L", (WIDTH, HEIGHT), value).save(folder / "masks" / f"{number}.png")
    write(folder / "classes.txt", "road\nsky\n")
    return folder


def test_values_of_masks_that_no_class_has_are_told(tmp_path: Path) -> None:
    with pytest.warns(TutelageWarning, match=r"2 of 4 masks .* a line in classes.txt \(2, 11: 50.0% of their pixels\)"):
        read_truth(masks(tmp_path / "set", [0, 1, 2, 11]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_truth(masks(tmp_path / "other", [0, 1, VOID]))
