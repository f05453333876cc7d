"""A version in other tools' formats: read back by us, by pycocotools, by torchvision and by the formats' formulas."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection

from builder.cli.export import export as command
from builder.errors import BuildError
from builder.export.export import Exported, export_version
from builder.export.voc import whole_pixels
from builder.kinds import Format
from builder.store.manifest import Manifest, read_manifest, version_id, write_manifest
from builder.store.shards import ShardRecord, write_shard
from builder.store.version import Version
from builder.truth.coco import read_coco
from builder.truth.read import read_truth
from builder.truth.records import Truth, TruthError
from students.evaluate.coco import read_kept
from tests.helpers.pools import tree
from tests.helpers.sealing import reseal

CLASSES = ["dog", "cat", "a <b> & c"]
SIZE = (64, 48)


@dataclass(frozen=True)
class Made:
    """An image of the version: `objects` are (x, y, w, h, category, score, ignore)."""

    key: str
    name: str
    objects: Sequence[tuple[float, float, float, float, int, float, bool]]


IMAGES = (
    Made("street/images/one-000000000001", "street/images/one.jpg", [
        (1.25, 2.5, 10.5, 20.25, 1, 0.9, False), (0, 0, 64, 48, 0, 0.75, False), (5, 5, 20.5, 10, 2, 0.4, True),
    ]),
    Made("two-000000000002", "two.jpg", []),
    Made("gone-000000000003", "gone.jpg", [(1, 1, 5, 5, 0, 0.9, False)]),
    Made("three-000000000004", "dreizehn/dreí.jpg", [(60.2, 40.1, 3.8, 7.9, 2, 0.6, False)]),
)  # fmt: skip


def write_version(folder: Path, images: Sequence[Made], tombstones: list[str], kind: str = "detection") -> Path:
    """Two shards, the first two images in the first."""
    records = []
    for number, part in enumerate((images[:2], images[2:])):
        samples = []
        for n, image in enumerate(part):
            path = folder.with_name("source") / image.name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", SIZE, (number * 100, n * 100, 50)).save(path)
            columns = list(zip(*image.objects, strict=True)) or [()] * 7
            objects: dict[str, Any] = {"bbox": [list(row[:4]) for row in image.objects], "category": columns[4]}
            objects |= {"score": columns[5], "ignore": columns[6], "area": [row[2] * row[3] for row in image.objects]}
            label = {"key": image.key, "name": image.name, "sha256": sha256(path.read_bytes()).hexdigest()}
            label |= {"width": SIZE[0], "height": SIZE[1], "reencoded": "none", "objects": objects}
            samples.append((image.key, [("jpg", path.read_bytes()), ("json", json.dumps(label).encode())]))
        shard = write_shard(folder / "data" / f"train-{number:06d}.tar", samples)
        name = f"train-{number:06d}.tar"
        counts = {"samples": shard.samples, "kept": 0, "ignored": 0}
        records.append(ShardRecord(name=name, bytes=shard.bytes, sha256=shard.sha256, **counts))
    manifest = Manifest(
        name="streets", version="v1", kind=kind, classes=CLASSES, features=["jpg", "json"], shards=records,
        id=version_id(CLASSES, ["jpg", "json"], [record.sha256 for record in records], tombstones),
        tombstones=tombstones, images={}, objects={}, per_class={}, files={}, provenance={},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


@pytest.fixture
def version(tmp_path: Path) -> Path:
    return write_version(tmp_path / "version", IMAGES, ["gone-000000000003"])


def boxes(truth: Truth, *, kept: bool = True) -> dict[str, list[tuple[str, list[float]]]]:
    """(class, xyxy) of the objects that count, or of those that do not, of each image by its file's name."""
    found = {}
    for image in truth.images:
        choice = (image.crowd | image.difficult) != kept
        rows = zip(image.labels[choice].tolist(), image.boxes[choice].tolist(), strict=True)
        found[image.path.name] = [(truth.classes[label], box) for label, box in rows]
    return found


