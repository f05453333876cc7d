"""Every kind of label from stored predictions to a version that others read, and back."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from builder.cli.main import main
from builder.cut.basis import Basis
from builder.cut.parent import find_parent
from builder.cut.version import Cut, cut_version
from builder.errors import BuildError
from builder.export.as_truth import version_truth
from builder.export.export import export_version
from builder.label.labelling import label_pool
from builder.label.maps import read_maps
from builder.label.model import ModelLabeller
from builder.recipe.recipe import load_recipe
from builder.report.borderline import closest, crops
from builder.report.pictures import contact_sheet, draw_image
from builder.rules.overrides import Override
from builder.scan.pool import Pool
from builder.scan.scanner import scan_pool
from builder.store.keys import is_copy, original
from builder.store.shards import read_samples, write_shard
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.read import read_truth
from builder.versions.changes import Changes
from builder.versions.diff import diff
from builder.versions.explain import explain
from builder.versions.health import bad_shards
from builder.versions.repair import repair
from builder.versions.verify import problems
from teachers.base import ClassProbabilities, Detections, Prediction, SemanticMap
from teachers.masks import decode, encode
from tests.helpers.kinds import CLASSES, SIZE, Says, boxes, instances, probabilities, seeded, semantic
from tests.helpers.outlines import crossings
from tests.helpers.pools import tree, write_images, write_recipe
from tests.helpers.sealing import seal

SAYS: dict[str, Callable[[np.ndarray, np.random.Generator], Prediction]] = {
    "detection": boxes,
    "instance": instances,
    "semantic": semantic,
    "classification": probabilities,
}
KINDS = list(SAYS)


def made(
    folder: Path, kind: str, images: int = 9, keep: dict[str, Any] | None = None, name: str = "pets", **more: Any
) -> Cut:
    """A version of this kind, through a real store."""
    store = Store(folder / "store")
    if images:
        write_images(folder / "pool", images, size=SIZE)
    pool = scan_pool(str(folder / "pool"), store, chunk_size=3)
    report = more.pop("report", False)
    return cut_of(
        store, pool, Says(kind, SAYS[kind]), folder, keep or {"score": 0.5, "ignore": 0.3}, name, report, more
    )


def cut_of(
    store: Store, pool: Pool, teacher: Says, folder: Path, keep: Any, name: str, report: bool, more: dict[str, Any]
) -> Cut:
    done = label_pool(pool, ModelLabeller(teacher, 2), store, spec="says")
    sections = {key: more.pop(key) for key in ("images", "shards") if key in more}
    recipe = load_recipe(write_recipe(folder, keep=keep, name=name, **sections))
    basis = Basis(pool, store.predictions / done.predictions, recipe, "says", **more)
    return cut_version(basis, store, name=name, workers=2, report=report)


def opened(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def samples(done: Cut) -> dict[str, dict[str, bytes]]:
    """Members of each sample by its key."""
    return {
        s.key: {e: m.read() for e, m in s.members.items()}
        for shard in done.manifest.shards
        for path in [done.folder / "data" / shard.name]
        for s in read_samples(path)
    }


@pytest.fixture(scope="module", params=KINDS)
def version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cut:
    return made(tmp_path_factory.mktemp(request.param), request.param, report=True)


def test_a_version_of_every_kind_is_whole_and_the_same_again(version: Cut, tmp_path: Path) -> None:
    assert problems(version) == []
    manifest = version.manifest
    counts = {name: sum(of[name] for of in manifest.per_class.values()) for name in ("predicted", "kept", "ignored")}
    assert counts == {"predicted": manifest.objects["predicted"], "kept": manifest.kept, "ignored": manifest.ignored}
    table = pq.read_table(version.folder / "labels.parquet").to_pylist()
    told = Counter[str]()
    for row in table:
        told[row["outcome"]] += row.get("pixels", 1)
    assert (told["kept"], told["ignored"]) == (manifest.kept, manifest.ignored) and manifest.kept > 0
    again = made(tmp_path, manifest.kind, report=True)
    assert tree(again.folder) == tree(version.folder)


def test_webdataset_and_datasets_read_what_was_written(version: Cut, tmp_path: Path) -> None:
    manifest, written = version.manifest, samples(version)
    rows = datasets.load_dataset(str(version.folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == manifest.stored == len(written)
    head = yaml.safe_load((version.folder / "README.md").read_text().split("---\n")[1])
    assert head["dataset_info"]["splits"][0]["num_examples"] == len(rows)
    for row in rows:
        members = written[row["__key__"]]
        said = orjson.loads(members["json"])
        assert np.array_equal(np.asarray(row["jpg"]), opened(members["jpg"]))
        assert row["json"].keys() == said.keys()
        if manifest.kind == "semantic":
            plane = opened(members["seg.png"])
            assert plane.dtype == np.uint8 and np.array_equal(np.asarray(row["seg.png"]), plane)
            assert row["json"]["pixels"] == said["pixels"]
        elif manifest.kind == "classification":
            assert row["cls"] == int(members["cls"]) == said["label"] == row["json"]["label"]
            assert row["json"]["probabilities"] == pytest.approx(said["probabilities"])
        else:
            assert row["json"]["objects"]["category"] == said["objects"]["category"]
    feature = rows.features["json"]
    names = feature["objects"]["category"].feature.names if "objects" in feature else None
    names = names or (rows.features["cls"].names if manifest.kind == "classification" else list(CLASSES))
    assert names == list(CLASSES)
    first = version.folder / "data" / manifest.shards[0].name
    read = list(webdataset.WebDataset(str(first), shardshuffle=False).decode())
    assert [one["__key__"] for one in read] == [s.key for s in read_samples(first)]
    if manifest.kind == "classification":
        assert [one["cls"] for one in read] == [one["json"]["label"] for one in read]


def test_what_is_taught_is_what_the_teacher_said_above_the_thresholds(version: Cut) -> None:
    written, store = samples(version), version.folder.parents[2]
    (predictions,) = (store / "predictions").iterdir()
    chunks = [folder for folder in predictions.iterdir() if folder.is_dir()]
    by_sha = {}
    for folder in chunks:
        for n, sha in enumerate(pq.read_table(folder / "images.parquet")["sha256"].to_pylist()):
            by_sha[sha] = folder, n
    for members in written.values():
        said = orjson.loads(members["json"])
        folder, n = by_sha[said["sha256"]]
        if version.manifest.kind == "semantic":
            with read_maps(folder) as maps:
                found = maps[n]
            expected = np.where(found.confidence / np.float32(255) >= np.float32(0.5), found.labels, 255)
            assert np.array_equal(opened(members["seg.png"]), expected)
        elif version.manifest.kind == "classification":
            stored = pq.read_table(folder / "images.parquet")["probabilities"][n].as_py()
            assert said["probabilities"] == pytest.approx(stored) and said["label"] == int(np.argmax(stored))
            assert said["score"] >= 0.5 and members["cls"] == str(said["label"]).encode()
        elif version.manifest.kind == "instance":
            objects = said["objects"]
            planes = decode([code.encode() for code in objects["segmentation"]], said["height"], said["width"])
            assert objects["area"] == planes.sum((1, 2)).tolist()
            for plane, (x, y, w, h) in zip(planes, objects["bbox"], strict=True):
                rows, columns = np.nonzero(plane)
                assert (x, y, x + w, y + h) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_exports_are_read_back_as_human_labels(version: Cut, tmp_path: Path) -> None:
    manifest, written = version.manifest, samples(version)
    format = {"semantic": "masks", "classification": "classes"}.get(manifest.kind, "coco")
    done = export_version(version, tmp_path / "out", format)  # type: ignore[arg-type]
    assert (done.images, done.kept) == (manifest.distinct, manifest.kept)
    truth = read_truth(tmp_path / "out", format=format, outlines=manifest.kind == "instance")  # type: ignore[arg-type]
    assert len(truth.images) == manifest.distinct and set(truth.classes) <= set(CLASSES)
    labels = {Path(orjson.loads(m["json"])["name"]).stem: orjson.loads(m["json"]) for m in written.values()}
    for image in truth.images:
        said = labels[Path(image.name).stem]
        if image.mask:
            assert np.array_equal(opened(image.mask.read_bytes()), opened(written[said["key"]]["seg.png"]))
        elif image.label is not None:
            assert truth.classes[image.label] == CLASSES[said["label"]]
        elif image.masks is not None:
            assert [code.decode() for code in image.masks] == said["objects"]["segmentation"]
    if manifest.kind == "instance":  # the oracle
        judge = COCO(tmp_path / "out" / "annotations.json")
        for note in judge.loadAnns(judge.getAnnIds()):
            assert judge.annToRLE(note)["counts"].encode() in encode(
                decode([note["segmentation"]["counts"].encode()], 48, 64)
            )
    wrong = "yolo" if format in ("masks", "classes") else "masks"
    with pytest.raises(BuildError, match=f"cannot be exported to {wrong}: give the format {format}"):
        export_version(version, tmp_path / "other", wrong)  # type: ignore[arg-type]


def test_a_version_can_be_evaluated_on(version: Cut) -> None:
    store = Store(version.folder.parents[2])
    truth = version_truth(version, store)
    assert len(truth.images) == version.manifest.distinct and truth.classes == CLASSES
    assert truth.kind == ("detection" if version.manifest.kind == "instance" else version.manifest.kind)
    if truth.kind == "semantic":
        assert all(image.mask and image.mask.is_file() for image in truth.images)


def test_masks_are_yolos_polygons(tmp_path: Path) -> None:
    """Filled by the even-odd rule they are the kept masks again, in labels and, with scores, in predictions."""
    done = made(tmp_path, "instance")
    shares = export_version(done, tmp_path / "out", "yolo")
    assert (shares.kept, shares.painted + shares.covered) == (done.manifest.kept, done.manifest.ignored)
    for members in samples(done).values():
        said = orjson.loads(members["json"])
        objects, sides = said["objects"], np.array([said["width"], said["height"]])
        kept = [n for n, ignored in enumerate(objects["ignore"]) if not ignored]
        planes = decode([objects["segmentation"][n].encode() for n in kept], said["height"], said["width"])
        for folder in ("labels", "predictions"):
            lines = (tmp_path / "out" / folder / f"{Path(said['name']).stem}.txt").read_text().splitlines()
            for line, n, plane in zip(lines, kept, planes, strict=True):
                label, *numbers = line.split()
                if folder == "predictions":
                    assert float(numbers.pop()) == pytest.approx(objects["score"][n], abs=1e-6)
                corners = np.array(numbers, float).reshape(-1, 2) * sides
                assert int(label) == objects["category"][n] and corners == pytest.approx(np.rint(corners), abs=1e-4)
                assert np.array_equal(crossings(np.rint(corners).astype(int), plane.shape), plane)
    words = [str(done.folder), str(tmp_path / "voc"), "--format", "voc", "--store", str(tmp_path / "store")]
    assert "voc holds only the boxes of masks" in CliRunner().invoke(main, ["export", *words]).stderr


def test_pictures_and_pages_of_every_kind(version: Cut, tmp_path: Path) -> None:
    contact_sheet(version, tmp_path / "sheet.png")
    key = next(iter(samples(version)))
    draw_image(version, key, tmp_path / "one.png")
    assert all(opened((tmp_path / name).read_bytes()).shape[1] >= 320 for name in ("sheet.png", "one.png"))
    noun = {"detection": "boxes", "instance": "masks", "semantic": "pixels", "classification": "images"}
    page = (version.folder / "report" / "index.html").read_text()
    text = (version.folder / "README.md").read_text()
    assert f"{noun[version.manifest.kind]} kept" in page and f"{noun[version.manifest.kind]} are kept" in text
    if version.manifest.kind in ("semantic", "classification"):
        assert "boxes" not in page and "boxes" not in text and "IoU" not in text


def test_a_borderline_mask_is_shown_where_it_is(tmp_path: Path) -> None:
    """Against the same crop with a box: far from the box's sides only the mask's own half is painted."""
    plane = np.zeros((1, 48, 64), bool)
    plane[0, 4:44, 10:50] = np.tri(40, dtype=bool)  # below the diagonal
    found = Detections.of([[10, 4, 50, 44]], [0.6], [0], width=64, height=48, masks=encode(plane))
    write_images(tmp_path / "pool", 1, size=SIZE)
    store = Store(tmp_path / "store")
    pool, teacher = scan_pool(str(tmp_path / "pool"), store), Says("instance", lambda image, rng: found)
    done = cut_of(store, pool, teacher, tmp_path, {"score": 0.5}, "pets", False, {})
    (close,) = closest(done)
    shown, boxed = (opened(crops(done, [one])[0] or b"").astype(int) for one in (close, replace(close, rle=b"")))
    painted = np.abs(shown - boxed).max(axis=2)[60:180, 60:180] > 40
    y, x = np.mgrid[:120, :120]
    assert painted[x < y - 20].mean() > 0.5 and not painted[x > y + 20].any()


def test_every_label_is_explained(version: Cut) -> None:
    store = Store(version.folder.parents[2])
    key = next(iter(samples(version)))
    found = explain(version, key, store)
    assert found.state == "written" and found.objects
    said = CliRunner().invoke(main, ["explain", str(version.folder), key, "--store", str(store.root)]).output
    assert (" at x " in said) == (version.manifest.kind in ("detection", "instance"))
    for one in found.objects:
        assert "threshold 0.5" in one.why
    if version.manifest.kind == "semantic":
        below = [one for one in found.objects if one.reason == "below_threshold"]
        assert all(f"{one.pixels} of" in one.why and one.why.endswith("void") for one in below) and below


def damage(members: list[tuple[str, bytes]], what: str) -> list[tuple[str, bytes]]:
    found = dict(members)
    said = json.loads(found["json"])
    match what:
        case "pixels":
            plane = opened(found["seg.png"])
            plane[0, 0] = 255 if plane[0, 0] != 255 else 0
            found["seg.png"] = png(plane)
        case "moved pixels":  # the same counts, so only the hash of the shard can tell
            said["pixels"]["kept"][0] += 1
        case "size":
            found["seg.png"] = png(np.zeros((4, 4), np.uint8))
        case "cls":
            found["cls"] = b"3" if said["label"] != 3 else b"0"
        case "label":
            said["label"] = (said["label"] + 1) % 4
            found["cls"] = str(said["label"]).encode()
        case "soft":
            said["probabilities"][said["label"]] = 0.0
        case "mask":
            said["objects"]["segmentation"][0] = encode(np.ones((1, 3, 3), bool))[0].decode()
        case "other mask":
            full = np.ones((1, 48, 64), bool)
            said["objects"]["segmentation"][0], said["objects"]["area"][0] = encode(full)[0].decode(), 48.0 * 64
    found["json"] = orjson.dumps(said)
    return list(found.items())


def png(plane: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(plane).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "what", "told"),
    [
        ("semantic", "pixels", "its map does not hold the kept pixels of its label"),
        ("semantic", "moved pixels", "its map does not hold the kept pixels"),
        ("semantic", "size", "not 8-bit and of the image's size"),
        ("classification", "cls", "its cls is b'"),
        ("classification", "label", "the objects of 1 images are not those of"),
        ("classification", "soft", "its score is not its highest probability"),
        ("instance", "mask", "a mask is not of the image's size"),
        ("instance", "other mask", "the objects of 1 images are not those of"),
    ],
)
def test_a_wrong_label_is_found_and_built_again(tmp_path: Path, kind: str, what: str, told: str) -> None:
    done = made(tmp_path, kind, images=3)
    before = tree(done.folder)
    path = done.folder / "data" / done.manifest.shards[0].name
    held = [(s.key, [(e, m.read()) for e, m in s.members.items()]) for s in read_samples(path)]
    place = next(
        n for n, (_, m) in enumerate(held) if '"segmentation":[""' not in m[1][1].decode() and b"[]" not in m[1][1]
    )
    held[place] = held[place][0], damage(held[place][1], what)
    path.unlink()
    write_shard(path, held)
    manifest = (done.folder / "manifest.json").read_bytes()
    seal(done.folder)
    found = problems(Version.open(done.folder))
    assert any(told in problem.what for problem in found), found
    (done.folder / "manifest.json").write_bytes(manifest)
    repair(done, Store(tmp_path / "store"), bad_shards(problems(done)), 1)
    assert tree(done.folder) == before and not problems(done)


@pytest.mark.parametrize("kind", KINDS)
def test_removed_images_stay_and_new_ones_come_at_the_end(tmp_path: Path, kind: str) -> None:
    keep = {"balance": {"images": 8, "min": 0.3}} if kind == "classification" else None
    first = made(tmp_path, kind, images=6, keep=keep, shards={"max_images": 3})
    (tmp_path / "pool" / "image_00001.jpg").unlink()
    write_images(tmp_path / "pool", 2, start=20, size=SIZE)
    store = Store(tmp_path / "store")
    parent = find_parent("pets@v1", store)
    second = made(tmp_path, kind, images=0, keep=keep, parent=parent, shards={"max_images": 3})
    assert problems(second) == [] and second.manifest.images["tombstone"] == 1
    old = {shard.name: shard.sha256 for shard in first.manifest.shards}
    new = {shard.name: shard.sha256 for shard in second.manifest.shards}
    assert old.items() <= new.items() and len(new) > len(old)
    gone = second.manifest.tombstones
    assert {original(key) for key in gone} == {key for key in gone if not is_copy(key)} and len(gone) >= 1
    changes = diff(first, second)
    assert changes.images["removed"] == 1 and changes.images["added"] >= 1 and changes.images["changed"] == 0
    shutil.rmtree(second.folder / "data")
    repair(second, store, bad_shards(problems(second)), 1)
    assert problems(second) == []


@pytest.mark.parametrize("kind", KINDS)
def test_diff_counts_what_a_threshold_changes(tmp_path: Path, kind: str) -> None:
    a = made(tmp_path, kind, keep={"score": 0.4, "ignore": None})
    b = made(tmp_path, kind, images=0, keep={"score": 0.6, "ignore": None})
    assert diff(a, a).empty
    found = diff(a, b)
    assert found.total.removed == a.manifest.kept - b.manifest.kept > 0 and found.total.added == 0
    assert diff(b, a) == found.mirrored()
    if kind == "semantic":
        before, now = samples(a), samples(b)
        key, changes = next(iter(found.most_changed.items()))
        planes = [opened(side[key]["seg.png"]) for side in (before, now)]
        assert changes == Changes(removed=int((planes[0] != planes[1]).sum()))


def test_masks_are_told_apart_where_boxes_are_equal(tmp_path: Path) -> None:
    def half(top: bool) -> Callable[[np.ndarray, np.random.Generator], Prediction]:
        plane = np.zeros((1, 48, 64), bool)
        plane[0, 4:44, 10] = plane[0, 4:44, 50] = plane[0, 4, 10:50] = plane[0, 43, 10:50] = True
        plane[0, 4 : 24 if top else 44, 10:51] = True
        found = Detections.of([[10, 4, 51, 44]], [0.9], [0], width=64, height=48, masks=encode(plane))
        return lambda image, rng: found

    write_images(tmp_path / "pool", 2, size=SIZE)
    store = Store(tmp_path / "store")
    pool = scan_pool(str(tmp_path / "pool"), store, chunk_size=3)
    sides = [
        cut_of(
            store, pool, Says("instance", half(top), (*CLASSES[:3], str(top))), tmp_path, {"score": 0.5}, n, False, {}
        )
        for top, n in ((True, "a"), (False, "b"))
    ]
    found = diff(sides[0], sides[1])
    assert found.total == Changes(moved=2) and found.mirrored() == diff(sides[1], sides[0])


def test_classes_are_balanced_by_copies(tmp_path: Path) -> None:
    def uneven(image: np.ndarray, rng: np.random.Generator) -> Prediction:
        found = np.full(4, 0.03, np.float32)
        found[rng.choice(4, p=[0.75, 0.15, 0.1, 0])] = 0.91
        return ClassProbabilities(found)

    write_images(tmp_path / "pool", 30, size=SIZE)
    store = Store(tmp_path / "store")
    pool = scan_pool(str(tmp_path / "pool"), store, chunk_size=8)
    keep = {"balance": {"images": 9, "min": 0.3}}
    done = cut_of(store, pool, Says("classification", uneven), tmp_path, keep, "pets", False, {})
    assert problems(done) == []
    written = samples(done)
    counts = Counter(orjson.loads(m["json"])["label"] for m in written.values())
    kept = [done.manifest.per_class[name]["kept"] for name in CLASSES]
    assert all(abs(counts[n] - 9) <= 3 for n in range(4) if kept[n])
    assert done.manifest.objects["thinned"] > 0 and done.manifest.kept < 30 == done.manifest.images["pool"]
    assert done.manifest.distinct == len({original(key) for key in written}) < len(written) == done.manifest.samples
    for key, members in written.items():
        said, first = (orjson.loads(one["json"]) for one in (members, written[original(key)]))
        assert said == first | {"key": key, "copy": int(key.rpartition("-r")[2]) if is_copy(key) else 0}
    thinned = next(
        row for row in pq.read_table(done.folder / "labels.parquet").to_pylist() if row["reason"] == "thinned"
    )
    found = explain(done, thinned["key"], Store(tmp_path / "store"))
    assert found.state == "empty" and "9 images that keep.balance asks for" in found.objects[0].why


def test_what_only_some_teachers_say_is_a_column_where_they_do(version: Cut) -> None:
    names = pq.read_schema(version.folder / "labels.parquet").names
    more = {"instance": ["rle", "quality", "agree"], "semantic": ["pixels"]}.get(version.manifest.kind, [])
    assert names[11:] == more


def test_quality_and_uncertainty_are_the_teachers(tmp_path: Path) -> None:
    """Each object's own, whatever became of it; what people drew has none."""

    def make(image: np.ndarray, rng: np.random.Generator) -> Detections:
        found = instances(image, rng)
        return replace(found, uncertainty=rng.random(len(found.scores)).astype(np.float32))

    write_images(tmp_path / "pool", 4, size=SIZE)
    store = Store(tmp_path / "store")
    pool, teacher = scan_pool(str(tmp_path / "pool"), store, chunk_size=3), Says("instance", make)
    keep = {"score": 0.3, "uncertainty": 0.5}
    first = cut_of(store, pool, teacher, tmp_path, keep, "pets", False, {})
    told = pq.read_table(first.folder / "labels.parquet").to_pylist()
    for path in sorted((tmp_path / "pool").iterdir()):
        found = make(opened(path.read_bytes()), seeded(opened(path.read_bytes())))
        own = {row["rle"]: row for row in told if row["key"].startswith(path.stem)}
        for code, quality, uncertainty in zip(found.masks or (), found.quality, found.uncertainty, strict=True):
            assert (own[code]["quality"], own[code]["uncertainty"]) == (quality, uncertainty)
    sure = next(row for row in told if row["reason"] == "uncertain")
    why = next(o.why for o in explain(first, sure["key"], store).objects if o.score == sure["score"])
    assert f"its box uncertainty of {sure['uncertainty']:.4g} is above 0.5" in why
    sha256 = orjson.loads(next(iter(samples(first).values()))["json"])["sha256"]
    drawn = Override(sha256, (1.0, 1.0, 5.0, 5.0), "add", "bird", (1.0, 1.0, 5.0, 5.0), "ann")
    second = cut_of(store, pool, teacher, tmp_path, keep, "pets", False, {"overrides": (drawn,)})
    (row,) = (r for r in pq.read_table(second.folder / "labels.parquet").to_pylist() if r["reason"] == "added")
    assert row["quality"] is None and row["uncertainty"] is None and problems(second) == []


