"""Joint batches: pure in the step, the same for any workers and processes, exact to the pixel."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from builder.errors import BuildError
from builder.store.version import Version
from builder.truth.coco import read_coco
from builder.truth.records import Truth, TruthError, read_pixels
from students.augment.scene import FIT, Augment
from students.data.loader import Batch, JointBatches
from students.data.streams import LoaderError
from students.evaluate.boxes import evaluate_boxes
from tests.helpers.rectangles import COLOURS, RectangleFinder, extent, write_rectangles, write_version

VERSION_CLASSES = ["blue", "red", "green"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return read_coco(write_rectangles(tmp_path_factory.mktemp("labelled"), 5))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return read_coco(write_rectangles(tmp_path_factory.mktemp("pool"), 7, seed=1))


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory, pool: Truth) -> Path:
    return write_version(tmp_path_factory.mktemp("version"), pool, VERSION_CLASSES)


def assert_equal(first: Batch, second: Batch) -> None:
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.pseudo, second.pseudo)
    assert len(first.targets) == len(second.targets)
    for a, b in zip(first.targets, second.targets, strict=True):
        assert torch.equal(a.boxes, b.boxes)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.ignore, b.ignore)


def scene_number(pixels: torch.Tensor) -> int:
    """Which scene this is, of one that was not scaled: its last pixel (rectangles.py)."""
    return int(pixels[0, 47, 63])


def test_shapes_types_and_halves(labelled: Truth, version: Path) -> None:
    batch = JointBatches(labelled, [version], size=96, batch_size=6)[0]
    assert batch.images.shape == (6, 3, 96, 96)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous()
    assert batch.pseudo.tolist() == [False] * 3 + [True] * 3
    for target in batch.targets:
        assert (target.boxes.dtype, target.labels.dtype, target.ignore.dtype) == (
            torch.float32,
            torch.int64,
            torch.float32,
        )
        assert target.boxes.shape == (len(target.labels), 4)
        assert target.ignore.shape[1:] == (4,)
    assert_equal(batch.to(torch.device("cpu")), batch)
    human = JointBatches(labelled, size=96, batch_size=3)[0]
    assert human.pseudo.tolist() == [False] * 3


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_same_batches_for_any_number_of_workers_and_after_a_resume(
    labelled: Truth, version: Path, workers: int
) -> None:
    batches = JointBatches(labelled, [version], size=64, batch_size=4, seed=3)
    streamed = list(batches.stream(2, 9, workers=workers))
    assert len(streamed) == 7
    for step, batch in enumerate(streamed, start=2):
        assert_equal(batch, batches[step])
    assert not torch.equal(streamed[0].images, streamed[1].images)
    other = JointBatches(labelled, [version], size=64, batch_size=4, seed=4)
    assert not torch.equal(other[2].images, batches[2].images)


def test_workers_leave_the_models_random_state_alone(labelled: Truth) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    stream = JointBatches(labelled, size=64, batch_size=2).stream(0, 4, workers=1)
    next(stream)
    stream.close()
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_share_out_what_one_would_draw(labelled: Truth, version: Path) -> None:
    whole = JointBatches(labelled, [version], size=64, batch_size=8)
    parts = [JointBatches(labelled, [version], size=64, batch_size=4, rank=rank, world=2) for rank in range(2)]
    for step in range(3):
        first, second = (part[step].images for part in parts)
        together = torch.cat([first[:2], second[:2], first[2:], second[2:]])
        assert torch.equal(together, whole[step].images)


def test_every_epoch_shows_each_image_once_in_a_new_order(labelled: Truth, pool: Truth, version: Path) -> None:
    batches = JointBatches(labelled, [version], size=64, batch_size=6, augment=FIT)
    human: list[int] = []
    pseudo: list[int] = []
    for batch in batches.stream(0, 35):  # 105 of each: 21 epochs of 5, 15 of 7
        human += (scene_number(image) for image in batch.images[:3])
        pseudo += (scene_number(image) for image in batch.images[3:])
    for seen, length in ((human, 5), (pseudo, 7)):
        epochs = [tuple(seen[i : i + length]) for i in range(0, len(seen), length)]
        assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
        assert len(set(epochs)) > len(epochs) // 2


def test_human_targets_are_the_truth_and_crowds_are_ignored(labelled: Truth) -> None:
    crowded = [replace(image, crowd=np.arange(len(image.boxes)) == 1) for image in labelled.images]
    batches = JointBatches(replace(labelled, images=crowded), size=64, batch_size=5, augment=FIT, fill=(1, 2, 3))
    batch = batches[0]
    assert sorted(map(scene_number, batch.images)) == list(range(5))
    for pixels, target in zip(batch.images, batch.targets, strict=True):
        image = labelled.images[scene_number(pixels)]
        np.testing.assert_array_equal(pixels[:, :48].permute(1, 2, 0).numpy(), read_pixels(image))
        assert (pixels[:, 48:] == torch.tensor([1, 2, 3])[:, None, None]).all()
        np.testing.assert_array_equal(target.boxes.numpy(), np.delete(image.boxes, slice(1, 2), axis=0))
        np.testing.assert_array_equal(target.labels.numpy(), np.delete(image.labels, slice(1, 2)))
        np.testing.assert_array_equal(target.ignore.numpy(), image.boxes[1:2])


def test_pseudo_targets_have_the_labelled_sets_classes_and_ignore_regions(
    labelled: Truth, pool: Truth, version: Path
) -> None:
    batches = JointBatches(labelled, [version], size=64, batch_size=14, augment=FIT)
    assert batches.classes == tuple(COLOURS)
    seen = Counter[int]()
    batch = batches[0]
    for pixels, target in zip(batch.images[7:], batch.targets[7:], strict=True):
        image = pool.images[scene_number(pixels)]
        canvas = pixels.permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(target.boxes.numpy(), image.boxes[::2])
        np.testing.assert_array_equal(target.ignore.numpy(), image.boxes[1::2])
        for box, label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
            assert extent(canvas, list(COLOURS.values())[label], tolerance=0) == box
            seen[label] += 1
    assert seen == {0: 6, 2: 6}  # red and blue; each green one is the second object of its image, thus ignored


def test_two_versions_are_one_stream(labelled: Truth, pool: Truth, version: Path, tmp_path: Path) -> None:
    more = write_version(tmp_path, labelled, ["green", "blue", "red"])
    batch = JointBatches(labelled, [version, more], size=64, batch_size=24, augment=FIT)[0]
    for pixels, target in zip(batch.images[12:], batch.targets[12:], strict=True):
        canvas = pixels.permute(1, 2, 0).numpy()
        for box, label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
            assert extent(canvas, list(COLOURS.values())[label], tolerance=0) == box
    numbers = Counter(map(scene_number, batch.images[12:]))
    assert numbers == Counter(range(7)) + Counter(range(5))


def test_what_a_crop_leaves_too_little_of_is_ignored_not_background(tmp_path: Path) -> None:
    """A 64x64 image at twice its size in a window of 64: a box beyond the window vanishes, a sliver is ignored."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    boxes = [[4.0 * i, 4.0 * j, 4.0, 4.0] for i in range(16) for j in range(16)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    truth = read_coco(tmp_path / "labels.json")
    batches = JointBatches(truth, size=64, batch_size=1, augment=Augment(jitter=(2.0, 2.0), flip=0.0))
    slivers = 0
    for step in range(30):
        target = batches[step].targets[0]
        for box in target.boxes.tolist():
            assert min(box[2] - box[0], box[3] - box[1]) >= 1
            assert (box[2] - box[0]) * (box[3] - box[1]) >= 0.1 * 8 * 8
        for box in target.ignore.tolist():
            width, height = box[2] - box[0], box[3] - box[1]
            assert width * height > 0
            assert width < 1 or height < 1 or width * height < 0.1 * 8 * 8
            slivers += 1
        everything = torch.cat([target.boxes, target.ignore])
        sides = everything[:, 2:] - everything[:, :2]
        assert sides.prod(dim=1).sum() == pytest.approx(64 * 64)  # the boxes tile the image: nothing in sight is lost
    assert slivers > 20


