"""Whatever stands in a file of stored predictions: it is read, or refused in a sentence."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import BuildError
from builder.label.replay.formats import read_stored
from teachers.base import TeacherOptions
from tests.helpers.mutated import mutated
from tests.helpers.replayed import (
    HEIGHT,
    NAMES,
    WIDTH,
    detection,
    region,
    sample,
    task,
    write_coco,
    write_samples,
    write_tasks,
    write_yolo,
)

RECORD = {"image_id": 0, "category_id": 7, "bbox": [1, 2, 30, 20], "score": 0.5}
OUTLINE = {"size": [HEIGHT, WIDTH], "counts": [100, 20, HEIGHT * WIDTH - 120]}
POLYGON = region("polygonlabels", value={"points": [[1, 1], [50, 1], [50, 50]]})
Write = Callable[[Path], tuple[Path, Path, Path | None]]


def coco(**changes: object) -> Write:
    def write(folder: Path) -> tuple[Path, Path, Path | None]:
        results, listing = write_coco(folder, [RECORD | changes])
        return results, results, listing

    return write


def listing(folder: Path) -> tuple[Path, Path, Path | None]:
    results, images = write_coco(folder, [RECORD])
    return images, results, images


def tasks(*regions: object) -> Write:
    def write(folder: Path) -> tuple[Path, Path, Path | None]:
        file = write_tasks(folder, *(task(name, *regions) for name in NAMES))  # type: ignore[arg-type]
        return file, file, None

    return write


def samples(folder: Path) -> tuple[Path, Path, Path | None]:
    export = write_samples(folder, *(sample(name, detection(), metadata={"width": 80, "height": 60}) for name in NAMES))
    return export / "samples.json", export, None


def yolo(folder: Path) -> tuple[Path, Path, Path | None]:
    return write_yolo(folder / "out", {"a.txt": "0 0.5 0.5 0.25 0.5 0.75\n"}) / "a.txt", folder / "out", None


def table(folder: Path) -> tuple[Path, Path, Path | None]:
    (folder / "p.csv").write_text("name,cat,dog\na.jpg,0.25,0.75\n")
    return folder / "p.csv", folder / "p.csv", None


FORMATS: dict[str, Write] = {
    "coco": coco(),
    "coco masks": coco(segmentation=OUTLINE),
    "listing": listing,
    "tasks": tasks(region()),
    "polygons": tasks(POLYGON),
    "samples": samples,
    "yolo": yolo,
    "csv": table,
}
"""Format -> what writes it: the file that is changed, the results and the images that are read."""


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_file_is_read_or_refused(format: str, tmp_path: Path, data: st.DataObject) -> None:
    """60 inputs of each of eight files."""
    file, results, images = FORMATS[format](tmp_path)
    file.write_bytes(data.draw(mutated(file.read_bytes())))
    with warnings.catch_warnings(), suppress(BuildError):
        warnings.simplefilter("ignore")
        stored = read_stored(results, images, TeacherOptions())
        for name, size in stored.sizes.items():
            stored.read(name, *(size or (WIDTH, HEIGHT)))


def test_a_corner_that_no_image_has_is_refused(tmp_path: Path) -> None:
    """Found by the test above: a float32 cannot hold it."""
    file, results, images = FORMATS["samples"](tmp_path)
    content = json.loads(file.read_text())
    content["samples"][1]["predictions"]["detections"][0]["bounding_box"][0] = 4e36
    file.write_text(json.dumps(content))
    with pytest.raises(BuildError, match=r"b\.jpg has a box with a corner at 4e\+36, where no image is"):
        read_stored(results, images, TeacherOptions())
