"""Classes, maps and masks in the store and under the rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.ops import nms as torch_nms

from builder.cut.balance import copies
from builder.errors import BuildError
from builder.label.maps import kept_map, level, read_maps, score
from builder.label.predictions import read_chunk, read_probabilities
from builder.recipe.recipe import load_recipe
from builder.rules.apply import decide
from builder.rules.class_map import ClassMap
from builder.rules.counting import pool_kept, pool_scores
from builder.rules.keep import Keep, version_classes
from builder.rules.labelled import LabelledPool, tally
from builder.rules.objects import Objects, Thresholds
from builder.rules.reasons import DROPPED, IGNORED, KEPT, REASONS
from builder.rules.scores import cell
from builder.scan.pool import Pool
from teachers.base import ClassProbabilities, Detections, SemanticMap, TeacherError
from teachers.masks import decode
from tests.helpers.kinds import CLASSES, KINDS, Says, instances, labelled_by, probabilities, seeded
from tests.helpers.pools import write_images, write_recipe


def answers(pool: Pool, teacher: Says) -> list[Any]:
    pixels = [np.asarray(Image.open(image.uri).convert("RGB")) for image in pool.images()]
    return [teacher.make(image, seeded(image)) for image in pixels]


def at(value: float, classes: int = len(CLASSES), ignore: float = 0.2) -> Thresholds:
    keep = np.full(classes, value, np.float32)
    return Thresholds(keep, np.full(classes, ignore, np.float32))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_teacher_says_is_what_is_read(tmp_path: Path, kind: str) -> None:
    teacher = Says(kind, KINDS[kind])
    pool, folder = labelled_by(tmp_path, teacher)
    said = iter(answers(pool, teacher))
    for chunk in pool.chunks():
        found = read_chunk(folder / chunk.digest)
        stored = read_probabilities(folder / chunk.digest, len(CLASSES)) if kind == "classification" else None
        for n in range(len(chunk)):
            rows, one = found.image == n, next(said)
            if isinstance(one, Detections):
                assert found.rle is not None and tuple(found.rle[rows]) == one.masks
                for name in ("quality", "agree"):
                    assert np.array_equal(getattr(found, name)[rows], getattr(one, name))
                assert found.uncertainty is None and found.pixels is None
            elif isinstance(one, ClassProbabilities):
                best = int(one.probabilities.argmax())
                assert (found.label[rows], found.score[rows]) == ([best], [one.probabilities[best]])
                assert found.boxes[rows].tolist() == [[0, 0, 64, 48]]
                assert stored is not None and np.array_equal(stored[n], one.probabilities.astype(np.float16))
            else:
                with read_maps(folder / chunk.digest) as maps:
                    assert all(np.array_equal(getattr(maps[n], p), getattr(one, p)) for p in ("labels", "confidence"))
                pairs = np.stack([one.labels, one.confidence], axis=-1)[one.labels != 255]
                told, count = np.unique(pairs, axis=0, return_counts=True)
                assert np.array_equal(np.stack([found.label[rows], level(found.score[rows])], axis=1), told)
                assert found.pixels is not None and np.array_equal(found.pixels[rows], count)
                assert np.array_equal(found.score[rows], score(told[:, 1]))


def test_of_many_classes_the_best_hundred_are_stored(tmp_path: Path) -> None:
    classes = tuple(f"class {n}" for n in range(1500))

    def make(image: np.ndarray, rng: np.random.Generator) -> ClassProbabilities:
        return ClassProbabilities(rng.dirichlet(np.full(1500, 0.05)).astype(np.float32))

    teacher = Says("classification", make, classes)
    pool, folder = labelled_by(tmp_path, teacher, images=2)
    (path,) = folder.glob("*/images.parquet")
    assert {"top_label", "top_probability"} < set(pq.read_schema(path).names)
    for stored, said in zip(read_probabilities(path.parent, 1500), answers(pool, teacher), strict=True):
        best = np.argsort(-said.probabilities, kind="stable")[:100]
        assert np.array_equal(stored[best], said.probabilities[best].astype(np.float16))
        assert np.count_nonzero(stored) <= 100


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_that_cannot_be_read_has_a_row_and_nothing_else(tmp_path: Path, kind: str) -> None:
    write_images(tmp_path / "pool", 4)
    (tmp_path / "pool" / "image_00001.jpg").write_bytes(
        (tmp_path / "pool" / "image_00001.jpg").read_bytes()[:400]  # still has its size
    )
    pool, folder = labelled_by(tmp_path, Says(kind, KINDS[kind]), images=0, chunk=4)
    (chunk,) = pool.chunks()
    found = read_chunk(folder / chunk.digest)
    assert found.status == ["ok", "error", "ok", "ok"] and set(found.image.tolist()) == {0, 2, 3}
    if kind == "classification":
        stored = read_probabilities(folder / chunk.digest, len(CLASSES))
        assert np.isnan(stored).all(axis=1).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("kind", "made", "told"),
    [
        ("classification", ClassProbabilities(np.zeros(3, np.float32)), "gave image_00000.jpg 3 probabilities for"),
        ("classification", SemanticMap(*np.zeros((2, 48, 64), np.uint8)), "gives classification labels, but gave"),
        ("semantic", SemanticMap(*np.zeros((2, 64, 48), np.uint8)), "a map of 48x64 pixels, and it has 64x48"),
        ("semantic", SemanticMap(*np.full((2, 48, 64), 4, np.uint8)), "a label outside its 4 classes"),
        ("instance", Detections.of([[0, 0, 9, 9]], [1], [0], width=64, height=48), "boxes without masks"),
        ("detection", ClassProbabilities(np.zeros(4, np.float32)), "gave image_00000.jpg classification"),
    ],
)
def test_a_teacher_that_says_another_thing_than_it_announces_is_a_failure(
    tmp_path: Path, kind: str, made: Any, told: str
) -> None:
    with pytest.raises(TeacherError, match=told):
        labelled_by(tmp_path, Says(kind, lambda image, rng: made))
    assert not list((tmp_path / "store" / "predictions").glob("*/*/images.parquet"))


def test_damaged_maps_are_one_sentence(tmp_path: Path) -> None:
    _, folder = labelled_by(tmp_path, Says("semantic", KINDS["semantic"]), images=2)
    (path,) = folder.glob("*/maps.tar")
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(BuildError, match=r"(cannot be read|is damaged) .*label again"), read_maps(path.parent) as maps:
        maps[1]
    path.unlink()
    with pytest.raises(BuildError, match=r"(cannot be read|is damaged) .*label again"), read_maps(path.parent) as maps:
        maps[1]


NAMES = st.sampled_from(CLASSES)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(NAMES, st.sampled_from(["pet", "cat", "thing"]), max_size=3),
    st.sets(NAMES, max_size=2),
    st.sets(NAMES, max_size=2),
    st.sampled_from([None, "keep", "drop", "ignore"]),
    st.integers(0, 50),
)
def test_a_class_map_is_what_a_teacher_with_other_classes_would_say(
    mapping: dict[str, str], drop: set[str], ignore: set[str], others: Any, seed: int
) -> None:
    drop, ignore = drop - mapping.keys(), ignore - mapping.keys() - drop
    chosen = ClassMap(map=mapping, drop=tuple(drop), ignore=tuple(ignore), others=others)
    nowhere = set(CLASSES) - {*mapping, *mapping.values()}
    out = drop | (nowhere - ignore if others == "drop" else set())
    aside = ignore | (nowhere - drop if others == "ignore" else set())
    if out | aside == set(CLASSES):
        with pytest.raises(BuildError, match="every class of the teacher"):
            chosen.over(CLASSES)
        return
    mapped = chosen.over(CLASSES)
    ours = [mapping.get(name, name) for name in CLASSES if name not in out | aside]
    assert mapped.classes == tuple(dict.fromkeys(ours))
    rng = np.random.default_rng(seed)
    raw, corner = rng.integers(0, 4, 40), rng.random((40, 2)) * 20
    boxes = np.hstack([corner, corner + 20]).astype(np.float32)
    size, name = np.array([[64, 48]] * 3, np.int32), ["a", "b", "c"]
    image, likely = rng.integers(0, 3, 40), rng.random(40).astype(np.float32)
    codes = np.where(mapped.ignored, REASONS.index("class_ignored"), REASONS.index("class_dropped"))
    label = mapped.label[raw]
    objects = Objects(
        *(image, label, likely, boxes, size, name), aside=np.where(label < 0, codes[raw], 0).astype(np.uint8)
    )
    keep = Keep(score=0.5, nms=0.5, max_per_image=4, where=f"class <> '{mapped.classes[0]}'")
    made = decide(objects, keep, at(0.5, len(mapped.classes)), mapped.classes)
    names = np.array(CLASSES)[raw]
    told = np.array(REASONS)[made.reason]
    assert (told == "class_dropped").tolist() == np.isin(names, sorted(out)).tolist()
    assert (told == "class_ignored").tolist() == np.isin(names, sorted(aside)).tolist()
    assert set(made.outcome[told == "class_ignored"]) <= {IGNORED}
    assert set(made.outcome[told == "class_dropped"]) <= {DROPPED}
    rest = np.flatnonzero(label >= 0)
    alone = Objects(image[rest], label[rest], likely[rest], boxes[rest], size, name)
    assert np.array_equal(made.reason[rest], decide(alone, keep, at(0.5, len(mapped.classes)), mapped.classes).reason)


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (
            {"map": {"lorry": "car"}},
            "keep.classes names 'lorry', which is no class of the teacher: its classes are cat",
        ),
        ({"drop": list(CLASSES)}, "drops or ignores every class"),
    ],
)
def test_a_class_map_that_does_not_fit_the_teacher_is_one_sentence(classes: dict[str, Any], told: str) -> None:
    with pytest.raises(BuildError, match=told):
        version_classes(Keep.model_validate({"classes": classes}), Says("detection", instances).description)


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ({"map": {"cat": "pet"}, "drop": ["cat"]}, "class 'cat' stands twice in map, drop and ignore"),
        ({"map": {"cat": " "}}, "class 'cat' becomes a class without a name"),
        (3, "keep.classes = 3: expected a section such as"),
        ({"mop": {}}, "unknown key 'keep.classes.mop'"),
        ({"others": "loose"}, "keep.classes.others = 'loose': must be 'keep', 'drop' or 'ignore'"),
    ],
)
def test_a_class_map_that_is_none_is_one_sentence(tmp_path: Path, classes: Any, told: str) -> None:
    with pytest.raises(BuildError) as caught:
        load_recipe(write_recipe(tmp_path, keep={"classes": classes}))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "keep", "told"),
    [
        ("classification", {"nms": 0.5}, "keep.nms means nothing for the images"),
        ("semantic", {"top_box": 0.9}, "keep.top_box means nothing for the pixels"),
        ("semantic", {"balance": {"images": 3}}, "keep.balance means nothing for the pixels"),
        ("semantic", {"precision": {"target": 0.8, "bound": "exact"}}, "set bound: clustered"),
    ],
)
def test_rules_about_boxes_are_refused_where_there_are_none(kind: str, keep: dict[str, Any], told: str) -> None:
    with pytest.raises(BuildError, match=told):
        version_classes(Keep.model_validate(keep), Says(kind, probabilities).description)


def test_probabilities_of_classes_that_become_one_add_up(tmp_path: Path) -> None:
    teacher = Says("classification", probabilities)
    pool, folder = labelled_by(tmp_path, teacher, images=9)
    keep = Keep.model_validate({"classes": {"map": {"cat": "pet", "dog": "pet"}, "drop": ["car"]}})
    classes = version_classes(keep, teacher.description)
    objects, _ = LabelledPool(pool, folder, classes, keep).load(list(pool.chunks()))
    assert classes == ("pet", "bird") and objects.teacher_label is not None
    for n, said in enumerate(answers(pool, teacher)):
        p = said.probabilities.astype(np.float16).astype(float)
        sums = {"pet": p[0] + p[1], "bird": p[2], "": p[3]}
        best = max(sums, key=lambda name: sums[name])
        assert (objects.label[n], objects.score[n]) == (
            classes.index(best) if best else -1,
            pytest.approx(min(sums[best], 1)),
        )
        assert objects.teacher_label[n] == (p[:2].argmax() if best == "pet" else 2 if best else 3)


@pytest.mark.parametrize("classes", [None, {"map": {"dog": "cat"}, "drop": ["bird"], "ignore": ["car"]}])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_predicted_is_kept_ignored_or_dropped(tmp_path: Path, kind: str, classes: Any) -> None:
    teacher = Says(kind, KINDS[kind])
    pool, folder = labelled_by(tmp_path, teacher)
    keep = Keep.model_validate({"score": 0.5, "classes": classes})
    names = version_classes(keep, teacher.description)
    labelled = LabelledPool(pool, folder, names, keep)
    counted = tally(labelled, at(0.5, len(names)), np.ones(len(names), bool))
    said = answers(pool, teacher)
    predicted = {"classification": len(said), "instance": sum(len(one) for one in said if kind == "instance")}
    if kind == "semantic":
        predicted["semantic"] = sum(int((one.labels != 255).sum()) for one in said)
    assert counted.reasons.sum() == predicted[kind]
    told = dict(zip(REASONS, counted.reasons.tolist(), strict=True))
    set_aside = told["class_ignored"] + told["class_dropped"]
    assert (set_aside > 0) == (classes is not None)
    assert counted.per_class["predicted"].sum() == predicted[kind] - set_aside
    assert counted.per_class["kept"].sum() == told["kept"]
    scores = pool_scores(labelled)
    assert scores.objects.sum(axis=1).tolist() == counted.per_class["predicted"].tolist()
    decimals = np.array([0.1, 0.3, 0.5, 0.9], np.float32)
    (tail,) = scores.tails([range(len(names))], [cell(decimals)])
    for threshold in decimals.tolist():
        kept = tally(labelled, at(threshold, len(names)), np.ones(len(names), bool)).per_class["kept"].sum()
        assert tail.reach(threshold) == kept
    some = pool_kept(labelled, range(len(names)), np.array([0.5], np.float32))[0]
    assert some.sum() == len(said) and (kind == "semantic" or some @ np.arange(len(some)) == told["kept"])


def test_nms_of_masks_goes_by_masks_and_comes_after_the_class_map(tmp_path: Path) -> None:
    teacher = Says("instance", lambda image, rng: instances(image, rng, 25))
    pool, folder = labelled_by(tmp_path, teacher, images=3)
    keep = Keep.model_validate({"nms": 0.3, "score": 0.0, "classes": {"map": dict.fromkeys(CLASSES, "thing")}})
    objects, _ = LabelledPool(pool, folder, ("thing",), keep).load(list(pool.chunks()))
    made = decide(objects, keep, at(0.0, 1), ("thing",))
    differ = 0
    for n, said in enumerate(answers(pool, teacher)):
        pixels = decode(said.masks, 48, 64).reshape(len(said), -1).astype(float)
        both = pixels @ pixels.T
        iou = both / (pixels.sum(1)[:, None] + pixels.sum(1) - both)
        left: list[int] = []
        for row in range(len(said)):
            if all(iou[row, other] <= 0.3 for other in left):
                left.append(row)
        mine = objects.image == n
        assert np.flatnonzero(made.outcome[mine] == KEPT).tolist() == left
        by_box = torch_nms(torch.from_numpy(said.boxes), torch.from_numpy(said.scores), 0.3)
        differ += sorted(by_box.tolist()) != left
    assert differ  # else this would show nothing


def test_where_sees_what_the_teacher_gives(tmp_path: Path) -> None:
    teacher = Says("instance", instances)
    pool, folder = labelled_by(tmp_path, teacher)

    def kept(where: str) -> int:
        keep = Keep(score=0.0, where=where)
        counted = tally(LabelledPool(pool, folder, CLASSES, keep), at(0.0), np.ones(4, bool))
        return int(counted.reasons[0])

    said = answers(pool, teacher)
    assert kept("agree >= 2") == sum(int((one.agree >= 2).sum()) for one in said)
    assert kept("Quality > .5 and mask_area < 90") == sum(
        int(((one.quality > 0.5) & (decode(one.masks, 48, 64).sum((1, 2)) < 90)).sum()) for one in said
    )
    with pytest.raises(BuildError, match="names 'pixels', which this teacher's predictions do not have: remove it"):
        kept("pixels > 3")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_the_map_that_is_taught_holds_what_the_rules_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = KINDS["semantic"](np.zeros((48, 64, 3), np.uint8), rng)
    assert isinstance(found, SemanticMap)
    limit = rng.random(4).astype(np.float32)
    labels, levels = (part.ravel() for part in np.mgrid[:4, :256])
    kept = score(levels) >= limit[labels]
    taught = kept_map(found, labels[kept], levels[kept].astype(np.uint8), (3 - labels[kept]).astype(np.int16))
    there = found.labels != 255
    above = np.zeros(there.shape, bool)
    above[there] = (found.confidence[there] / np.float32(255)) >= limit[found.labels[there]]
    assert np.array_equal(taught, np.where(above, 3 - found.labels, 255))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=300), st.integers(1, 400), st.integers(0, 9))
def test_copies_bring_every_class_to_about_as_many_images(labels: Sequence[int], images: int, seed: int) -> None:
    label, keys = np.array(labels), [f"key-{n}" for n in range(len(labels))]
    made = copies(label, keys, images, seed)
    for one in set(labels):
        count = labels.count(one)
        assert set(made[label == one]) <= {images // count, images // count + 1}
        rest = count * (images / count % 1)
        assert abs(int(made[label == one].sum()) - images) <= 5 * np.sqrt(rest + 1) + 1
    order = np.random.default_rng(seed).permutation(len(labels))
    assert np.array_equal(copies(label[order], [keys[n] for n in order], images, seed), made[order])