def test_objects_thinner_than_a_pixel_are_ignored(labelled: Truth) -> None:
    boxes = np.array([[0, 0, 60, 1.0], [0, 9, 60, 9.9], [5, 0, 5.9, 40]], np.float32)
    columns = {"labels": np.array([2, 1, 0], np.int16), "crowd": np.zeros(3, bool), "area": np.ones(3, np.float32)}
    thin = replace(labelled, images=[replace(labelled.images[0], boxes=boxes, **columns)])
    target = JointBatches(thin, size=64, batch_size=1, augment=FIT)[0].targets[0]
    np.testing.assert_array_equal(target.boxes.numpy(), boxes[:1])
    assert target.labels.tolist() == [2]
    np.testing.assert_array_equal(target.ignore.numpy(), boxes[1:])


def test_data_that_cannot_be_trained_on_is_refused(labelled: Truth, version: Path, tmp_path: Path) -> None:
    with pytest.raises(LoaderError, match="no images"):
        JointBatches(replace(labelled, images=[]), size=64, batch_size=2)
    with pytest.raises(LoaderError, match="batch_size 3"):
        JointBatches(labelled, [version], size=64, batch_size=3)
    with pytest.raises(LoaderError, match="scenes@v1 has class 'blue'"):
        JointBatches(replace(labelled, classes=("red", "green", "cyan")), [version], size=64, batch_size=2)
    masks = write_version(tmp_path / "masks", labelled, VERSION_CLASSES, kind="semantic")
    with pytest.raises(LoaderError, match="semantic labels"):
        JointBatches(labelled, [masks], size=64, batch_size=2)
    none = write_version(tmp_path / "none", replace(labelled, images=[]), VERSION_CLASSES)
    with pytest.raises(LoaderError, match="holds no images"):
        JointBatches(labelled, [none], size=64, batch_size=2)
    with pytest.raises(BuildError, match=r"no manifest\.json"):
        JointBatches(labelled, [tmp_path], size=64, batch_size=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"truth": "labels.json"}, "truth 'labels.json' is no labelled set: give what read_truth returns"),
        ({"versions": "x"}, "versions is a list of folders or of open versions, not 'x': put it into a list"),
        ({"versions": None}, "versions is a list of folders or of open versions, not None: put it into a list"),
        ({"versions": ["street@v1"]}, "open a version by its name with open_version('street@v1', store)"),
        ({"versions": ["hf://org/street@v1"]}, "open_version('hf://org/street@v1', store)"),
        ({"versions": [Path("gone")]}, "gone is no folder"),
        ({"versions": [7]}, "7 is no version: give its folder, or what open_version returns"),
        ({"task": "detection"}, "task 'detection' is no Task: give students.tasks.choose.task_of('fcos')"),
        ({"augment": "S4"}, "augment 'S4' is no Augment: give S1, S2, S3 or S4 of students.augment.scene"),
        ({"augment": None}, "augment None is no Augment"),
        *(({"size": size}, f"size {size!r} is out of range") for size in (0, -64, 64.0, "64", None, True)),
        *(({"batch_size": size}, f"batch_size {size!r} is out of range") for size in (0, -2, 2.0, "2")),
        ({"rank": 1}, "rank 1 is not below world 1"),
        ({"rank": -1, "world": 2}, "rank -1 is out of range: give a whole number of at least 0"),
        ({"world": 0}, "world 0 is out of range: give a whole number of at least 1"),
        ({"seed": -1}, "seed -1 is out of range"),
    ],
    ids=str,
)
def test_arguments_that_are_wrong_are_named(labelled: Truth, options: dict[str, Any], words: str) -> None:
    with pytest.raises(LoaderError) as error:
        JointBatches(**{"truth": labelled, "size": 64, "batch_size": 2, **options})
    assert words in str(error.value) and "\n" not in str(error.value)