def expected(*, kept: bool = True) -> dict[str, list[tuple[str, list[float]]]]:
    return {
        Path(image.name).name: [
            (CLASSES[category], [x, y, x + w, y + h])
            for x, y, w, h, category, _, ignore in image.objects
            if ignore != kept
        ]
        for image in IMAGES
        if not image.key.startswith("gone")
    }


@pytest.mark.parametrize(
    ("format", "tolerance", "counts"),
    [
        ("coco", 1e-5, Exported(images=3, kept=3, ignored=1, left_out=0, removed=1)),
        ("yolo", 1e-5, Exported(images=3, kept=3, ignored=0, left_out=0, removed=1, covered=1)),
        ("voc", 0.5, Exported(images=3, kept=3, ignored=1, left_out=0, removed=1)),
    ],
)
def test_what_was_exported_is_read_back(
    version: Path, tmp_path: Path, format: Format, tolerance: float, counts: Exported
) -> None:
    out = tmp_path / "new" / "out"
    assert export_version(Version.open(version), out, format) == counts
    truth = read_truth(out, split="train")
    for kept in (True, False) if format != "yolo" else (True,):
        ours, theirs = boxes(truth, kept=kept), expected(kept=kept)
        assert ours.keys() == theirs.keys()
        for stem in theirs:
            assert [name for name, _ in ours[stem]] == [name for name, _ in theirs[stem]]
            for (_, one), (_, other) in zip(ours[stem], theirs[stem], strict=True):
                np.testing.assert_allclose(one, other, atol=tolerance + 1e-5)
    for image in IMAGES:
        if "gone" not in image.key:
            (exported,) = (path for path in out.rglob(Path(image.name).name))
            assert exported.read_bytes() == (version.with_name("source") / image.name).read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    export_version(Version.open(version), tmp_path / "again", format)
    assert tree(out) == tree(tmp_path / "again")


