"""Names in another Unicode form than those of the images they are of, in every format."""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from builder.scan.sources import list_source
from builder.truth.read import read_truth
from builder.truth.records import Truth
from tests.helpers.labels import names, refused, save, voc, write

STEM = "caf\u00e9 \u00fcber"


def yolo(folder: Path, image: str, label: str) -> Path:
    save(folder / "images" / f"{image}.png")
    write(folder / "labels" / f"{label}.txt", "0 .5 .5 .5 .5")
    write(folder / "data.yaml", "names: [cat]")
    return folder


def darknet(folder: Path, image: str, label: str) -> Path:
    save(folder / image / "0.png")
    write(folder / label / "0.txt", "0 .5 .5 .5 .5") if image == label else (folder / image / "0.txt").write_text(
        "0 .5 .5 .5 .5"
    )
    write(folder / "obj.names", "cat")
    write(folder / "obj.data", "names = obj.names\nvalid = list.txt\ntrain = none.txt\n")
    write(folder / "list.txt", f"{label}/0.png\n")
    return folder


def coco(folder: Path, image: str, label: str) -> Path:
    save(folder / f"{image}.png")
    record = {"id": 1, "file_name": f"{label}.png", "width": 20, "height": 10}
    note = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}
    content = {"images": [record], "annotations": [note], "categories": [{"id": 1, "name": "cat"}]}
    return write(folder / "labels.json", json.dumps(content))


def pascal(folder: Path, image: str, label: str) -> Path:
    save(folder / "JPEGImages" / f"{image}.png")
    write(folder / "Annotations" / f"{label}.xml", voc(("cat", (1, 1, 5, 5)), filename=f"{label}.png"))
    return write(folder / "ImageSets" / "Main" / "val.txt", f"{image}\n")


def table(folder: Path, image: str, label: str) -> Path:
    save(folder / f"{image}.png")
    return write(folder / "labels.csv", f"file,class\n{label}.png,cat\n")


def masks(folder: Path, image: str, label: str) -> Path:
    save(folder / "images" / f"{image}.png")
    (folder / "masks").mkdir()
    Image.new("L", (20, 10)).save(folder / "masks" / f"{label}.png")
    write(folder / "classes.txt", "cat")
    return write(folder / "val.txt", f"{label}\n")


FORMATS: list[Callable[[Path, str, str], Path]] = [yolo, darknet, coco, pascal, table, masks]


def labelled(truth: Truth) -> list[int]:
    return [len(i.labels) + (i.label is not None) + (i.mask is not None) for i in truth.images]


@pytest.mark.parametrize("make", FORMATS)
@pytest.mark.parametrize("image", ["NFC", "NFD"])
@pytest.mark.parametrize("label", ["NFC", "NFD"])
def test_labels_of_either_form_are_of_the_same_image(
    tmp_path: Path, make: Callable[[Path, str, str], Path], image: str, label: str
) -> None:
    source = make(tmp_path / "set", unicodedata.normalize(image, STEM), unicodedata.normalize(label, STEM))
    truth = read_truth(source)
    assert labelled(truth) == [1]
    assert truth.images[0].path.is_file()
    assert all(name == unicodedata.normalize("NFC", name) for name in names(truth))


def test_a_list_of_a_pool_finds_files_of_either_form(tmp_path: Path) -> None:
    save(tmp_path / f"{unicodedata.normalize('NFD', STEM)}.png")
    listing = write(tmp_path / "list.txt", f"{STEM}.png\n")
    (entry,) = list_source(str(listing))
    assert (entry.name, Path(entry.uri).is_file()) == (f"{STEM}.png", True)


def test_images_whose_names_differ_only_in_form(tmp_path: Path) -> None:
    """They would have the same key."""
    source = coco(tmp_path, STEM, STEM)
    shutil.copy(tmp_path / f"{STEM}.png", tmp_path / f"{unicodedata.normalize('NFD', STEM)}.png")
    content = json.loads(source.read_text())
    content["images"].append(content["images"][0] | {"id": 2, "file_name": f"{unicodedata.normalize('NFD', STEM)}.png"})
    source.write_text(json.dumps(content))
    refused(source, "stands twice: keep one")


def test_classes_are_one_in_either_form(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    forms = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    source = write(tmp_path / "labels.csv", f"file,class\na.png,{forms[0]}\nb.png,{forms[1]}\n")
    assert (read_truth(source).classes, [i.label for i in read_truth(source).images]) == ((forms[0],), [0, 0])
