"""What a version keeps, and how much of it is right, of every kind of label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from builder.store.version import Version
from builder.truth.coco import read_coco
from builder.truth.read import read_truth
from students.doctor.records import Labels, Right
from students.doctor.selections import by_sha256, read_labels, read_right, rule_words
from tests.helpers.coloured import NAMES, VERSION_CLASSES, make_scene, write_labelled, write_version
from tests.helpers.rectangles import write_rectangles
from tests.helpers.rectangles import write_version as write_boxes


def test_boxes_are_right_where_they_overlap_one_of_their_class(tmp_path: Path) -> None:
    truth = read_coco(write_rectangles(tmp_path / "scenes", 4))
    version = Version.open(write_boxes(tmp_path / "version", truth, ["red", "green", "blue"]))
    rights = read_right(version, by_sha256(truth), truth)
    # of three boxes on each of three images the second, which is green, is ignored
    assert rights == {"red": Right(3, 3, 3, 3), "green": Right(0, 0, 3, 0), "blue": Right(3, 3, 3, 3)}
    renamed = Version.open(write_boxes(tmp_path / "renamed", truth, ["green", "red", "blue"]))
    assert read_right(renamed, by_sha256(truth), truth) == rights
    assert read_labels(truth) == Labels(4, {"red": 3, "green": 3, "blue": 3})
    assert read_right(version, {}, truth) == {}


@pytest.mark.parametrize("shift", [0, 1])
def test_classes_are_right_where_people_say_the_same(shift: int, tmp_path: Path) -> None:
    truth = read_truth(write_labelled(tmp_path / "labels", "classification", 9))
    images = by_sha256(truth)
    named = {image.path.stem: sha for sha, image in images.items()}

    def claim(record: dict[str, Any]) -> None:
        record["sha256"] = named[record["key"].removeprefix("scene-")]

    version = Version.open(write_version(tmp_path / "version", "classification", shift, claim))
    rights = read_right(version, images, truth)
    assert sum(right.kept for right in rights.values()) == 8
    assert sum(right.right for right in rights.values()) == (8 if shift == 0 else 0)
    assert read_labels(truth).by_class == {"blue": 3, "green": 3, "red": 3}


def test_pixels_are_right_where_people_say_the_same(tmp_path: Path) -> None:
    truth = read_truth(write_labelled(tmp_path / "labels", "semantic", 8))
    images = by_sha256(truth)
    named = {image.path.stem: sha for sha, image in images.items()}

    def claim(record: dict[str, Any]) -> None:
        record["sha256"] = named[record["key"].removeprefix("scene-")]

    folder = write_version(tmp_path / "version", "semantic", 0, claim)
    rights = read_right(Version.open(folder), images, truth)
    human = [np.array(Image.open(str(image.mask))) for image in truth.images]
    scenes = np.random.default_rng(1)
    kept, right = dict.fromkeys(VERSION_CLASSES, 0), dict.fromkeys(VERSION_CLASSES, 0)
    for n, mask in enumerate(make_scene(scenes, n % 3)[1] for n in range(8)):
        name = NAMES[n % 3]
        kept[name] += int((mask & (human[n] != 255)).sum())
        right[name] += int((mask & (human[n] == n % 3)).sum())
    assert {name: (each.kept, each.right) for name, each in rights.items()} == {
        name: (kept[name], right[name]) for name in VERSION_CLASSES
    }
    assert sum(read_labels(truth).by_class.values()) == sum(int((plane != 255).sum()) for plane in human)


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ({"score": 0.5, "ignore": 0.3}, "score 0.5"),
        ({"score": {"a": 0.5}}, "score"),
        ({"precision": 0.8}, "precision 0.8"),
        ({"precision": {"target": 0.9}, "score": None}, "precision"),
        ({"balance": {"images": 10}}, "balance"),
        (None, "this rule"),
    ],
)
def test_rules_in_words(keep: Any, words: str) -> None:
    assert rule_words(keep) == words
