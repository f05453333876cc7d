"""Objects that cannot be measured, and boxes that stand twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from builder.cli.main import main
from builder.truth.read import read_truth
from builder.truth.records import Marks, TruthError, assemble, check_measurable
from teachers.errors import TutelageWarning
from tests.helpers.labels import save, voc, write
from tests.helpers.rectangles import write_rectangles


def coco(folder: Path, notes: list[dict[str, Any]], images: int = 2) -> Path:
    for number in range(images):
        save(folder / f"{number}.png")
    records = [{"id": n, "file_name": f"{n}.png", "width": 20, "height": 10} for n in range(images)]
    notes = [{"id": n, "category_id": 1, "image_id": 0} | note for n, note in enumerate(notes)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return write(
        folder / "labels.json", json.dumps({"images": records, "annotations": notes, "categories": categories})
    )


def test_a_box_that_stands_twice_counts_once(tmp_path: Path) -> None:
    box = {"bbox": [1, 2, 3, 4]}
    source = coco(
        tmp_path,
        [
            box,
            box,
            box | {"category_id": 2},
            box | {"image_id": 1},
            box | {"iscrowd": 1},
            {"bbox": [1, 2, 3, 4.5]},
            box,
        ],
    )
    with pytest.warns(TutelageWarning, match=r"2 of 7 boxes of .*labels\.json stand twice"):
        truth = read_truth(source)
    assert [image.labels.tolist() for image in truth.images] == [[0, 1, 0, 0], [0]]
    assert [image.crowd.tolist() for image in truth.images] == [[False, False, True, False], [False]]
    assert (truth.repeated_boxes, truth.dropped_boxes) == (2, 0)


def test_masks_of_one_box_are_two_objects(tmp_path: Path) -> None:
    outlines = ([[1, 1, 5, 1, 5, 5]], [[1, 1, 5, 5, 1, 5]], [[1, 1, 5, 1, 5, 5]])
    source = coco(tmp_path, [{"bbox": [1, 1, 4, 4], "segmentation": outline} for outline in outlines])
    with pytest.warns(TutelageWarning, match="1 of 3 boxes"):
        (image, _) = read_truth(source, outlines=True).images
    assert len(set(image.masks or ())) == 2


@given(st.lists(st.tuples(*[st.integers(0, 2)] * 3), max_size=12))
def test_what_is_left_are_the_different_rows_in_their_order(rows: list[tuple[int, int, int]]) -> None:
    image, category, x = np.array(rows, np.int64).reshape(-1, 3).T
    ones = np.ones(len(rows))
    marks = Marks(image, category, np.stack([x, ones, ones, ones], 1), ones < 0, ones < 0, ones * np.nan)
    truth = assemble(list("abc"), [Path()] * 3, [(9, 9)] * 3, marks, list("uvw"), [1, 2, 3])
    for number, labelled in enumerate(truth.images):
        different = list(dict.fromkeys(row for row in rows if row[0] == number))
        got = zip(labelled.labels.tolist(), labelled.boxes[:, 0].tolist(), strict=True)
        assert [tuple(pair) for pair in got] == [(c, left) for _, c, left in different]
    assert truth.repeated_boxes == len(rows) - len(set(rows))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"iscrowd": 1}, r"all 3 objects of .*labels\.json are crowds \(iscrowd\).*CVAT.*set it to 0"),
        ({"ignore": 1}, r"all 3 objects of .*labels\.json are difficult.*set the flag to 0"),
    ],
)
def test_labels_of_which_nothing_can_be_measured(tmp_path: Path, flags: dict[str, int], words: str) -> None:
    source = coco(tmp_path, [{"bbox": [n, 2, 3, 4]} | flags for n in range(3)])
    with pytest.raises(TruthError, match=words):
        check_measurable(read_truth(source), source)
    source = coco(tmp_path, [{"bbox": [n, 2, 3, 4]} | flags for n in range(3)] + [{"bbox": [1, 1, 2, 2]}])
    check_measurable(read_truth(source), source)


def test_difficult_objects_of_voc_are_told_too(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg")
    write(tmp_path / "a.xml", voc(("cat", (1, 1, 4, 4)), difficult=1))
    with pytest.raises(TruthError, match="all 1 objects of a are difficult"):
        check_measurable(read_truth(tmp_path), "a")
    write(tmp_path / "a.xml", voc())
    with pytest.raises(TruthError, match="labels a have 1 images and not one object"):
        check_measurable(read_truth(tmp_path), "a")


def test_crowds_alone_are_one_sentence_of_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVAT writes iscrowd for what was drawn with its brush."""
    labels = write_rectangles(tmp_path / "val", 6)
    content = json.loads(labels.read_text())
    results = [
        {key: note[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for note in content["annotations"]
    ]
    write(tmp_path / "found.json", json.dumps(results))
    write(tmp_path / "listing.json", json.dumps(content))
    for note in content["annotations"]:
        note["iscrowd"] = 1
    labels.write_text(json.dumps(content))
    write(
        tmp_path / "r.yaml",
        "name: a\npool: val\ntruth: val/labels.json\ngates: {on_leak: drop}\n"
        "teacher: {spec: 'replay:found.json', images: listing.json}\n",
    )
    monkeypatch.chdir(tmp_path)
    for words in (["calibrate", "r.yaml"], ["sweep", "r.yaml"], ["build", "r.yaml", "--no-report"]):
        result = CliRunner().invoke(main, [*words, "--store", str(tmp_path / "store")])
        assert (result.exit_code, result.stdout) == (1, ""), result.output
        assert "objects of val/labels.json are crowds (iscrowd), so that nothing can be measured" in result.stderr
    result = CliRunner().invoke(
        main, ["evaluate", "replay:found.json", "--set", "images=listing.json", "--truth", str(labels)]
    )
    assert result.exit_code == 1
    assert "are crowds (iscrowd)" in result.stderr