def test_versions_are_folders_in_any_form_or_open(labelled: Truth, version: Path) -> None:
    opened = Version.open(version)
    batches = [JointBatches(labelled, [form], size=64, batch_size=2) for form in (version, str(version), opened)]
    for other in batches[1:]:
        assert_equal(other[0], batches[0][0])
    with pytest.raises(LoaderError, match="not scenes@v1: put it into a list"):
        JointBatches(labelled, opened, size=64, batch_size=2)  # type: ignore[arg-type]


def test_steps_are_counted_from_0_without_end(labelled: Truth) -> None:
    batches = JointBatches(labelled, size=64, batch_size=2)
    for step, batch in enumerate(islice(batches, 4)):  # more than an epoch
        assert_equal(batch, batches[np.int64(step)])
    for wrong, kind in ((-1, IndexError), ("a", TypeError), (1.0, TypeError), (slice(2), TypeError), (None, TypeError)):
        with pytest.raises(kind, match=r"^(step -1 is negative|a step is a whole number)"):
            batches[wrong]  # type: ignore[index]
    for start, stop in ((-1, 3), ("a", 3), (0, None)):
        with pytest.raises(LoaderError, match="is out of range: give a whole number"):
            list(batches.stream(start, stop))  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_of_another_size_is_named_in_one_sentence(labelled: Truth, workers: int) -> None:
    wrong = replace(labelled, images=[replace(labelled.images[0], width=48, height=64)])
    with pytest.raises(TruthError, match="64x48 upright, but its labels were made for 48x64") as error:
        list(JointBatches(wrong, size=64, batch_size=2).stream(0, 3, workers=workers))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"path": "truncated"}, "cannot be used: not an image"), ({"width": 63}, "has not the size its label states")],
)
def test_a_damaged_sample_of_a_version_is_named(
    labelled: Truth, tmp_path: Path, change: dict[str, str | int], words: str
) -> None:
    if "path" in change:
        (tmp_path / "truncated").write_bytes(b"no image")
        change = {"path": tmp_path / "truncated"}  # type: ignore[dict-item]
    broken = replace(labelled, images=[replace(labelled.images[0], **change)])  # type: ignore[arg-type]
    folder = write_version(tmp_path / "version", broken, VERSION_CLASSES)
    with pytest.raises(LoaderError, match=f"image scene-0 {words}"):
        JointBatches(labelled, [folder], size=64, batch_size=2)[0]


