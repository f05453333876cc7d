"""Whatever stands in a label file: it is read, or refused in a sentence."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.truth.read import read_truth
from builder.truth.records import Truth, TruthError
from tests.helpers.labels import save, voc
from tests.helpers.mutated import mutated

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 20, "height": 10}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 12.0, "iscrowd": 0}],
    "categories": [{"id": 3, "name": "cat"}],
}
OUTLINE = {"segmentation": {"size": [10, 20], "counts": [10, 5, 185]}}
OUTLINED = COCO | {"annotations": [{**COCO["annotations"][0], **OUTLINE}]}  # type: ignore[dict-item]
FILES = {
    "coco": ("labels.json", json.dumps(COCO), "labels.json"),
    "outlines": ("labels.json", json.dumps(OUTLINED), "labels.json"),
    "voc": ("Annotations/a.xml", voc(("cat", (1, 2, 5, 8))), "."),
    "yolo": ("a.txt", "0 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.2 0.1 0.3 0.4 0.1 0.2\n", "."),
    "data.yaml": ("data.yaml", "path: .\nval: images\nnames: {0: cat, 1: dog}\nkpt_shape: [3, 2]\n", "data.yaml"),
    "obj.data": ("obj.data", "classes = 1\nnames = obj.names\nvalid = val.txt\n", "obj.data"),
    "obj.names": ("obj.names", "cat\ndog\n", "obj.data"),
    "list": ("val.txt", "a.jpg\n", "obj.data"),
    "table": ("labels.csv", 'file,class\n"a.jpg",cat\n', "labels.csv"),
}
"""Format -> the file that is changed, what is in it, and what is read."""


@pytest.mark.parametrize("format", FILES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_file_is_read_or_refused(format: str, tmp_path: Path, data: st.DataObject) -> None:
    """60 inputs of each of nine files."""
    name, content, source = FILES[format]
    if not (tmp_path / "images").exists():
        (tmp_path / "Annotations").mkdir()
        save(tmp_path / "images" / "a.jpg")
        save(tmp_path / "a.jpg")
        (tmp_path / "a.txt").write_text("0 0.5 0.5 0.25 0.5\n")
        (tmp_path / "val.txt").write_text("a.jpg\n")
        (tmp_path / "obj.names").write_text("cat\n")
        (tmp_path / "obj.data").write_text("classes = 1\nnames = obj.names\nvalid = val.txt\n")
    (tmp_path / name).write_bytes(data.draw(mutated(content.encode())))
    kind = {"voc": "voc", "table": "classes"}.get(format, "coco" if name == "labels.json" else "yolo")
    with warnings.catch_warnings(), suppress(TruthError):
        warnings.simplefilter("ignore")
        assert isinstance(read_truth(tmp_path / source, format=kind, outlines=format == "outlines"), Truth)  # type: ignore[arg-type]
