"""Labelling: what a teacher sees, what becomes a row, and what a failing teacher leaves behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from builder import BuildError
from builder.label import ModelLabeller, label
from builder.pool import Pool, scan
from builder.predictions import read_chunk
from builder.replay import Replay
from builder.store import Store
from teachers.base import Detections, TeacherError, TeacherOptions, fingerprint
from tests.pools import tree, write_images, write_results


class Corner:
    """A teacher that boxes the image's left half, scored by its mean pixel, and fails on a nearly white image."""

    classes = ("dark", "light")

    def __init__(self, batch_size: int = 4, wrong: str = "") -> None:
        self.batch_size, self.wrong = batch_size, wrong
        self.description: dict[str, Any] = {
            "kind": "detection",
            "family": "corner",
            "classes": list(self.classes),
            "floor": 0.0,
        }
        self.runtime: dict[str, Any] = {"device": "cpu"}
        self.batches: list[int] = []

    def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
        self.batches.append(len(images))
        if any(image.mean() > 250 for image in images):
            raise TeacherError("out of memory: lower batch_size")
        found = []
        for image in images:
            height, width = image.shape[:2]
            score = image.mean() / 255
            place = 7 if self.wrong == "label" else int(score > 0.5)
            found.append(Detections.of([[0, 0, width / 2, height]], [score], [place], width=width, height=height))
        return found[: 1 if self.wrong == "count" else None]


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    write_images(tmp_path / "pool", 11)
    return scan(str(tmp_path / "pool"), Store(tmp_path / "store"), chunk_size=5)


def run(pool: Pool, store: Path, teacher: Corner, **options: Any) -> Any:
    return label(pool, ModelLabeller(teacher, options.pop("workers", 2)), Store(store), spec="corner", **options)


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_stay_inside_a_chunk_whatever_the_workers(pool: Pool, tmp_path: Path, workers: int) -> None:
    teacher = Corner(batch_size=3)
    done = run(pool, tmp_path / "store", teacher, workers=workers)
    assert teacher.batches == [3, 2, 3, 2, 1]
    assert (done.chunks_labelled, done.images_labelled, done.failures) == (3, 11, ())
    for chunk in pool.chunks():
        found = read_chunk(tmp_path / "store" / "predictions" / done.predictions / chunk.digest)
        for position, image in enumerate(chunk.images):
            mean = np.asarray(Image.open(image.uri).convert("RGB")).mean() / 255
            assert found.score[found.image == position] == pytest.approx([mean], abs=0.01)


def test_predictions_are_parquet_anyone_reads_with_a_row_for_every_image(pool: Pool, tmp_path: Path) -> None:
    done = run(pool, tmp_path / "store", Corner())
    folder = tmp_path / "store" / "predictions" / done.predictions
    assert json.loads((folder / "meta.json").read_text())["description"]["classes"] == ["dark", "light"]
    images = pq.read_table(sorted(folder.glob("*/images.parquet")), partitioning=None).to_pylist()
    assert {row["sha256"] for row in images} == {image.sha256 for image in pool.images}
    objects = pq.read_table(sorted(folder.glob("*/objects.parquet")), partitioning=None)
    assert objects.column_names == ["sha256", "label", "score", "x1", "y1", "x2", "y2"]
    assert set(objects["sha256"].to_pylist()) == {image.sha256 for image in pool.images}


def test_a_failing_teacher_is_a_failure_and_what_was_done_stays(tmp_path: Path) -> None:
    write_images(tmp_path / "pool", 10)
    Image.new("RGB", (64, 48), "white").save(tmp_path / "pool" / "image_00007x.png")
    store = Store(tmp_path / "store")
    pool = scan(str(tmp_path / "pool"), store, chunk_size=5)
    with pytest.raises(TeacherError, match="failed on chunk 1: out of memory"):
        run(pool, tmp_path / "store", Corner())
    folder = store.predictions / fingerprint(Corner().description)
    assert [(folder / chunk.digest).is_dir() for chunk in pool.chunks()] == [True, False, False]
    before = tree(folder)
    (tmp_path / "pool" / "image_00007x.png").unlink()  # gone before it was labelled: a row of its own kind
    done = run(scan(str(tmp_path / "pool"), store, chunk_size=5), tmp_path / "store", Corner())
    assert (done.chunks_labelled, done.failures) == (2, ())
    assert before.items() <= tree(folder).items()


@pytest.mark.parametrize(
    ("wrong", "message"), [("count", "1 results for 4 images"), ("label", "outside its 2 classes")]
)
def test_a_teacher_that_answers_nonsense_is_a_failure(pool: Pool, tmp_path: Path, wrong: str, message: str) -> None:
    with pytest.raises(TeacherError, match=message):
        run(pool, tmp_path / "store", Corner(wrong=wrong))
    assert not list((tmp_path / "store" / "predictions").glob("*/*/images.parquet"))


def test_unreadable_images_are_rows_and_can_be_tried_again(pool: Pool, tmp_path: Path) -> None:
    victim = tmp_path / "pool" / "image_00003.jpg"
    original = victim.read_bytes()
    victim.unlink()
    done = run(pool, tmp_path / "store", Corner())
    assert done.failures == ("image_00003.jpg: No such file or directory",)
    victim.write_bytes(original[:-1] + b"x")
    assert "changed since it was scanned" in run(pool, tmp_path / "store", Corner(), retry_failures=True).failures[0]
    victim.write_bytes(original)
    assert run(pool, tmp_path / "store", Corner()).images_labelled == 0
    again = run(pool, tmp_path / "store", Corner(), retry_failures=True)
    assert (again.images_labelled, again.failures) == (5, ())


BROKEN = [
    ("results.json", "[{]", "is not JSON"),
    (
        "results.json",
        '[{"image_id": 99, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}]',
        "result 0 has image_id 99",
    ),
    (
        "results.json",
        '[{"image_id": 10, "category_id": 4, "bbox": [1, 2, 3, 4], "score": 0.5}]',
        "result 0 has category_id 4",
    ),
    ("results.json", '[{"image_id": 10, "category_id": 3, "bbox": [1, 2, 3], "score": 0.5}]', "needs four numbers"),
    ("results.json", '[{"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 4]}]', "has no 'score'"),
    ("listing.json", '{"images": []}', "no COCO JSON with images and categories"),
]


@pytest.mark.parametrize(("file", "content", "message"), BROKEN)
def test_results_that_do_not_fit_say_where(tmp_path: Path, file: str, content: str, message: str) -> None:
    results, listing = write_results(tmp_path, ["a.jpg"])
    (tmp_path / file).write_text(content)
    with pytest.raises(BuildError, match=message):
        Replay(results, listing, TeacherOptions())


def test_replay_fails_for_images_that_the_results_do_not_list(pool: Pool, tmp_path: Path) -> None:
    results, listing = write_results(tmp_path, [f"other/folder/image_{n:05d}.jpg" for n in range(10)])
    done = label(pool, Replay(results, listing, TeacherOptions()), Store(tmp_path / "store"), spec="replay")
    assert done.failures == ("image_00010.jpg: not among the images of listing.json",)