def test_a_suppressed_mask_is_explained_by_masks(tmp_path: Path) -> None:
    """Two halves of a frame have one box and nothing in common; the third is nearly the first."""
    planes = np.zeros((3, 48, 64), bool)
    for plane, corner in zip(planes, (0, 1, 0), strict=True):
        plane[4:44, 10:50] = np.tri(40, dtype=bool) if corner == 0 else ~np.tri(40, dtype=bool)
    planes[2, 4:44, 10] = False
    found = Detections.of([[10, 4, 50, 44]] * 3, [0.9, 0.8, 0.7], [0] * 3, width=64, height=48, masks=encode(planes))
    write_images(tmp_path / "pool", 1, size=SIZE)
    store = Store(tmp_path / "store")
    pool = scan_pool(str(tmp_path / "pool"), store, chunk_size=3)
    teacher = Says("instance", lambda image, rng: found)
    done = cut_of(store, pool, teacher, tmp_path, {"score": 0.5, "nms": 0.5}, "pets", False, {})
    one, other, gone = explain(done, next(iter(samples(done))), store).objects
    assert (one.reason, other.reason, gone.reason) == ("kept", "kept", "nms")
    share = (planes[0] & planes[2]).sum() / (planes[0] | planes[2]).sum()
    assert gone.why.endswith(f"the one with score 0.9, by IoU {share:.2f}") and "another mask" in gone.why


