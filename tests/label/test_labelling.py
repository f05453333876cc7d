"""Labelling: what a teacher sees, what becomes a row, and what a failing teacher leaves behind."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from builder.cli.main import main
from builder.errors import BuildError
from builder.label.labelling import label_pool, pending_chunks
from builder.label.model import ModelLabeller
from builder.label.predictions import read_chunk, write_chunk
from builder.label.profile import PARTS, Profile
from builder.label.replay.replay import Replay
from builder.scan.pool import Pool
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from builder.store.sums import SUMS
from teachers.base import Detections, TeacherError, TeacherOptions, fingerprint
from teachers.stages import Stages
from tests.helpers.pools import tree, write_images, write_recipe, write_results


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
    return scan_pool(str(tmp_path / "pool"), Store(tmp_path / "store"), chunk_size=5)


def run(pool: Pool, store: Path, teacher: Corner, **options: Any) -> Any:
    return label_pool(pool, ModelLabeller(teacher, options.pop("workers", 2)), Store(store), spec="corner", **options)


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
    assert {row["sha256"] for row in images} == {image.sha256 for image in pool.images()}
    objects = pq.read_table(sorted(folder.glob("*/objects.parquet")), partitioning=None)
    assert objects.column_names == ["sha256", "label", "score", "x1", "y1", "x2", "y2"]
    assert set(objects["sha256"].to_pylist()) == {image.sha256 for image in pool.images()}


def test_a_failing_teacher_is_a_failure_and_what_was_done_stays(tmp_path: Path) -> None:
    write_images(tmp_path / "pool", 10)
    Image.new("RGB", (64, 48), "white").save(tmp_path / "pool" / "image_00007x.png")
    store = Store(tmp_path / "store")
    pool = scan_pool(str(tmp_path / "pool"), store, chunk_size=5)
    with pytest.raises(TeacherError, match="failed on chunk 1: out of memory"):
        run(pool, tmp_path / "store", Corner())
    folder = store.predictions / fingerprint(Corner().description)
    assert [(folder / chunk.digest).is_dir() for chunk in pool.chunks()] == [True, False, False]
    before = tree(folder)
    (tmp_path / "pool" / "image_00007x.png").unlink()  # gone before it was labelled: a row of its own kind
    done = run(scan_pool(str(tmp_path / "pool"), store, chunk_size=5), tmp_path / "store", Corner())
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


class Staged(Corner):
    """The same in three parts, each of which notes its thread."""

    def __init__(self) -> None:
        super().__init__(batch_size=3)
        self.threads: dict[str, set[int]] = {"prepare": set(), "run": set(), "finish": set()}
        self.stages = Stages(partial(self._part, "prepare"), partial(self._part, "run"), self._finish)

    def _part(self, part: str, given: Any) -> Any:
        self.threads[part].add(get_ident())
        return given

    def _finish(self, images: Any) -> list[Detections]:
        return super().predict(self._part("finish", images))


def test_a_teacher_in_parts_gives_the_same_bytes(pool: Pool, tmp_path: Path) -> None:
    whole, staged = run(pool, tmp_path / "whole", Corner(batch_size=3)), Staged()
    profile = Profile(2)
    labeller = ModelLabeller(staged, 2, profile=profile)
    done = label_pool(pool, labeller, Store(tmp_path / "parts"), spec="corner", profile=profile)
    before, after = (tree(tmp_path / name / "predictions" / done.predictions) for name in ("whole", "parts"))
    assert whole == done and {n: v for n, v in before.items() if n != "meta.json"}.items() <= after.items()
    assert staged.batches == [3, 2, 3, 2, 1]
    assert staged.threads["run"] == {get_ident()} and get_ident() not in staged.threads["prepare"]
    assert len(staged.threads["finish"]) == 1 and get_ident() not in staged.threads["finish"]
    value = profile.describe()
    assert (value["images"], list(value["parts"])) == (11, list(PARTS)) and value["reading"]
    assert all(took["seconds"] >= 0 for took in value["parts"].values()) and profile.total > 0
    label_pool(pool, labeller, Store(tmp_path / "parts"), spec="corner", profile=profile)
    assert profile.images == 11  # nothing was left to do


def test_a_chunk_that_cannot_be_written_ends_the_run_and_those_before_stay(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, chunk: Any, results: Any) -> None:
        if chunk.index == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_chunk(folder, chunk, results)

    with monkeypatch.context() as patch:
        patch.setattr("builder.label.labelling.write_chunk", full)
        with pytest.raises(OSError, match="No space left"):
            run(pool, tmp_path / "store", Corner())
    folder = tmp_path / "store" / "predictions" / fingerprint(Corner().description)
    there = [(folder / chunk.digest).is_dir() for chunk in pool.chunks()]
    assert there[:2] == [True, False]  # the one behind it may be written at the same time
    assert run(pool, tmp_path / "store", Corner()).chunks_labelled == 3 - sum(there)


@pytest.mark.parametrize("after", [1, 2, 4, 6])
def test_what_is_complete_when_people_stop_it_is_kept(pool: Pool, tmp_path: Path, after: int) -> None:
    class Stopped(Corner):
        def predict(self, images: Sequence[np.ndarray]) -> list[Detections]:
            if len(self.batches) == after:
                raise KeyboardInterrupt
            return super().predict(images)

    with pytest.raises(KeyboardInterrupt) as stop:
        run(pool, tmp_path / "store", Stopped(batch_size=2))  # batches of 2, 2, 1, 2, 2, 1, 1
    folder = tmp_path / "store" / "predictions" / fingerprint(Corner().description)
    kept = sum((folder / chunk.digest).is_dir() for chunk in pool.chunks())
    assert stop.value.__notes__ == [f"{kept} of 3 chunks were labelled and are kept"]
    assert kept in (after // 3, max(0, after // 3 - 1))  # of the last complete one the results may still be read
    assert run(pool, tmp_path / "store", Corner()).chunks_labelled == 3 - kept


def test_a_profile_is_printed_beside_the_result(tmp_path: Path) -> None:
    write_results(tmp_path, write_images(tmp_path / "pool", 5))
    store = str(tmp_path / "store")
    arguments = ["build", str(write_recipe(tmp_path)), "--only", "label", "--store", store, "--json"]
    ended = CliRunner().invoke(main, [*arguments, "--profile"])
    value = json.loads(ended.stdout)["profile"]
    assert ended.exit_code == 0 and value["images"] == 5 and set(value["parts"]) == set(PARTS)
    printed = ended.stderr.splitlines()
    assert printed[0].startswith("5 images in ") and printed[-1] == value["reading"]
    assert [line.split()[0] for line in printed[1:-1]] == list(PARTS)
    assert "profile" not in json.loads(CliRunner().invoke(main, arguments).stdout)


LISTED = {"id": 10, "file_name": "a.jpg", "width": 64, "height": 48}
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
    ("results.json", '[{"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 55}]', "a score in 0..1"),
    ("listing.json", json.dumps({"images": [LISTED, LISTED], "categories": []}), "image id 10 stands 2 times"),
    (
        "listing.json",
        json.dumps({"images": [LISTED, LISTED | {"file_name": "b.jpg"}], "categories": []}),
        "image id 10 stands 2 times",
    ),
    (
        "listing.json",
        json.dumps({"images": [LISTED], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}),
        "two categories",
    ),
    (
        "results.json",
        '[{"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 4]}]',
        "no COCO detection .KeyError..score",
    ),
    ("listing.json", '{"images": []}', "lacks the key .categories."),
]


@pytest.mark.parametrize(("file", "content", "message"), BROKEN)
def test_results_that_do_not_fit_say_where(tmp_path: Path, file: str, content: str, message: str) -> None:
    results, listing = write_results(tmp_path, ["a.jpg"])
    (tmp_path / file).write_text(content)
    with pytest.raises(BuildError, match=message):
        Replay(results, listing, TeacherOptions())


def replayed(tmp_path: Path, names: list[str], *, listed: list[str] | None = None, **options: Any) -> Any:
    """A pool of such images, labelled by a replay of results for `listed`."""
    write_images(tmp_path / "made", len(names))
    for n, name in enumerate(names):
        (tmp_path / "pool" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "made" / f"image_{n:05d}.jpg", tmp_path / "pool" / name)
    replay = Replay(*write_results(tmp_path, listed or names, **options), TeacherOptions())
    store = Store(tmp_path / "store")
    return label_pool(scan_pool(str(tmp_path / "pool"), store), replay, store, spec="replay")


def test_replay_finds_images_below_the_one_folder_of_its_listing(tmp_path: Path) -> None:
    done = replayed(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], listed=["data/val/a.jpg", "data/val/b.jpg"])
    assert done.failures == ("c.jpg: not among the images of listing.json",)


def test_replay_never_gives_an_image_the_boxes_of_a_namesake(tmp_path: Path) -> None:
    done = replayed(tmp_path, ["train/a.jpg", "val/a.jpg"], listed=["val/a.jpg"])
    assert done.failures == ("train/a.jpg: not among the images of listing.json",)


def test_replay_fails_for_images_of_another_size_or_that_are_broken(tmp_path: Path) -> None:
    assert "is 64x48, but 640x480" in replayed(tmp_path, ["a.jpg"], size=(640, 480)).failures[0]
    photo = tmp_path / "pool" / "a.jpg"
    photo.write_bytes(photo.read_bytes()[:-300])
    replay = Replay(*write_results(tmp_path, ["a.jpg"]), TeacherOptions())
    store = Store(tmp_path / "store")
    (failure,) = label_pool(scan_pool(str(tmp_path / "pool"), store), replay, store, spec="replay").failures
    assert "is damaged (Premature end of JPEG file)" in failure


def test_an_image_that_comes_back_is_labelled(pool: Pool, tmp_path: Path) -> None:
    victim = tmp_path / "pool" / "image_00003.jpg"
    victim.rename(tmp_path / "aside.jpg")
    store = Store(tmp_path / "store")
    assert run(scan_pool(str(tmp_path / "pool"), store, chunk_size=5), tmp_path / "store", Corner()).failures == ()
    (tmp_path / "aside.jpg").rename(victim)
    done = run(scan_pool(str(tmp_path / "pool"), store, chunk_size=5), tmp_path / "store", Corner())
    assert (done.chunks_labelled, done.failures) == (1, ())


def test_damaged_predictions_are_a_sentence(pool: Pool, tmp_path: Path) -> None:
    done = run(pool, tmp_path / "store", Corner())
    next((tmp_path / "store" / "predictions" / done.predictions).glob("*/images.parquet")).write_bytes(b"PAR1")
    with pytest.raises(BuildError, match="is damaged"):
        run(pool, tmp_path / "store", Corner())


def test_only_the_first_reasons_are_told_and_all_failures_counted(tmp_path: Path) -> None:
    names = write_images(tmp_path / "pool", 60)
    store = Store(tmp_path / "store")
    pool = scan_pool(str(tmp_path / "pool"), store, chunk_size=7)
    for name in names[1::2]:
        (tmp_path / "pool" / name).unlink()
    done = run(pool, tmp_path / "store", Corner())
    assert (len(done.failures), done.failed, done.failure_rate) == (20, 30, 0.5)
    assert done.failures == tuple(f"{name}: No such file or directory" for name in names[1:40:2])
    assert run(pool, tmp_path / "store", Corner()) == replace(done, chunks_labelled=0, images_labelled=0)


def test_pending_chunks_are_numbers_of_chunks(pool: Pool, tmp_path: Path) -> None:
    store, teacher = Store(tmp_path / "store"), ModelLabeller(Corner())
    assert pending_chunks(pool, teacher, store) == [0, 1, 2]
    done = run(pool, tmp_path / "store", Corner())
    shutil.rmtree(store.predictions / done.predictions / pool.index[1].digest)
    assert pending_chunks(pool, teacher, store) == [1]
    again = run(pool, tmp_path / "store", Corner())
    assert (again.chunks_labelled, again.images_labelled) == (1, 5)


def test_some_columns_of_predictions_can_be_read(pool: Pool, tmp_path: Path) -> None:
    done = run(pool, tmp_path / "store", Corner())
    folder = tmp_path / "store" / "predictions" / done.predictions / pool.index[0].digest
    whole, part = read_chunk(folder), read_chunk(folder, ("label", "score"))
    for name in ("image", "label", "score"):
        assert np.array_equal(getattr(whole, name), getattr(part, name))
    assert whole.boxes.any() and not part.boxes.any() and part.boxes.shape == whole.boxes.shape
    assert whole.uncertainty is None
    (folder / SUMS).unlink()  # as of a store from before there were any
    table = pq.read_table(folder / "objects.parquet", partitioning=None)
    uncertainty = np.linspace(0, 1, table.num_rows, dtype=np.float32)
    pq.write_table(table.append_column("uncertainty", [uncertainty]), folder / "objects.parquet")
    assert np.array_equal(read_chunk(folder).uncertainty, uncertainty)
    pq.write_table(table.drop_columns(["x1"]), folder / "objects.parquet")
    with pytest.raises(BuildError, match="no column x1"):
        read_chunk(folder)