def test_coco_as_pycocotools_sees_it(version: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_version(Version.open(version), tmp_path / "out", "coco")
    coco = COCO(str(tmp_path / "out" / "annotations.json"))
    assert [category["name"] for category in coco.loadCats([1, 2, 3])] == CLASSES
    notes = coco.loadAnns(coco.getAnnIds())
    assert [note["id"] for note in notes] == [1, 2, 3, 4]
    assert [note["score"] for note in notes] == [0.9, 0.75, 0.4, 0.6]
    assert [(note["iscrowd"], note["ignore"]) for note in notes] == [(0, 0), (0, 0), (1, 1), (0, 0)]
    assert notes[0]["bbox"] == [1.25, 2.5, 10.5, 20.25]
    assert notes[0]["area"] == 10.5 * 20.25
    first, *_ = images = coco.loadImgs(coco.getImgIds())
    assert first["file_name"] == "street/images/one.jpg"
    assert (first["key"], first["name"]) == (IMAGES[0].key, IMAGES[0].name)
    assert all(
        sha256((tmp_path / "out" / "images" / i["file_name"]).read_bytes()).hexdigest() == i["sha256"] for i in images
    )
    assert coco.dataset["info"]["version"] == read_manifest(version).id


def test_yolo_by_its_formulas(version: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_version(Version.open(version), out, "yolo")
    assert yaml.safe_load((out / "data.yaml").read_text()) == {
        "train": "images", "val": "images", "nc": 3, "names": CLASSES,
    }  # fmt: skip
    stems = ["dreizehn/dreí", "one", "two"]
    for folder in ("images", "labels", "predictions"):
        files = (path.relative_to(out / folder) for path in (out / folder).rglob("*.*"))
        assert sorted(str(file.with_suffix("")) for file in files) == stems
    x, y, w, h = 1.25, 2.5, 10.5, 20.25
    shares = [(x + w / 2) / 64, (y + h / 2) / 48, w / 64, h / 48]
    label, *_ = (out / "labels" / "one.txt").read_text().splitlines()
    assert label.split()[0] == "1"
    np.testing.assert_allclose(list(map(float, label.split()[1:])), shares, atol=1e-8)
    scored = (out / "predictions" / "one.txt").read_text().splitlines()
    assert [line.split()[-1] for line in scored] == ["0.900000", "0.750000"]
    assert scored[0].startswith(label)
    assert (out / "labels" / "two.txt").read_text() == ""


def test_voc_as_torchvision_sees_it(version: Path, tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    export_version(Version.open(version), root, "voc")
    data = VOCDetection(str(tmp_path), year="2012", image_set="train")
    pixels, target = data[0]
    annotation = target["annotation"]
    assert (pixels.size, annotation["filename"]) == (SIZE, "one.jpg")
    assert annotation["size"] == {"width": "64", "height": "48", "depth": "3"}
    dog, whole, region = annotation["object"]
    assert dog["bndbox"] == {"xmin": "2", "ymin": "3", "xmax": "12", "ymax": "23"}  # 1.25 … 11.75, 2.5 … 22.75
    assert whole["bndbox"] == {"xmin": "1", "ymin": "1", "xmax": "64", "ymax": "48"}
    assert (dog["name"], dog["score"], dog["difficult"], region["difficult"]) == ("cat", "0.900000", "0", "1")
    assert region["name"] == "a <b> & c"
    assert len(data) == 3


@given(
    arrays(np.float64, (5, 4), elements=st.floats(0, 300, width=32)),
    st.integers(1, 400),
    st.integers(1, 400),
)
def test_voc_corners_lie_inside_the_image_and_near_the_box(xywh: np.ndarray, width: int, height: int) -> None:
    limit = np.array([width, height])
    low = np.minimum(xywh[:, :2], limit)
    xywh = np.concatenate([low, np.minimum(low + xywh[:, 2:], limit) - low], axis=1)
    corners = whole_pixels(xywh, (width, height))
    assert (corners >= 1).all()
    assert (corners[:, 2:] <= limit).all()
    if min(width, height) >= 2:
        assert (corners[:, 2:] > corners[:, :2]).all()
    wide = xywh[:, 2:] >= 3
    moved = np.abs(np.concatenate([corners[:, :2] - 1, corners[:, 2:]], axis=1) - np.c_[low, low + xywh[:, 2:]])
    assert (moved.reshape(-1, 2, 2).transpose(0, 2, 1)[wide] <= 0.5).all()


def test_without_images_labels_name_those_of_the_source(version: Path, tmp_path: Path) -> None:
    for format in ("coco", "yolo", "voc"):
        out = tmp_path / format
        assert export_version(Version.open(version), out, format, images=False).images == 3
        assert not list(out.rglob("*.jpg"))
    truth = read_coco(tmp_path / "coco" / "annotations.json", version.with_name("source"))
    assert [image.name for image in truth.images] == [i.name for i in IMAGES if "gone" not in i.key]
    assert len(read_truth(tmp_path / "voc", version.with_name("source")).images) == 3
    (version.with_name("source") / "gone.jpg").unlink()
    assert [len(i.boxes) for i in read_truth(tmp_path / "yolo", version.with_name("source"), split="train").images] == [
        1,
        2,
        0,
    ]
    tree_ = ElementTree.parse(tmp_path / "voc" / "Annotations" / "street" / "images" / "one.xml")
    assert tree_.findtext("filename") == "one.jpg"


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/secret.jpg", "a/../../b.jpg"])
def test_names_lead_nowhere_outside(version: Path, tmp_path: Path, name: str) -> None:
    label = {"key": "x-000000000001", "name": name, "sha256": "0" * 64, "width": 1, "height": 1, "reencoded": "none"}
    label["objects"] = {"bbox": [], "category": [], "score": [], "ignore": [], "area": []}
    path = version / "data" / "train-000000.tar"
    shard = write_shard(path, [("x-000000000001", [("jpg", b""), ("json", json.dumps(label).encode())])])
    first, *others = read_manifest(version).shards
    written = {"bytes": shard.bytes, "sha256": shard.sha256, "samples": 1, "kept": 0, "ignored": 0}
    reseal(version, shards=[first.model_copy(update=written), *others])
    for format in ("coco", "yolo", "voc"):
        with pytest.raises(BuildError, match="no path inside a folder"):
            export_version(Version.open(version), tmp_path / "out", format, images=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "version"]


def test_what_cannot_be_exported_is_refused(version: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(BuildError, match="is not empty"):
        export_version(Version.open(version), out, "coco")
    (out / "mine.txt").unlink()
    with pytest.raises(BuildError, match="cannot be exported to csv: give the format coco or yolo or voc"):
        export_version(Version.open(version), out, "csv")  # type: ignore[arg-type]
    other = write_version(tmp_path / "maps", IMAGES, [], kind="semantic")
    with pytest.raises(BuildError, match="semantic labels"):
        export_version(Version.open(other), out, "coco")
    same = [replace(IMAGES[0], name="one.jpg"), replace(IMAGES[1], name="one.png"), *IMAGES[2:]]
    twins = write_version(tmp_path / "twins", same, [])
    with pytest.raises(BuildError, match=r"two images of .* would share labels/one\.txt"):
        export_version(Version.open(twins), out, "yolo", images=False)
    shard = version / "data" / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-600])
    with pytest.raises(BuildError, match="is damaged"):
        export_version(Version.open(version), out, "voc")
    assert list(out.iterdir()) == []
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_empty_version_is_exported(tmp_path: Path) -> None:
    version = write_version(tmp_path / "version", IMAGES[:2], [image.key for image in IMAGES[:2]])
    for format in ("coco", "yolo", "voc"):
        assert export_version(Version.open(version), tmp_path / format, format).images == 0
    assert read_coco(tmp_path / "coco" / "annotations.json").images == []


def test_command(version: Path, tmp_path: Path) -> None:
    arguments = [str(version), str(tmp_path / "out"), "--format", "yolo", "--json"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    assert (value["images"], value["kept"], value["covered"], value["format"]) == (3, 3, 1, "yolo")
    assert "mostly under kept boxes: 1" in done.stderr and "val in data.yaml" in done.stderr
    files = tree(tmp_path / "out")
    (tmp_path / ".tmp-out-4194305").mkdir()  # of a process that was killed
    again = CliRunner().invoke(command, arguments)  # the same is there: as if it was killed when it had ended
    assert again.stdout == done.stdout and tree(tmp_path / "out") == files and not list(tmp_path.glob(".tmp-*"))
    other = CliRunner().invoke(command, [*arguments, "--ignored", "background"])
    assert other.exit_code == 1 and tree(tmp_path / "out") == files
    assert "is already there with other contents" in other.stderr
    assert CliRunner().invoke(command, [*arguments[:2], "--format", "csv"]).exit_code == 2
    assert CliRunner().invoke(command, ["absent", str(tmp_path / "o"), "--format", "voc"]).exit_code == 1


def test_kept_objects_of_removed_images_are_not_read(version: Path, tmp_path: Path) -> None:
    export_version(Version.open(write_version(tmp_path / "whole", IMAGES, [])), tmp_path / "out", "coco")
    truth = read_coco(tmp_path / "out" / "annotations.json")
    assert [len(found) for found in read_kept(version, truth)] == [2, 0, 0, 1]
    assert [len(found) for found in read_kept(tmp_path / "whole", truth)] == [2, 0, 1, 1]
    with pytest.raises(TruthError, match="share no class"):
        read_kept(version, replace(truth, classes=("x", "y", "z")))