def test_people_change_classes(tmp_path: Path) -> None:
    first = made(tmp_path, "classification", keep={"score": 0.4})
    written = samples(first)
    said = [orjson.loads(m["json"]) for m in written.values()][:3]
    whole = (0.0, 0.0, 64.0, 48.0)
    other = CLASSES[(said[1]["label"] + 1) % 4]
    overrides = (
        Override(said[0]["sha256"], whole, "accept", CLASSES[said[0]["label"]], None, "ann"),
        Override(said[1]["sha256"], whole, "relabel", other, None, "ann", CLASSES[said[1]["label"]]),
        Override(said[2]["sha256"], whole, "reject", CLASSES[said[2]["label"]], None, "ann"),
    )
    second = made(tmp_path, "classification", images=0, keep={"score": 0.4}, overrides=overrides)
    assert problems(second) == []
    now = {key: orjson.loads(m["json"]) for key, m in samples(second).items()}
    assert said[2]["key"] not in now and now[said[0]["key"]]["source"] == "human"
    assert now[said[0]["key"]]["probabilities"] == said[0]["probabilities"]
    relabelled = now[said[1]["key"]]
    assert CLASSES[relabelled["label"]] == other and max(relabelled["probabilities"]) == 1 == sum(
        relabelled["probabilities"]
    )
    assert second.manifest.provenance.overrides.applied == 3
    with pytest.raises(BuildError, match="say nothing of a map's pixels"):
        made(tmp_path, "semantic", images=0, overrides=overrides)


