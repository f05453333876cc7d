"""Which image a stored prediction is of: however its files are named, and wherever a recipe is built from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from builder.cli.main import main
from builder.errors import BuildError
from builder.label.predictions import Failure
from tests.helpers.replayed import (
    HEIGHT,
    NAMES,
    WIDTH,
    detection,
    region,
    replayed,
    rows,
    sample,
    task,
    write_coco,
    write_maps,
    write_pool,
    write_samples,
    write_tasks,
    write_yolo,
)

BOX = "0 .5 .5 .2 .2"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path / "pool")


def build(recipe: str, store: str) -> dict[str, Any]:
    """What the command line says of a build."""
    done = CliRunner().invoke(main, ["build", recipe, "--store", store, "--json", "--no-report"])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


# A writer for each format, all for the images of NAMES -> the teacher of a recipe beside what it wrote


def coco(folder: Path) -> dict[str, Any]:
    results = [{"image_id": n, "category_id": 7, "bbox": [10, 10, 20, 20], "score": 0.9} for n in range(2)]
    write_coco(folder, results)
    listing = json.loads((folder / "listing.json").read_text())
    listing["images"].append({"id": 2, "file_name": NAMES[2], "width": WIDTH, "height": HEIGHT})
    (folder / "listing.json").write_text(json.dumps(listing))
    return {"spec": "replay:results.json", "images": "listing.json"}


def yolo(folder: Path) -> dict[str, Any]:
    write_yolo(folder / "labels", {"a.txt": f"{BOX} .9", "b.txt": "", "deep/er/c.txt": ""})
    return {"spec": "replay:labels"}


def listed_yolo(folder: Path) -> dict[str, Any]:
    write_yolo(folder / "labels", {"a.txt": f"{BOX} .9"})
    (folder / "looked_at.txt").write_text("\n".join(NAMES))
    return {"spec": "replay:labels", "images": "looked_at.txt"}


def label_studio(folder: Path) -> dict[str, Any]:
    write_tasks(folder, *(task(name, region(score=0.9)) for name in NAMES))
    return {"spec": "replay:export.json"}


def fiftyone(folder: Path) -> dict[str, Any]:
    write_samples(folder, *(sample(name, detection(confidence=0.9)) for name in NAMES))
    return {"spec": "replay:export#predictions"}


def probabilities(folder: Path) -> dict[str, Any]:
    (folder / "p.csv").write_text("name,red,blue\n" + "".join(f"{name},.9,.1\n" for name in NAMES))
    return {"spec": "replay:p.csv"}


def maps(folder: Path) -> dict[str, Any]:
    square = np.ones((HEIGHT, WIDTH), np.uint8)
    write_maps(folder / "maps", labels=square, confidence=square * 250)
    for part in ("labels", "confidence"):
        Image.fromarray(square).save(folder / "maps" / part / "a.png")
    return {"spec": "replay:maps"}


FORMATS: tuple[Callable[[Path], dict[str, Any]], ...] = (
    coco,
    yolo,
    listed_yolo,
    label_studio,
    fiftyone,
    probabilities,
    maps,
)


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
def test_every_format_is_replayed_the_same_from_any_folder(
    write: Callable[[Path], dict[str, Any]], pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {"name": "same", "pool": "pool", "teacher": write(tmp_path), "keep": {"score": 0.5}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    (tmp_path / "elsewhere").mkdir()
    ids = []
    for number, (where, path) in enumerate(
        ((".", "recipe.yaml"), ("elsewhere", "../recipe.yaml"), ("elsewhere", str(tmp_path / "recipe.yaml")))
    ):
        monkeypatch.chdir(tmp_path / where)
        built = build(path, f"store{number}" if number else str(tmp_path / "store"))
        assert (built["images"], built["failures"]) == (3, [])
        ids.append((built["id"], built["predictions"]))
    assert len(set(ids)) == 1


# One label file, two images


@pytest.mark.parametrize("write", [yolo, maps], ids=lambda write: write.__name__)
def test_a_label_file_never_serves_two_images(write: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    results = tmp_path / write(tmp_path)["spec"].removeprefix("replay:")
    pool = write_pool(tmp_path / "pool", (*NAMES, "a.png"))
    with pytest.raises(BuildError, match=r"a.jpg and a.png would share a label file, a of .*: rename one"):
        replayed(pool, results)
    (pool / "a.png").write_bytes((pool / "a.jpg").read_bytes())  # a copy, for which the predictions hold as well
    assert not isinstance(replayed(pool, results)["a.jpg"], Failure)
    (pool / "a.png").write_bytes(b"no image")  # so that nothing can have been predicted on it
    assert not isinstance(replayed(pool, results)["a.jpg"], Failure)


def test_a_list_says_which_of_two_images_a_label_file_is_of(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", (*NAMES, "a.png"))
    listed_yolo(tmp_path)
    found = replayed(pool, tmp_path / "labels", tmp_path / "looked_at.txt")
    assert len(found["a.jpg"]) == 1 and found["a.png"] == Failure("not among the images of looked_at.txt", "unlisted")
    (tmp_path / "looked_at.txt").write_text("\n".join([*NAMES, "a.png"]))
    with pytest.raises(BuildError, match=r"looked_at.txt: a.jpg and a.png would share a label file: rename one"):
        replayed(pool, tmp_path / "labels", tmp_path / "looked_at.txt")
    (tmp_path / "looked_at.txt").write_text("a\nb\n")  # without extensions
    with pytest.raises(BuildError, match=r"a.jpg and a.png would share a label file, a of looked_at.txt"):
        replayed(pool, tmp_path / "labels", tmp_path / "looked_at.txt")


def test_names_below_one_folder_are_not_mixed_with_names_of_the_pool(tmp_path: Path) -> None:
    """All of a listing's names are read in one way: `imgs/b.jpg` is not the pool's `b.jpg` where `imgs/a.jpg` is there
    under that very name."""
    pool = write_pool(tmp_path / "pool", ("imgs/a.jpg", "b.jpg", "imgs/c.jpg"))
    write_yolo(tmp_path / "labels", {"imgs/a.txt": f"{BOX} .9", "imgs/b.txt": f"{BOX} .8"}, None)
    found = replayed(pool, tmp_path / "labels", classes=("cat",))
    assert len(found["imgs/a.jpg"]) == 1
    assert "not among the images of labels" in found["b.jpg"].error


def test_an_image_is_listed_under_the_name_of_its_copy(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", ("a.jpg",))
    (pool / "b.jpg").write_bytes((pool / "a.jpg").read_bytes())
    write_yolo(tmp_path / "labels", {"b.txt": f"{BOX} .9"}, None)
    assert rows(replayed(pool, tmp_path / "labels", classes=("cat",))["a.jpg"]) == [[32, 24, 48, 36, 0.9, 0]]


# Ids of COCO results


def listing(folder: Path, images: dict[str, Any]) -> Path:
    """A COCO JSON of images, file name -> id."""
    listed = [{"id": id, "file_name": name, "width": WIDTH, "height": HEIGHT} for name, id in images.items()]
    categories = [{"id": 1, "name": "red"}, {"id": "2", "name": "blue"}]
    (folder / "listing.json").write_text(json.dumps({"images": listed, "categories": categories}))
    return folder / "listing.json"


def results(folder: Path, *ids: Any, names: tuple[str, ...] = ()) -> Path:
    """A red box for each image_id, at x = 10, 20, …; names: their file_name."""
    records: list[dict[str, Any]] = [
        {"image_id": id, "category_id": 1, "bbox": [10 * n, 5, 8, 8], "score": 0.9} for n, id in enumerate(ids, 1)
    ]
    for record, name in zip(records, names, strict=False):
        record["file_name"] = name
    (folder / "results.json").write_text(json.dumps(records))
    return folder / "results.json"


@pytest.mark.parametrize(
    ("images", "ids", "names", "right"),
    [
        pytest.param({"a.jpg": 0, "b.jpg": 1}, (1, 0), (), {"b.jpg": 10, "a.jpg": 20}, id="numbers"),
        pytest.param({"a.jpg": "0", "b.jpg": "1"}, (1, 0), (), {"b.jpg": 10, "a.jpg": 20}, id="text in the listing"),
        pytest.param({"a.jpg": 0, "b.jpg": 1}, ("1", "0"), (), {"b.jpg": 10, "a.jpg": 20}, id="text in the results"),
        pytest.param({"a.jpg": "x", "b.jpg": "y"}, ("y", "x"), (), {"b.jpg": 10, "a.jpg": 20}, id="words"),
        pytest.param({"a.jpg": 0, "b.jpg": 1}, ("b", "a"), (), {"b.jpg": 10, "a.jpg": 20}, id="names"),
        pytest.param({"a.jpg": 0, "b.jpg": 1}, ("b", "a"), ("b.jpg", "a.jpg"), {"b.jpg": 10}, id="names, both ways"),
        pytest.param({"deep/er/c.png": 0}, ("c",), ("c.png",), {"deep/er/c.png": 10}, id="a name in a folder"),
        pytest.param({"1.jpg": 0, "2.jpg": 1}, (1, 2), (), {"1.jpg": 10, "2.jpg": 20}, id="numbers that are names"),
        pytest.param({"000012.jpg": 7}, (12,), (), {"000012.jpg": 10}, id="zeros in front"),
        pytest.param(
            {"1.jpg": 0, "2.jpg": 1, "3.jpg": 2}, (1, 2), ("1.jpg", "2.jpg"), {"1.jpg": 10, "2.jpg": 20}, id="told"
        ),
        pytest.param({"1.jpg": 0, "2.jpg": 1}, (1,), ("2.jpg",), {"2.jpg": 10}, id="told that it is the id"),
    ],
)
def test_results_are_of_the_image_that_their_id_or_name_says(
    images: dict[str, Any], ids: tuple[Any, ...], names: tuple[str, ...], right: dict[str, float], tmp_path: Path
) -> None:
    pool = write_pool(tmp_path / "pool", tuple(images))
    found = replayed(pool, results(tmp_path, *ids, names=names), listing(tmp_path, images))
    assert {name: found[name].boxes[0, 0] for name in right} == right


@pytest.mark.parametrize(
    ("images", "ids", "names", "message"),
    [
        ({"1.jpg": 0, "2.jpg": 1, "3.jpg": 2}, (1, 2), (), "may be the id of 2.jpg or the name of 1.jpg in"),
        ({"a.jpg": 0, "b.jpg": 1}, (0, "b"), (), "result 1 has image_id 'b', which the COCO JSON of its images does"),
        ({"a.jpg": 0, "b.jpg": 1}, (0,), ("b.jpg",), "result 0 has image_id 0 and file_name 'b.jpg', but "),
        ({"x/a.jpg": 0, "y/a.jpg": 1}, ("a",), (), "image_id 'a', which may be x/a.jpg or y/a.jpg of "),
        ({"a.jpg": 0}, (None,), (), "id None is neither a whole number"),
        ({"a.jpg": 0, "b.jpg": "0"}, (), (), "image id 0 stands 2 times"),
    ],
)
def test_ids_that_may_be_of_two_images_are_refused(
    images: dict[str, Any], ids: tuple[Any, ...], names: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    pool = write_pool(tmp_path / "pool", tuple(images))
    with pytest.raises(BuildError, match=message):
        replayed(pool, results(tmp_path, *ids, names=names), listing(tmp_path, images))


# Addresses of Label Studio


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/3/1a2b3c4d-IMG_1_copy.jpg", "IMG 1 (copy).jpg"),
        ("https://host/app/data/upload/1a2b3c4d-IMG_1_copy.jpg", "deep/IMG 1 (copy).jpg"),
        ("/data/upload/3/1a2b3c4d-caf%C3%A9.jpg", "café.jpg"),
        ("/data/upload/3/1a2b3c4d-cafe.jpg", "café.jpg"),  # uploaded from a Mac, as e and an accent, which went
        ("/data/upload/3/1a2b3c4d-a.jpg", "3/1a2b3c4d-a.jpg"),  # the folder where Label Studio keeps its uploads
        ("/data/local-files/?d=set/x%232%20%2B.jpg", "x#2 +.jpg"),
        ("/data/local-files/?d=set/x#2 +.jpg", "x#2 +.jpg"),
        ("/data/local-files/?d=set/50%20off.jpg", "50%20off.jpg"),
        ("/data/local-files/?d=set/100%.jpg", "100%.jpg"),
        ("/data/local-files/?d=set/a+b.jpg", "a b.jpg"),
        ("https://host/data/local-files/?d=set/a&b.jpg", "a&b.jpg"),
        ("s3://bucket/x#2 50%20+.jpg", "x#2 50%20+.jpg"),
        ("gs://bucket/deep/a?b.jpg", "deep/a?b.jpg"),
        ("https://host/x/a%20b.jpg?token=1", "x/a b.jpg"),
        ("https://host/x/a#b.jpg", "x/a#b.jpg"),
        ("x#2 50%.jpg", "x#2 50%.jpg"),
        ("x%232.jpg", "x#2.jpg"),
    ],
)
def test_an_address_of_label_studio_is_matched_however_it_is_quoted(address: str, name: str, tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", ("other.jpg", name))
    tasks = task(address, region(score=0.5)), task(address.replace(address.rpartition("/")[2], "none.jpg"))
    found = replayed(pool, write_tasks(tmp_path, *tasks))
    assert len(found[name]) == 1 and isinstance(found["other.jpg"], Failure)


@pytest.mark.parametrize(
    ("images", "addresses", "message"),
    [
        (
            ("a/001.jpg", "b/001.jpg"),
            ("/data/upload/3/1a2b3c4d-001.jpg",),
            "a/001.jpg and b/001.jpg would share '1a2b3c4d-001.jpg' of export.json: Label Studio renames uploads: give",
        ),
        (
            ("a/001.jpg", "b/002.jpg"),
            ("/data/upload/3/1a2b3c4d-001.jpg", "/data/upload/3/ffffffff-001.jpg"),
            "a/001.jpg may be '1a2b3c4d-001.jpg' or 'ffffffff-001.jpg' of export.json: Label Studio renames uploads",
        ),
        (("IMG_1.jpg", "IMG 1.jpg"), ("/data/upload/3/1a2b3c4d-IMG_1.jpg",), "would share '1a2b3c4d-IMG_1.jpg'"),
        (
            ("a b.jpg", "a%20b.jpg"),
            ("/data/local-files/?d=a%20b.jpg",),
            "a%20b.jpg would share 'a b.jpg' of export.json",
        ),
        (
            ("a.jpg",),
            ("/data/upload/3/1a2b3c4d-a.jpg",) * 2,
            "'1a2b3c4d-a.jpg' like one before: keep one, or give `name`",
        ),
    ],
)
def test_what_may_be_of_two_images_is_refused(
    images: tuple[str, ...], addresses: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    pool = write_pool(tmp_path / "pool", images)
    with pytest.raises(BuildError, match=message):
        replayed(pool, write_tasks(tmp_path, *(task(address, region()) for address in addresses)))


def test_an_image_that_no_task_is_of_is_told_what_a_task_is_of(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool", ("a.jpg", "b.jpg"))
    addresses = ("/data/upload/3/1a2b3c4d-a.jpg", "/data/upload/3/1a2b3c4d-IMG%2B1.jpg")
    found = replayed(pool, write_tasks(tmp_path, *(task(address, region()) for address in addresses)))
    assert found["b.jpg"].error == (
        "not among the images of export.json, which names '/data/upload/3/1a2b3c4d-IMG%2B1.jpg' (Label Studio renames "
        "uploads: give `name` in the data of each task)"
    )
