"""Classes of images, and masks, in folders."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from builder.truth.masks import read_mask
from builder.truth.read import read_truth
from teachers.errors import TutelageWarning
from tests.helpers.labels import names, refused, save, write


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
    with pytest.warns(TutelageWarning, match=r"32 of 32 masks .* without a line in classes.txt \(11: "):
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
    with pytest.warns(TutelageWarning, match="without a line"):
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


@pytest.mark.filterwarnings("ignore:.* hold values without a line")
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
    refused(mask_folder, "two classes have the name 'cat'")
    (mask_folder / "classes.txt").unlink()
    refused(mask_folder, "classes.txt cannot be read")