def test_a_box_that_people_draw_teaches_no_mask(tmp_path: Path) -> None:
    first = made(tmp_path, "instance")
    said = orjson.loads(next(iter(samples(first).values()))["json"])
    drawn = Override(said["sha256"], (1.0, 1.0, 5.0, 5.0), "add", "bird", (1.0, 1.0, 5.0, 5.0), "ann")
    second = made(tmp_path, "instance", images=0, overrides=(drawn,))
    assert problems(second) == []
    objects = orjson.loads(samples(second)[said["key"]]["json"])["objects"]
    (place,) = (n for n, source in enumerate(objects["source"]) if source == "human")
    assert objects["ignore"][place] and not objects["segmentation"][place] and objects["bbox"][place] == [1, 1, 4, 4]
    assert diff(first, second).total == Changes(added=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_map_makes_the_versions_classes(tmp_path: Path, kind: str) -> None:
    keep = {
        "score": 0.3,
        "ignore": None,
        "classes": {"map": {"cat": "pet", "dog": "pet"}, "ignore": ["bird"], "drop": ["car"]},
    }
    done = made(tmp_path, kind, keep=keep, report=True)
    assert done.manifest.classes == ["pet"] and problems(done) == []
    table = pq.read_table(done.folder / "labels.parquet")
    reasons = Counter(table["reason"].to_pylist())
    assert reasons["class_ignored"] and reasons["class_dropped"]
    theirs = {row["teacher_label"] for row in table.to_pylist() if row["reason"] == "class_dropped"}
    assert theirs == {3} and pa.types.is_int16(table.schema.field("teacher_label").type)
    row = next(row for row in table.to_pylist() if row["reason"] == "class_ignored")
    found = explain(done, row["key"], Store(tmp_path / "store"))
    assert any(one.label == "(bird)" and "ignored the teacher's class bird" in one.why for one in found.objects)
    contact_sheet(done, tmp_path / "sheet.png")


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), keep=st.floats(0, 1), classes=st.integers(1, 255))
def test_a_map_and_its_sums_always_agree(
    tmp_path_factory: pytest.TempPathFactory, seed: int, keep: float, classes: int
) -> None:
    def anything(image: np.ndarray, rng: np.random.Generator) -> Prediction:
        rng = np.random.default_rng(seed)
        labels = rng.choice([*range(classes), 255], image.shape[:2]).astype(np.uint8)
        return SemanticMap(labels, rng.integers(0, 256, labels.shape, dtype=np.uint8))

    folder = tmp_path_factory.mktemp("maps")
    write_images(folder / "pool", 2, size=(16, 24))
    store = Store(folder / "store")
    pool = scan_pool(str(folder / "pool"), store, chunk_size=1)
    teacher = Says("semantic", anything, tuple(f"c{n}" for n in range(classes)))
    done = cut_of(store, pool, teacher, folder, {"score": keep, "ignore": None}, "pets", False, {})
    assert problems(done) == []


def test_of_many_classes_the_likeliest_are_told(tmp_path: Path) -> None:
    def make(image: np.ndarray, rng: np.random.Generator) -> Prediction:
        found = rng.dirichlet(np.full(1200, 0.01)).astype(np.float32)
        return ClassProbabilities(found)

    write_images(tmp_path / "pool", 3, size=SIZE)
    store = Store(tmp_path / "store")
    pool = scan_pool(str(tmp_path / "pool"), store, chunk_size=2)
    teacher = Says("classification", make, tuple(f"c{n}" for n in range(1200)))
    done = cut_of(store, pool, teacher, tmp_path, {"score": 0.01}, "pets", False, {})
    assert problems(done) == []
    for members in samples(done).values():
        said = orjson.loads(members["json"])
        assert said["top_label"][0] == said["label"] and len(said["top_probability"]) == 100
    rows = datasets.load_dataset(str(done.folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows[0]["json"]["top_label"][0] == rows[0]["cls"]
