"""The demo's scenes: exact boxes, no digit in two splits, the same bytes from the same seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from scenes import CLASSES, OVERLAP, SIDE, VISIBLE, Counts, draw_scene, make_scenes, place_digits
from sklearn.datasets import load_digits

COUNTS = Counts(labelled=12, truth=10, pool=30, test=14)
LABELS = {"labelled": "labelled.json", "truth": "truth.json", "pool": "pool_truth.json", "test": "test.json"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes(folder, COUNTS, seed=3)
    return folder


def labels(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / LABELS[split]).read_text())


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("split", LABELS)
def test_split_is_coco_with_readable_images(scenes: Path, split: str) -> None:
    coco = COCO(scenes / LABELS[split])
    assert len(coco.imgs) == getattr(COUNTS, split)
    assert tuple(category["name"] for category in coco.cats.values()) == CLASSES
    names = [image["file_name"] for image in coco.imgs.values()]
    assert sorted(names) == sorted(str(path.relative_to(scenes)) for path in (scenes / split).iterdir())
    for image in coco.imgs.values():
        with Image.open(scenes / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (SIDE, SIDE)
        boxes = np.array([note["bbox"] for note in coco.loadAnns(coco.getAnnIds(image["id"]))])
        assert 1 <= len(boxes) <= 5
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, 2:] >= 3).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= SIDE).all()


def test_the_pool_holds_images_only(scenes: Path) -> None:
    assert {path.suffix for path in (scenes / "pool").iterdir()} == {".jpg"}


def test_no_digit_crosses_from_one_split_to_another(scenes: Path) -> None:
    targets = load_digits().target
    seen: dict[int, str] = {}
    for split in LABELS:
        for note in labels(scenes, split)["annotations"]:
            assert seen.setdefault(note["digit"], split) == split
            assert note["category_id"] == targets[note["digit"]] + 1
    assert set(seen.values()) == set(LABELS)


def test_a_seed_decides_every_byte(scenes: Path, tmp_path: Path) -> None:
    make_scenes(tmp_path / "same", COUNTS, seed=3)
    make_scenes(tmp_path / "other", COUNTS, seed=4)
    expected, other = digest(scenes), digest(tmp_path / "other")
    assert digest(tmp_path / "same") == expected
    assert other.keys() == expected.keys()
    assert not set(other.values()) & set(expected.values())


def test_boxes_are_tight_around_ink_that_never_meets() -> None:
    digits = load_digits()
    for seed in range(100):
        ink, found = place_digits(np.random.default_rng(seed), np.arange(1797), digits.images, digits.target)
        boxed = np.zeros((SIDE, SIDE), bool)
        for digit in found:
            x, y, width, height = digit.box
            assert boxed[y : y + height, x : x + width].mean() <= OVERLAP
            boxed[y : y + height, x : x + width] = True
            mark = ink[y : y + height, x : x + width]
            assert min(edge.max() for edge in (mark[0], mark[-1], mark[:, 0], mark[:, -1])) >= VISIBLE
        assert not ink[~boxed].any()
        assert ink.max() == 1  # two inks on one pixel would add up to more


def test_ink_shows_in_the_pixels() -> None:
    """Every scene is legible: strong ink differs from bare paper by several times what the noise leaves of a mean."""
    digits = load_digits()
    for seed in range(50):
        rng = np.random.default_rng(seed)
        ink, _ = place_digits(rng, np.arange(1797), digits.images, digits.target)
        pixels = draw_scene(rng, ink)
        assert pixels.dtype == np.uint8
        assert abs(pixels[ink > 0.7].mean() - np.median(pixels[ink == 0])) > 20


def test_classes_and_sizes_are_spread(scenes: Path) -> None:
    notes = labels(scenes, "pool")["annotations"]
    heights = np.array([note["bbox"][3] for note in notes])
    assert len({note["category_id"] for note in notes}) == len(CLASSES)
    assert heights.min() < 18
    assert heights.max() > 32


@pytest.mark.parametrize("counts", [Counts(labelled=0), Counts(1, 1, 1, 100_000)])
def test_a_split_without_digits_is_refused(tmp_path: Path, counts: Counts) -> None:
    with pytest.raises(ValueError, match=r"labelled has . scenes and 0 digits"):
        make_scenes(tmp_path, counts)
    assert not list(tmp_path.iterdir())
