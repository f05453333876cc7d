"""Predictions that other tools stored: every format becomes what a teacher would have said."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from builder.browse.database import binaries
from builder.cli.main import main
from builder.errors import BuildError
from builder.label.predictions import Failure
from builder.label.replay.replay import Replay
from builder.store.store import Store
from teachers.base import TeacherError, TeacherOptions, fingerprint
from teachers.errors import TutelageWarning
from tests.helpers.replayed import (
    HEIGHT,
    NAMES,
    WIDTH,
    detection,
    pixels,
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


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_pool(tmp_path / "pool")


BOX = "0 .5 .5 .2 .2"

# COCO results


def test_results_that_were_written_twice_are_told(pool: Path, tmp_path: Path) -> None:
    boxes = [{"image_id": 0, "category_id": 7, "bbox": [n, 2, 10, 8], "score": 0.5} for n in range(20)]
    results, listing = write_coco(tmp_path, [*boxes, boxes[0]])
    assert len(replayed(pool, results, listing)["a.jpg"]) == 21  # a teacher may say a thing twice
    write_coco(tmp_path, boxes * 2)
    with pytest.warns(TutelageWarning, match=r"results\.json: 20 of 40 boxes stand twice on their image"):
        assert len(replayed(pool, results, listing)["a.jpg"]) == 40


def test_results_wholly_outside_of_their_images_are_left_out_and_told(pool: Path, tmp_path: Path) -> None:
    boxes = [{"image_id": 0, "category_id": 7, "bbox": [n, 2, 10, 8], "score": 0.5} for n in range(9)]
    results, listing = write_coco(tmp_path, [*boxes, boxes[0] | {"bbox": [5000, 2, 10, 8]}])
    with pytest.warns(TutelageWarning, match=r"results\.json: 1 of 10 boxes lie wholly outside .* left out"):
        assert len(replayed(pool, results, listing)["a.jpg"]) == 9


def test_a_score_that_rounding_brought_above_1_is_1(pool: Path, tmp_path: Path) -> None:
    score = float(np.float32(1) + np.float32(1e-7))
    assert score > 1
    box = {"image_id": 0, "category_id": 5, "bbox": [10, 20, 30, 40], "score": score}
    (tmp_path / "coco").mkdir()
    label_files = write_yolo(tmp_path / "labels", {"a.txt": f"0 0.25 0.5 0.3 0.5 {score!r}\n"})
    found = [replayed(pool, *write_coco(tmp_path / "coco", [box])), replayed(pool, label_files)]
    assert [list(each["a.jpg"].scores) for each in found] == [[1], [1]]
    likeliest = replayed(pool, stored_csv(tmp_path, f"name,cat,dog\na.jpg,{score!r},0\n"))["a.jpg"]
    assert likeliest.probabilities.max() == 1
    with pytest.raises(BuildError, match="needs four numbers and a score in"):
        replayed(pool, *write_coco(tmp_path / "coco", [box | {"score": 1.01}]))


def test_coco_masks_as_codes_and_polygons_are_masks(pool: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[10:30, 20:50] = 1
    code = coco.encode(np.asfortranarray(drawn))
    code["counts"] = code["counts"].decode()
    common = {"image_id": 0, "category_id": 5}
    found = replayed(
        pool,
        *write_coco(
            tmp_path,
            [
                common | {"score": 0.3, "segmentation": code},
                common | {"score": 0.9, "segmentation": [[20, 10, 50, 10, 50, 30, 20, 30]], "bbox": [0, 0, 1, 1]},
                common | {"score": 0.8, "category_id": 3, "segmentation": code},
            ],
        ),
    )
    assert (found["kind"], found["classes"]) == ("instance", ("cat", "dog"))
    assert rows(found["a.jpg"]) == [[20, 10, 50, 30, 0.9, 1], [20, 10, 50, 30, 0.3, 1]]
    assert (pixels(found["a.jpg"]) == drawn.astype(bool)).all()
    assert found["b.jpg"].masks == ()
    assert isinstance(found["deep/er/c.png"], Failure)


# YOLO text files


def test_yolo_files_with_confidences(pool: Path, tmp_path: Path) -> None:
    text = "2 0.5 0.5 0.25 0.2 0.5\n0 0.25 0.6 0.3 0.5 0.75\n1 0.7 0.7 0.1 0.1 1\n"
    folder = write_yolo(tmp_path / "labels", {"a.txt": text, "deep/er/c.txt": ""})
    found = replayed(pool, folder)
    assert (found["kind"], found["classes"]) == ("detection", ("cat", "dog"))
    assert rows(found["a.jpg"]) == [[8, 21, 32, 51, 0.75, 0], [30, 24, 50, 36, 0.5, 1]]
    assert len(found["deep/er/c.png"]) == 0
    assert found["b.jpg"] == Failure(
        "not among the images of labels (if nothing was found there, list it in `images`)", "unlisted"
    )


def test_a_list_says_which_images_without_a_yolo_file_were_looked_at(pool: Path, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "run", {"labels/a.txt": "0 .5 .5 .2 .2 .9"}, names=None)
    (tmp_path / "looked_at.txt").write_text("a.jpg\nb.jpg\n")
    found = replayed(pool, folder / "labels", tmp_path / "looked_at.txt", classes=("cat",))
    assert (len(found["a.jpg"]), len(found["b.jpg"])) == (1, 0) and isinstance(found["deep/er/c.png"], Failure)
    above = replayed(pool, folder, classes=("cat",))  # names are below the one folder labels/
    assert rows(above["a.jpg"]) == rows(found["a.jpg"])


def test_confidences_of_yolo_files_may_lie_beside_them(pool: Path, tmp_path: Path) -> None:
    """As Autodistill writes them with record_confidence=True."""
    files = {"a.txt": f"{BOX}\n2 .25 .25 .1 .1\n", "confidence-a.txt": "0.75\n0.5\n", "deep/er/c.txt": ""}
    folder = write_yolo(tmp_path / "labels", files | {"deep/er/confidence-c.txt": ""})
    found = replayed(pool, folder)
    assert [(score, label) for *_, score, label in rows(found["a.jpg"])] == [(0.75, 0), (0.5, 1)]
    assert len(found["deep/er/c.png"]) == 0 and isinstance(found["b.jpg"], Failure)
    polygon = write_yolo(tmp_path / "masks", {"a.txt": "0 0 0 .5 0 .5 .5", "confidence-a.txt": ".9"})
    found = replayed(pool, polygon)
    assert (found["kind"], rows(found["a.jpg"])[0][4:]) == ("instance", [0.9, 0])


def test_yolo_polygons_are_masks(pool: Path, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "labels", {"a.txt": "0 .25 .5 .5 .5 .5 .75 .25 .75 .9", "b.txt": ""})
    found = replayed(pool, folder)
    assert found["kind"] == "instance" and rows(found["a.jpg"]) == [[20, 30, 40, 45, 0.9, 0]]
    assert pixels(found["a.jpg"])[0, 30:45, 20:40].all() and pixels(found["a.jpg"]).sum() == 15 * 20
    assert found["b.jpg"].masks == ()


# Label Studio


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/3/01234abc-a.jpg", "a.jpg"),
        ("/data/local-files/?d=sets%2Fdeep/er/c.png", "sets/deep/er/c.png"),
        ("https://example.org/x/y/b%20c.jpg?token=1", "x/y/b c.jpg"),
        ("s3://bucket/x/b.jpg", "x/b.jpg"),
    ],
)
def test_an_image_of_label_studio_is_called_by_the_path_in_its_address(tmp_path: Path, address: str, name: str) -> None:
    target = tmp_path / "pool" / name
    target.parent.mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(target)
    found = replayed(tmp_path / "pool", write_tasks(tmp_path, task(address, region())))
    assert rows(found[name]) == [[20, 30, 60, 45, 0.5, 0]]


def test_label_studio_predictions(pool: Path, tmp_path: Path) -> None:
    unscored = region(label="cat")
    del unscored["score"]
    other = task("ignored", region(score=0.01))
    other["data"]["name"] = "deep/er/c.png"
    path = write_tasks(tmp_path, task("a.jpg", region(), unscored), task("b.jpg") | {"predictions": []}, other)
    found = replayed(pool, path)
    assert (found["kind"], found["classes"]) == ("detection", ("cat", "dog"))
    assert rows(found["a.jpg"]) == [[20, 30, 60, 45, 0.5, 1], [20, 30, 60, 45, 0.25, 0]]
    assert isinstance(found["b.jpg"], Failure)  # no prediction: it was not looked at
    assert len(found["deep/er/c.png"]) == 0  # below the floor
    ordered = replayed(pool, path, classes=("dog", "bird", "cat"), floor=0.3)
    assert ordered["classes"] == ("dog", "bird", "cat") and ordered["a.jpg"].labels.tolist() == [0]


def test_label_studio_polygons_are_masks(pool: Path, tmp_path: Path) -> None:
    points = [[25, 50], [50, 50], [50, 75], [25, 75]]
    found = replayed(pool, write_tasks(tmp_path, task("a.jpg", region("polygonlabels", value={"points": points}))))
    assert found["kind"] == "instance" and rows(found["a.jpg"]) == [[20, 30, 40, 45, 0.5, 0]]


# FiftyOne


def test_a_fiftyone_field(pool: Path, tmp_path: Path) -> None:
    human = {"_cls": "Detections", "detections": [detection(confidence=None)]}
    folder = write_samples(
        tmp_path,
        sample("data/a.jpg", detection(), detection(label="ant", confidence=0.75), ground_truth=human),
        {"filepath": "data/b.jpg", "ground_truth": human},
        sample("data/deep/er/c.png", metadata={"width": 1, "height": 2}),
    )
    for path in (folder, folder.with_name("export#predictions")):
        found = replayed(pool, path)
        assert (found["kind"], found["classes"]) == ("detection", ("ant", "cat"))
        assert rows(found["a.jpg"]) == [[20, 30, 60, 45, 0.75, 0], [20, 30, 60, 45, 0.5, 1]]
        assert found["b.jpg"].error == "not among the images of samples.json"
        assert found["deep/er/c.png"].error == "is 80x60, but 1x2 in samples.json"


@pytest.mark.skipif(find_spec("fiftyone") is None or not binaries(), reason="no fiftyone, or no database for it")
@pytest.mark.filterwarnings("ignore:Passing a class to strawberry.scalar:DeprecationWarning")  # FiftyOne's
@pytest.mark.filterwarnings("ignore:No uuidRepresentation is specified:DeprecationWarning")  # mongoengine's
def test_what_fiftyone_itself_exported(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from builder.browse.app import connected

    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "config.json"))
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "var"))
    mask = np.random.default_rng(5).random((15, 40)) > 0.5  # as large as its box, as FiftyOne makes them
    with connected(Store(tmp_path / "browse")) as fo:
        dataset = fo.Dataset("replay")
        samples = [fo.Sample(filepath=str(pool / name)) for name in NAMES]
        box = fo.Detection(label="cat", bounding_box=[0.25, 0.5, 0.5, 0.25], confidence=0.5, mask=mask)
        samples[0]["model"], samples[1]["model"] = fo.Detections(detections=[box]), fo.Detections()
        samples[0]["other"] = fo.Detections(
            detections=[fo.Detection(label="x", bounding_box=[0, 0, 1, 1], confidence=1)]
        )
        dataset.add_samples(samples)
        dataset.compute_metadata()
        for media in (True, False):
            dataset.export(str(tmp_path / f"{media}"), fo.types.FiftyOneDataset, export_media=media, rel_dir=str(pool))
        theirs = samples[0]["model"].detections[0].to_segmentation(frame_size=(WIDTH, HEIGHT)).mask > 0
    for media in (True, False):
        found = replayed(pool, tmp_path / f"{media}#model")
        assert found["kind"] == "instance" and found["a.jpg"].scores.tolist() == [0.5]
        assert (pixels(found["a.jpg"])[0] == theirs).all()
        assert len(found["b.jpg"]) == 0 and isinstance(found["deep/er/c.png"], Failure)


# Class probabilities, and maps


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=3, max_size=3))
def test_probabilities_of_a_csv_come_back_as_they_are(pool: Path, values: list[list[float]]) -> None:
    path = pool.parent / "probabilities.csv"
    with open(path, "w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["name", "red", "a, b", "blue"])
        out.writerows([name, *row] for name, row in zip(NAMES, values, strict=True))
    found = replayed(pool, path)
    assert (found["kind"], found["classes"]) == ("classification", ("red", "a, b", "blue"))
    assert [found[name].probabilities.tolist() for name in NAMES] == values


def test_pairs_of_pngs_are_maps(pool: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    labels = random.choice([0, 1, 255], (HEIGHT, WIDTH)).astype(np.uint8)
    confidence = random.integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    found = replayed(pool, write_maps(tmp_path / "maps", labels=labels, confidence=confidence))
    assert (found["kind"], found["classes"]) == ("semantic", ("sky", "road"))
    for name in ("b.jpg", "deep/er/c.png"):
        assert (found[name].labels == labels).all() and (found[name].confidence == confidence).all()
    assert found["a.jpg"].error == "not among the images of maps/labels"


# What is wrong is said


SQUARE = np.zeros((HEIGHT, WIDTH), np.uint8)
RESULT = {"image_id": 0, "category_id": 5, "score": 0.5}


def stored_csv(folder: Path, text: str) -> Path:
    (folder / "p.csv").write_text(text)
    return folder / "p.csv"


def maps(folder: Path, **planes: np.ndarray) -> Path:
    return write_maps(folder / "maps", **({"labels": SQUARE, "confidence": SQUARE} | planes))


def lonely_map(folder: Path) -> Path:
    path = maps(folder)
    (path / "confidence" / "b.png").unlink()
    return path


def gap_in_classes(folder: Path) -> Path:
    """Whose second class would be the value of the empty line."""
    path = maps(folder)
    (path / "classes.txt").write_text("\n\n".join((path / "classes.txt").read_text().split()))
    return path


def maps_as(folder: Path, name: str, mode: str) -> Path:
    path = maps(folder)
    Image.fromarray(SQUARE).convert(mode).save(path / name)
    return path


def outlined(folder: Path, outline: Any) -> Any:
    return write_coco(folder, [RESULT | {"segmentation": outline}])


WRONG: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a mask of another size": (lambda d: outlined(d, {"size": [5, 5], "counts": "09"}), "result 0: a segmentation of"),
    "a mask that is none": (lambda d: outlined(d, "abc"), "result 0: a segmentation of"),
    "one result without a mask": (
        lambda d: write_coco(d, [RESULT | {"segmentation": [[0, 0, 9, 0, 9, 9]]}, RESULT | {"bbox": [1, 1, 2, 2]}]),
        "result 1 is no COCO detection (KeyError('segmentation'))",
    ),
    "COCO corners": (
        lambda d: write_coco(
            d,
            [RESULT | {"bbox": [50, 40, 70, 55]}, RESULT | {"bbox": [1, 1, 9, 9]}] * 2
            + [RESULT | {"bbox": [60, 5, 75, 25]}],
        ),
        "3 of 5 boxes, first on a.jpg, reach beyond their images: give x, y, width and height in pixels",
    ),
    "COCO shares": (lambda d: write_coco(d, [RESULT | {"bbox": [0.1, 0.1, 0.5, 0.5]}]), "lie inside one pixel"),
    "a COCO box inside out": (lambda d: write_coco(d, [RESULT | {"bbox": [9, 9, -5, 5]}]), "a side below 0"),
    "a COCO score in words": (lambda d: write_coco(d, [RESULT | {"bbox": [1, 1, 2, 2], "score": "0.5"}]), "a score in"),
    "COCO results without their images": (lambda d: write_coco(d, [])[:1], "needs `images`"),
    "a folder of nothing": (lambda d: ((d / "x").mkdir(), d / "x")[1:], "holds no stored predictions"),
    "nothing": (lambda d: d / "x.json", "cannot be read (No such file or directory)"),
    "a YOLO row without confidence": (lambda d: write_yolo(d / "y", {"a.txt": BOX}), "a.txt: row 1 has no confidence"),
    "a YOLO polygon without confidence": (
        lambda d: write_yolo(d / "y", {"a.txt": "0 0 0 .5 0 .5 .5"}),
        "row 1 has 6 numbers behind its class, not cx cy w h or a polygon, and a confidence",
    ),
    "fewer confidences than YOLO rows": (
        lambda d: write_yolo(d / "y", {"a.txt": f"{BOX}\n{BOX}", "confidence-a.txt": ".9"}),
        "confidence-a.txt 1: write both again",
    ),
    "a YOLO row with two confidences": (
        lambda d: write_yolo(d / "y", {"a.txt": f"{BOX} .9", "confidence-a.txt": ".9"}),
        "row 1 has a confidence of its own: take ",
    ),
    "a YOLO row of words": (lambda d: write_yolo(d / "y", {"a.txt": "cat 1 2"}), "row 1 is 'cat 1 2', not class"),
    "a YOLO row of six": (lambda d: write_yolo(d / "y", {"a.txt": f"{BOX} .5 9"}), "has 6 numbers behind its class"),
    "an unknown YOLO class": (lambda d: write_yolo(d / "y", {"a.txt": "9 .5 .5 .2 .2 .5"}), "class 9, which has no"),
    "a YOLO score in percent": (lambda d: write_yolo(d / "y", {"a.txt": f"{BOX} 93"}), "the confidence 93, outside"),
    "YOLO pixels": (lambda d: write_yolo(d / "y", {"a.txt": "0 50 .5 .2 .2 .5"}), "row 1 has 50, no share"),
    "YOLO boxes and polygons": (
        lambda d: write_yolo(d / "y", {"a.txt": f"{BOX} .5\n0 0 0 0 1 1 1 .5"}),
        "rows of boxes and rows of polygons",
    ),
    "a YOLO image that is not listed": (
        lambda d: (write_yolo(d / "y", {"a.txt": ""}), write_yolo(d, {"list.txt": "b.jpg"}, None) / "list.txt"),
        "a.txt is of an image that",
    ),
    "a region of a brush": (lambda d: write_tasks(d, task("a", region("brushlabels"))), "type 'brushlabels'"),
    "a turned box": (lambda d: write_tasks(d, task("a", region(value={"rotation": 5}))), "box that is turned"),
    "two predictions": (
        lambda d: write_tasks(d, task("a") | {"predictions": [{"result": []}, {"result": []}]}),
        "task 12 has 2 predictions",
    ),
    "two models": (
        lambda d: write_tasks(d, task("a", region()), task("b", region(), model_version="v2")),
        "predictions of other models ('v2', before 'v1')",
    ),
    "two kinds of regions": (
        lambda d: write_tasks(d, task("a", region(), region("polygonlabels", value={"points": [[0, 0]] * 3}))),
        "other kinds of regions",
    ),
    "a task of no image": (lambda d: write_tasks(d, task("") | {"data": {}}), "does not say of which image"),
    "a region without a score": (lambda d: write_tasks(d, task("a", region(score=None))), "the score None"),
    "an image in two tasks": (lambda d: write_tasks(d, task("a", region()), task("a")), "'a' like one before"),
    "two fields": (
        lambda d: write_samples(d, sample("a", detection(), other=sample("a", detection())["predictions"])),
        "has the fields other, predictions of detections",
    ),
    "no field": (lambda d: write_samples(d, {"filepath": "a"}), "has no field of detections with confidences"),
    "a field that is not there": (lambda d: write_samples(d, sample("a")).with_name("export#x"), "has no field 'x'"),
    "a field of one class": (
        lambda d: write_samples(d, {"filepath": "a", "x": {"_cls": "Classification"}}).with_name("export#x"),
        "field x of a holds no Detections",
    ),
    "no confidence": (
        lambda d: write_samples(d, sample("a", detection(), detection(confidence=None))),
        "a has an object with the confidence None",
    ),
    "FiftyOne pixels": (
        lambda d: write_samples(d, sample("a", detection(bounding_box=[10, 10, 20, 20]))),
        "1 of 1 boxes, first on a, reach beyond their images: give x, y, width and height in shares",
    ),
    "an object without a class": (lambda d: write_samples(d, sample("a", detection(label=None))), "without a label"),
    "a sample of no image": (
        lambda d: write_samples(d, sample("a", detection(), filepath=None)),
        "a sample without a filepath",
    ),
    "masks in files": (lambda d: write_samples(d, sample("a", detection(mask_path="m.png"))), "has masks in files"),
    "a mask without a size": (lambda d: write_samples(d, sample("a", detection(mask={}))), "has masks, but no size"),
    "a mask of rubbish": (
        lambda d: write_samples(d, sample("a", detection(mask={}), metadata={"width": 8, "height": 6})),
        "a mask that cannot be read",
    ),
    "a CSV without names": (lambda d: stored_csv(d, "a,b\nx,1\n"), "begins with 'a,b': begin with name"),
    "a CSV of equal classes": (lambda d: stored_csv(d, "name,b,b\n"), "begins with 'name,b,b'"),
    "a CSV with a short line": (lambda d: stored_csv(d, "name,a,b\nx,1\n"), "line 2 has 1 probabilities for 2"),
    "a CSV of percents": (lambda d: stored_csv(d, "name,a\nx,99\n"), "line 2 has the probability 99, outside 0..1"),
    "a CSV of words": (lambda d: stored_csv(d, "name,a\nx,yes\n"), "line 2 holds no number"),
    "a CSV with a NaN": (lambda d: stored_csv(d, "name,a\nx,nan\n"), "the probability nan"),
    "a CSV with an image twice": (lambda d: stored_csv(d, "name,a\nx,1\nx,0\n"), "line 3 has 'x' again"),
    "a class after an empty line": (gap_in_classes, "classes.txt: line 2 is empty, but classes are counted by lines"),
    "a map without its confidence": (lonely_map, "labels has b.png, but confidence has not"),
    "a map of another size": (lambda d: maps(d, labels=SQUARE[1:]), "b.png is 80x59, but its image 80x60"),
    "a value that is no class": (lambda d: maps(d, labels=SQUARE + 2), "has the value 2, but classes.txt 2 classes"),
    "maps without confidences": (
        lambda d: [shutil.rmtree((folder := maps(d)) / "confidence"), folder][1],
        "labels has maps without a confidence: put 255 times the probability",
    ),
    "a palette of confidences": (
        lambda d: maps_as(d, "confidence/b.png", "P"),
        "confidence/b.png has pixels of mode P: save it as an 8-bit grey PNG",
    ),
    "a map in a JPEG": (lambda d: maps_as(d, "labels/x.jpg", "L"), "labels/x.jpg is no PNG"),
    "a map in colours": (lambda d: maps(d, labels=np.stack([SQUARE] * 3, 2)), "pixels of mode RGB"),
    "images that nobody needs": (lambda d: (stored_csv(d, "name,a\n"), d / "x"), "names its own"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_replayed_is_said_in_one_sentence(what: str, pool: Path, tmp_path: Path) -> None:
    make, message = WRONG[what]
    given = make(tmp_path)
    with pytest.raises(BuildError) as error:
        replayed(pool, *(given if isinstance(given, tuple) else [given]))
    assert message in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value).replace(str(tmp_path), "")) < 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "excel"}, "format = 'excel' is none of coco, label_studio"),
        ({"format": "yolo"}, "is a file, but format yolo is a folder"),
        ({"format": "label_studio"}, "task 1 has no data, so that it is no task"),
        ({"floor": 0.5, "format": "csv"}, "floor=0.5 has no meaning"),
        ({"task": "semantic"}, "task='semantic' has no meaning for replay"),
        ({"nms_iou": 0.5}, "nms_iou=0.5 has no meaning for replay"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    results, listing = write_coco(tmp_path, [RESULT | {"bbox": [1, 1, 2, 2]}])
    with pytest.raises((BuildError, TeacherError), match=message):
        Replay(results, listing if "format" not in options else None, TeacherOptions(**options))


def test_a_class_twice_is_no_class(pool: Path, tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "y", {"a.txt": f"{BOX} .5"}, None)
    with pytest.raises(BuildError, match="has the classes 'cat, cat': give one or more different names"):
        replayed(pool, folder, classes=("cat", "cat"))


def test_what_windows_writes_is_read(pool: Path, tmp_path: Path) -> None:
    """A byte order mark, ends of lines; and a box that a model lets reach beyond the image is cut off."""
    results, listing = write_coco(
        tmp_path,
        [RESULT | {"bbox": [70, 50, 20, 20]}, RESULT | {"bbox": [1, 1, 9, 9]}, RESULT | {"bbox": [0, 0, 9, 9]}],
    )
    for path in (results, listing):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b", ", b",\r\n"))
    found = replayed(pool, results, listing)["a.jpg"]
    assert rows(found) == [[70, 50, 80, 60, 0.5, 1], [1, 1, 10, 10, 0.5, 1], [0, 0, 9, 9, 0.5, 1]]
    folder = write_yolo(tmp_path / "y", {"a.txt": ""})
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbf" + f"{BOX} .5\r\n\r\n{BOX} .4\r\n".encode())
    assert len(replayed(pool, folder)["a.jpg"]) == 2


def test_a_recipe_replays_what_lies_beside_it(pool: Path, tmp_path: Path) -> None:
    write_yolo(tmp_path / "labels", {"a.txt": f"{BOX} .9", "deep/er/c.txt": f"{BOX} .2"}, names=None)
    (tmp_path / "looked_at.txt").write_text("\n".join(NAMES))
    teacher = {"spec": "replay:labels", "images": "looked_at.txt", "format": "yolo", "classes": ["cat"]}
    recipe = {"name": "cats", "pool": "pool", "teacher": teacher, "keep": {"score": 0.5}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    command = ["build", str(tmp_path / "recipe.yaml"), "--store", str(tmp_path / "store"), "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    (labels,) = (tmp_path / "store").rglob("labels.parquet")
    kept = [row for row in pq.read_table(labels).to_pylist() if row["outcome"] == "kept"]
    assert [row["score"] for row in kept] == [pytest.approx(0.9)]


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    def prints(folder: Path) -> list[str]:
        made = [
            Replay(*write_coco(folder, [RESULT | {"bbox": [1, 1, 2, 2]}]), TeacherOptions()),
            Replay(write_yolo(folder / "yolo", {"a.txt": f"{BOX} .5", "b.txt": ""}), None, TeacherOptions()),
            Replay(maps(folder), None, TeacherOptions()),
        ]
        return [fingerprint(replay.description) for replay in made]

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert prints(tmp_path / "one") == prints(tmp_path / "two")
    changed = tmp_path / "one" / "yolo"
    before = fingerprint(Replay(changed, None, TeacherOptions()).description)
    shutil.move(changed / "b.txt", changed / "c.txt")
    assert fingerprint(Replay(changed, None, TeacherOptions()).description) != before