def test_evaluate_runs_a_teacher_over_the_images(labelled: Truth) -> None:
    done: list[int] = []
    teacher = RectangleFinder(("hue", "blue", "green", "red"), batch_size=2)
    metrics, detections = evaluate_boxes(teacher, labelled, progress=done.append)
    assert metrics["AP"] == pytest.approx(1)
    assert done == [2, 2, 1]
    for image, found in zip(labelled.images, detections, strict=True):
        order = np.argsort(found.labels)
        np.testing.assert_array_equal(found.labels[order], np.sort(image.labels))
        np.testing.assert_array_equal(found.boxes[order], image.boxes[np.argsort(image.labels)])
    assert evaluate_boxes(teacher, labelled, batch_size=5, progress=done.append)[0] == metrics
    assert done[3:] == [5]


def test_evaluate_counts_classes_the_teacher_lacks_as_missed(labelled: Truth) -> None:
    metrics, _ = evaluate_boxes(RectangleFinder(("red",)), labelled)
    assert metrics["per_class"] == pytest.approx({"red": 1, "green": 0, "blue": 0})
    with pytest.raises(TruthError, match="share no class name"):
        evaluate_boxes(RectangleFinder(("hue",)), labelled)
    gone = replace(labelled, images=[*labelled.images, replace(labelled.images[0], path=Path("gone.png"), image_id=1)])
    with pytest.raises(TruthError, match=r"gone\.png"):
        evaluate_boxes(RectangleFinder(("red",)), gone)
    assert evaluate_boxes(RectangleFinder(("red",)), replace(labelled, images=[]))[1] == []
