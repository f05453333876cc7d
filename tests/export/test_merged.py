"""A version and human labels as one YOLO data set that trains at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from builder.cli.main import main
from builder.errors import BuildError
from builder.export.export import Exported, export_version
from builder.store.files import sha256_file
from builder.store.manifest import Manifest, version_id, write_manifest
from builder.store.shards import ShardRecord, write_shard
from builder.store.version import Version
from builder.truth.read import read_truth

W, H = 64, 48
SHEEP, WOLF = "sheep", "wolf"


def write_image(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rough = np.random.default_rng(seed).integers(0, 255, (H // 8, W // 8, 3), dtype=np.uint8)
    Image.fromarray(rough).resize((W, H)).save(path)
    return path


def write_version(folder: Path, images: Sequence[Path], classes: Sequence[str]) -> Version:
    """A version of these images, each with a kept box of every class."""
    samples = []
    for number, path in enumerate(images):
        boxes = [[4.0 + 20 * n, 8.0, 12.0, 16.0] for n in range(len(classes))]
        objects = {"bbox": boxes, "area": [192.0] * len(boxes), "category": list(range(len(classes)))}
        objects |= {"score": [0.9] * len(boxes)}
        objects |= {"ignore": [False] * len(boxes), "source": ["teacher"] * len(boxes)}
        label = {"key": f"k-{number:012d}", "name": path.name, "sha256": sha256_file(path), "width": W, "height": H}
        label |= {"reencoded": "none", "objects": objects}
        samples.append((label["key"], [("png", path.read_bytes()), ("json", json.dumps(label).encode())]))
    shard = write_shard(folder / "data" / "train-000000.tar", samples)
    record = ShardRecord(name="train-000000.tar", bytes=shard.bytes, sha256=shard.sha256, samples=shard.samples, kept=0, ignored=0)  # fmt: skip
    write_manifest(folder, Manifest(
        name="meadow", version="v1", kind="detection", classes=list(classes), features=["png", "json"],
        shards=[record], images={}, objects={}, per_class={}, files={}, provenance={},
        id=version_id(list(classes), ["png", "json"], [record.sha256], []),
    ))  # fmt: skip
    return Version.open(folder)


def write_coco(path: Path, images: Sequence[Path], names: Sequence[str], crowd: bool = False) -> Path:
    """Labels with one box of the last class on each image; with a crowd region beside it."""
    notes: list[dict[str, Any]] = []
    for number, _ in enumerate(images, 1):
        boxes = [([10, 10, 20, 20], 0), *([([40, 5, 16, 16], 1)] if crowd else [])]
        for bbox, flag in boxes:
            notes.append({"id": len(notes) + 1, "image_id": number, "category_id": 70 + len(names), "bbox": bbox,
                          "area": bbox[2] * bbox[3], "iscrowd": flag})  # fmt: skip
    listed = [{"id": n, "file_name": image.name, "width": W, "height": H} for n, image in enumerate(images, 1)]
    categories = [{"id": 71 + n, "name": name} for n, name in enumerate(names)]
    path.write_text(json.dumps({"images": listed, "annotations": notes, "categories": categories}))
    return path


def world(folder: Path, classes: Sequence[str] = (SHEEP, WOLF)) -> Version:
    pool = [write_image(folder / "pool" / f"{n}.png", n) for n in range(4)]
    return write_version(folder / "version", pool, classes)


def test_human_labels_in_coco_stand_beside_pseudo_labels(tmp_path: Path) -> None:
    version = world(tmp_path)
    labelled = [write_image(tmp_path / "human" / f"{n}.png", 100 + n) for n in range(3)]
    val = [write_image(tmp_path / "val" / f"{n}.png", 200 + n) for n in range(2)]
    shutil.copy(tmp_path / "pool" / "0.png", labelled[0])  # is in both
    shutil.copy(tmp_path / "pool" / "1.png", val[1])  # a leak
    train = write_coco(tmp_path / "human" / "train.json", labelled, ["bear", WOLF], crowd=True)
    measured = write_coco(tmp_path / "val" / "val.json", val, [WOLF], crowd=True)
    told: list[str] = []
    done = export_version(version, tmp_path / "out", "yolo", labels=train, val=measured, note=told.append)
    assert done == Exported(images=2, kept=4, ignored=0, left_out=2, removed=0, painted=3, changed=3, twins=2, labelled=3, val=2, human_objects=5)  # fmt: skip
    data = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert data == {
        "train": ["images/pseudo", "images/labelled"], "val": "images/val", "nc": 3, "names": ["bear", WOLF, SHEEP],
    }  # fmt: skip
    assert sorted(str(p.relative_to(tmp_path / "out" / "images")) for p in (tmp_path / "out" / "images").rglob("*.png")) == [
        "labelled/0.png", "labelled/1.png", "labelled/2.png", "pseudo/2.png", "pseudo/3.png", "val/0.png", "val/1.png",
    ]  # fmt: skip
    rows = {
        part: (tmp_path / "out" / "labels" / part / "2.txt").read_text().splitlines() for part in ("pseudo", "labelled")
    }
    assert [row.split()[0] for row in rows["pseudo"]] == ["2", "1"] and [
        row.split()[0] for row in rows["labelled"]
    ] == ["1"]
    for path in val:  # what is measured stays as it is
        assert (tmp_path / "out" / "images" / "val" / path.name).read_bytes() == path.read_bytes()
    assert not (tmp_path / "out" / "predictions" / "labelled").exists()
    assert any("'bear'" in sentence and "no pseudo-label has" in sentence for sentence in told)
    assert any("that people labelled, too: 2" in sentence for sentence in told)
    assert not any("val in data.yaml" in sentence for sentence in told)


def test_a_yolo_set_keeps_its_val_and_its_order_of_classes(tmp_path: Path) -> None:
    version = world(tmp_path)
    root = tmp_path / "human"
    for part, seed in (("train", 100), ("val", 200)):
        for n in range(2):
            write_image(root / "images" / part / f"{n}.png", seed + n)
            (root / "labels" / part).mkdir(parents=True, exist_ok=True)
            (root / "labels" / part / f"{n}.txt").write_text(f"{n} 0.5 0.5 0.25 0.5\n")
    data = {"path": str(root), "train": "images/train", "val": "images/val", "names": {0: WOLF, 1: SHEEP}}
    (root / "data.yaml").write_text(yaml.safe_dump(data))
    done = export_version(version, tmp_path / "out", "yolo", labels=root / "data.yaml")
    assert (done.images, done.labelled, done.val, done.kept, done.human_objects) == (4, 2, 2, 8, 4)
    assert yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"] == [WOLF, SHEEP]
    assert (tmp_path / "out" / "labels" / "labelled" / "train" / "1.txt").read_text().split()[0] == "1"
    assert (tmp_path / "out" / "labels" / "pseudo" / "2.txt").read_text().split()[0] == "1"
    again = read_truth(tmp_path / "out" / "data.yaml", split="train")
    assert (len(again.images), again.classes) == (6, (WOLF, SHEEP))
    measured = read_truth(tmp_path / "out" / "data.yaml", split="val")
    for image in measured.images:
        np.testing.assert_allclose(image.boxes, [[24, 12, 40, 36]], atol=1e-4)


def test_names_that_should_match_are_named(tmp_path: Path) -> None:
    version = world(tmp_path, ["sofa", "person"])
    images = [write_image(tmp_path / "human" / "0.png", 100)]
    train = write_coco(tmp_path / "human" / "train.json", images, ["Person", "couch"])
    told: list[str] = []
    export_version(version, tmp_path / "out", "yolo", labels=train, val=train, note=told.append)
    assert "'sofa' (did you mean 'couch'?), 'person' (did you mean 'Person'?)" in told[0]


def test_without_a_val_nothing_is_written(tmp_path: Path) -> None:
    version = world(tmp_path)
    train = write_coco(tmp_path / "train.json", [write_image(tmp_path / "0.png", 100)], [SHEEP])
    with pytest.raises(BuildError, match=r"train\.json name no images to measure on \(val\)"):
        export_version(version, tmp_path / "out", "yolo", labels=train)
    assert not (tmp_path / "out").exists()
    words = ["export", str(tmp_path / "version"), str(tmp_path / "out"), "--format", "yolo", "--with", str(train)]
    result = CliRunner().invoke(main, [*words, "--val", str(train), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["labelled"] == 1


def test_a_version_of_human_labelled_images_alone_leaves_nothing_to_export(tmp_path: Path) -> None:
    version = world(tmp_path)
    train = write_coco(tmp_path / "pool" / "train.json", sorted((tmp_path / "pool").glob("*.png")), [SHEEP])
    with pytest.raises(BuildError, match="no image of meadow@v1 is left to export: 4 are human-labelled too"):
        export_version(version, tmp_path / "out", "yolo", labels=train, val=train)
    assert not (tmp_path / "out").exists()


def test_images_that_are_trained_and_measured_on_are_told(tmp_path: Path) -> None:
    version = world(tmp_path)
    human = [write_image(tmp_path / "human" / f"{n}.png", 100 + n) for n in range(3)]
    train, val = (write_coco(tmp_path / "human" / f"{n}.json", human[n:], [WOLF]) for n in (0, 1))
    told: list[str] = []
    done = export_version(version, tmp_path / "out", "yolo", labels=train, val=val, note=told.append)
    assert (done.val, done.both) == (2, 2)
    assert any("images to measure on that are trained on, too: 2 of 2" in sentence for sentence in told)


def test_labels_of_another_size_than_their_image_are_refused(tmp_path: Path) -> None:
    version = world(tmp_path)
    human = [write_image(tmp_path / "human" / f"{n}.png", 100 + n) for n in range(2)]
    train = write_coco(tmp_path / "human" / "train.json", human[:1], [WOLF])
    val = write_coco(tmp_path / "human" / "val.json", human[1:], [WOLF])
    turned = json.loads(train.read_text())
    turned["images"][0] |= {"width": H, "height": W}
    train.write_text(json.dumps(turned))
    with pytest.raises(BuildError, match=r"0\.png is 64x48 upright, but its labels were made for 48x64"):
        export_version(version, tmp_path / "out", "yolo", labels=train, val=val)
    assert not (tmp_path / "out").exists()
