"""What becomes of ignored regions where a format has no mark for them: painted over, cut off, left out, background."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from builder.cli.export import export as command
from builder.errors import BuildError
from builder.export.export import Exported, export_version
from builder.export.painting import SAME, Corners, largest_free, painted, rewritten
from builder.kinds import Format
from builder.store.manifest import Manifest, version_id, write_manifest
from builder.store.shards import ShardRecord, write_shard
from builder.store.version import Version
from teachers.images import decode_rgb
from teachers.masks import encode
from tests.helpers.pools import tree

W, H = 96, 64
GREEN, RED, BLUE = (110, 140, 110), (170, 100, 100), (30, 50, 120)


def picture(*boxes: tuple[int, int, int, int], colour: tuple[int, int, int] = RED) -> np.ndarray:
    """A green meadow with rectangles (x, y, w, h), the first in red, the others in blue."""
    pixels = np.full((H, W, 3), GREEN, np.uint8)
    pixels += (np.arange(W) % 7).astype(np.uint8)[None, :, None]
    for n, (x, y, w, h) in enumerate(boxes):
        pixels[y : y + h, x : x + w] = colour if n == 0 else BLUE
    return pixels


def encoded(pixels: np.ndarray, extension: str = "jpg") -> bytes:
    out = io.BytesIO()
    options: dict[str, Any] = {"quality": 90} if extension == "jpg" else {}
    Image.fromarray(pixels).save(out, SAME[extension], **options)
    return out.getvalue()


def make(folder: Path, samples: dict[str, tuple[np.ndarray, dict[str, list[Any]]]], extension: str = "jpg") -> Version:
    """A version of these images by name; their objects in columns bbox, category, ignore and, of masks, segmentation."""
    rows = []
    for number, (name, (pixels, objects)) in enumerate(samples.items()):
        count = len(objects["bbox"])
        label = {"key": f"k{number}-{number:012d}", "name": name, "sha256": f"{number:064d}"}
        label |= {"width": pixels.shape[1], "height": pixels.shape[0], "reencoded": "none"}
        areas = [w * h for _, _, w, h in objects["bbox"]]
        label["objects"] = {"score": [0.9] * count, "area": areas, "source": ["teacher"] * count} | objects
        members = [(extension, encoded(pixels, extension)), ("json", json.dumps(label).encode())]
        rows.append((label["key"], members))
    shard = write_shard(folder / "data" / "train-000000.tar", rows)
    ignored = sum(sum(objects["ignore"]) for _, objects in samples.values())
    record = ShardRecord(name="train-000000.tar", bytes=shard.bytes, sha256=shard.sha256, samples=shard.samples, kept=0, ignored=ignored)  # fmt: skip
    masks = any("segmentation" in objects for _, objects in samples.values())
    manifest = Manifest(
        name="meadow", version="v1", kind="instance" if masks else "detection", classes=["sheep", "wolf"],
        features=[extension, "json"], shards=[record], tombstones=[], images={}, objects={}, per_class={}, files={},
        id=version_id(["sheep", "wolf"], [extension, "json"], [record.sha256], []), provenance={},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return Version.open(folder)


KEPT, LONE, OVER = (10, 20, 20, 20), (60, 5, 20, 20), (25, 30, 30, 25)
"""x, y, w, h: a kept box, an ignored region apart from it, and one that lies over its corner."""


def meadow(folder: Path, extension: str = "jpg") -> Version:
    """Three images: one with two ignored regions, one without any, one with nothing else."""
    first = {"bbox": [KEPT, LONE, OVER], "category": [0, 1, 0], "ignore": [False, True, True]}
    second = {"bbox": [KEPT], "category": [0], "ignore": [False]}
    third = {"bbox": [LONE], "category": [-1], "ignore": [True]}  # of a class that the class map ignores
    return make(
        folder,
        {
            f"a.{extension}": (picture(KEPT, LONE, OVER), first),
            f"b.{extension}": (picture(KEPT), second),
            f"c.{extension}": (picture(LONE, colour=BLUE), third),
        },
        extension,
    )


def pixels_of(path: Path) -> np.ndarray:
    return decode_rgb(path.read_bytes())


def part(pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    x, y, w, h = box
    return pixels[y : y + h, x : x + w].astype(int)


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "bmp"])
def test_ignored_regions_are_painted_over_and_kept_boxes_are_not(tmp_path: Path, extension: str) -> None:
    version, out, told = meadow(tmp_path / "version", extension), tmp_path / "out", list[str]()
    done = export_version(version, out, "yolo", note=told.append)
    assert done == Exported(images=3, kept=2, ignored=0, left_out=0, removed=0, painted=3, changed=2)
    assert "painted over with what surrounds them: 3" in told[0] and "2 of 3 images (changed.txt)" in told[0]
    assert f"# {told[0]}" in (out / "data.yaml").read_text() and told[0] in (out / "README.md").read_text()
    assert (out / "changed.txt").read_text().splitlines() == [f"a.{extension}", f"c.{extension}"]
    pictures = (picture(KEPT, LONE, OVER), picture(KEPT), picture(LONE, colour=BLUE))
    before = {name: decode_rgb(encoded(pixels, extension)) for name, pixels in zip("abc", pictures, strict=True)}
    after = {name: pixels_of(out / "images" / f"{name}.{extension}") for name in "abc"}
    lossy = {"jpg": 3, "webp": 5}.get(extension, 0)
    for name in "ab":  # the corner under the ignored region among it
        assert np.abs(part(after[name], KEPT) - part(before[name], KEPT)).mean() <= lossy
    for name in "ac":
        assert np.abs(part(after[name], LONE) - GREEN).max() < 40  # no trace of the blue
    assert (out / "images" / f"b.{extension}").read_bytes() == encoded(pictures[1], extension)
    rows = {name: (out / "labels" / f"{name}.txt").read_text().split() for name in "abc"}
    assert rows["a"] == rows["b"] == ["0", *(f"{v:.8f}" for v in (20 / W, 30 / H, 20 / W, 20 / H))] and not rows["c"]
    export_version(version, tmp_path / "again", "yolo")
    assert tree(tmp_path / "again") == tree(out)


def test_a_painted_jpeg_keeps_its_tables_and_so_the_rest_of_its_pixels(tmp_path: Path) -> None:
    rough = np.random.default_rng(0).integers(60, 200, (H // 8, W // 8, 3), dtype=np.uint8)
    data = encoded(np.asarray(Image.fromarray(rough).resize((W, H), Image.Resampling.BICUBIC)))
    hole = np.zeros((H, W), bool)
    hole[32:, 64:] = True
    made, extension = rewritten(data, "jpg", lambda pixels: painted(pixels, hole, np.zeros_like(hole)), "a.jpg")
    before, after = decode_rgb(data).astype(int), decode_rgb(made).astype(int)
    with Image.open(io.BytesIO(data)) as old, Image.open(io.BytesIO(made)) as new:
        assert new.quantization == old.quantization and extension == "jpg"
    assert np.abs(after - before)[~hole].mean() < 1.5  # blocks of the hole's edge among it
    assert rewritten(data, "gif", lambda pixels: pixels, "a.gif")[1] == "png"
    with pytest.raises(BuildError, match=r"image a\.jpg cannot be written without its ignored regions: it "):
        rewritten(data[:200], "jpg", lambda pixels: pixels, "a.jpg")


def test_grey_images_stay_grey() -> None:
    out = io.BytesIO()
    Image.fromarray(np.full((H, W), 90, np.uint8)).save(out, "JPEG")
    made, _ = rewritten(out.getvalue(), "jpg", lambda pixels: pixels, "a.jpg")
    with Image.open(io.BytesIO(made)) as image:
        assert image.mode == "L"


@given(st.integers(0, 2**32 - 1))
def test_painting_touches_the_hole_alone_and_takes_nothing_from_it_or_from_kept_objects(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(1, 40, 2))
    hole, shown = rng.random((height, width)) < rng.random(), rng.random((height, width)) < 0.3
    hole &= ~shown
    pixels = np.full((height, width, 3), 100, np.uint8)
    pixels[hole], pixels[shown] = 255, 0
    made = painted(pixels, hole, shown)
    assert (made[~hole] == pixels[~hole]).all()
    if (~hole & ~shown).any():
        assert (made[hole] == 100).all()
    else:  # the kept objects are all that is left, or nothing is
        assert (made[hole] == (0 if shown.any() else 114)).all()


def test_crop_cuts_to_what_holds_the_kept_boxes_and_no_ignored_region(tmp_path: Path) -> None:
    apart = {"bbox": [(10, 20, 20, 20), (60, 5, 20, 20)], "category": [1, 1], "ignore": [False, True]}
    over = {"bbox": [KEPT, OVER], "category": [0, 0], "ignore": [False, True]}
    none = {"bbox": [LONE], "category": [0], "ignore": [True]}
    plain = {"bbox": [KEPT], "category": [0], "ignore": [False]}
    pixels = picture(KEPT, LONE)
    version = make(tmp_path / "v", {f"{n}.png": (pixels, o) for n, o in zip("abcd", (apart, over, none, plain), strict=True)}, "png")  # fmt: skip
    out, told = tmp_path / "out", list[str]()
    done = export_version(version, out, "yolo", ignored="crop", note=told.append)
    assert (done.images, done.kept, done.changed, done.dropped, done.left_out) == (2, 2, 1, 2, 4)
    assert "no ignored region: 1 (changed.txt); left out, since they cannot be: 2" in told[0]
    assert (pixels_of(out / "images" / "a.png") == pixels[:, :60]).all()
    assert (out / "labels" / "a.txt").read_text().split() == ["1", *(f"{v:.8f}" for v in (20 / 60, 30 / H, 20 / 60, 20 / H))]  # fmt: skip
    assert sorted(path.name for path in (out / "images").iterdir()) == ["a.png", "d.png"]


def brute(hull: Corners, regions: list[Corners], size: tuple[int, int]) -> int:
    """The area of the largest such rectangle, by trying all."""
    best, (x1, y1, x2, y2) = 0, hull
    taken = np.zeros((size[1], size[0]), bool)
    for left, top, right, bottom in regions:
        taken[top:bottom, left:right] = True
    for a in range(x1 + 1):
        for b in range(x2, size[0] + 1):
            for c in range(y1 + 1):
                for d in range(y2, size[1] + 1):
                    if not taken[c:d, a:b].any():
                        best = max(best, (b - a) * (d - c))
    return best


@st.composite
def rectangles(draw: st.DrawFn, side: int = 9) -> Corners:
    (x1, x2), (y1, y2) = (
        sorted(draw(st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True))) for _ in "xy"
    )
    return x1, y1, x2, y2


@given(rectangles(), st.lists(rectangles(), max_size=4))
def test_no_larger_crop_is_possible(hull: Corners, regions: list[Corners]) -> None:
    cut = largest_free(hull, regions, (9, 9))
    area = (cut[2] - cut[0]) * (cut[3] - cut[1]) if cut else 0
    assert area == brute(hull, regions, (9, 9))
    if cut:
        assert cut[0] <= hull[0] and cut[1] <= hull[1] and cut[2] >= hull[2] and cut[3] >= hull[3]
        assert not any(r[0] < cut[2] and r[2] > cut[0] and r[1] < cut[3] and r[3] > cut[1] for r in regions)


@pytest.mark.parametrize(
    ("ignored", "expected", "words"),
    [
        ("drop", Exported(images=1, kept=1, ignored=0, left_out=4, removed=0, dropped=2), "left out for their ignored"),
        (
            "background",
            Exported(images=3, kept=2, ignored=0, left_out=3, removed=0),
            "without a mark: 3, which trainers",
        ),
    ],
)
@pytest.mark.parametrize("format", ["yolo", "coco", "voc"])
def test_images_may_be_dropped_and_regions_become_background(
    tmp_path: Path, format: Format, ignored: Any, expected: Exported, words: str
) -> None:
    told: list[str] = []
    assert (
        export_version(meadow(tmp_path / "v"), tmp_path / "out", format, ignored=ignored, note=told.append) == expected
    )
    assert words in told[0] and not (tmp_path / "out" / "changed.txt").exists()


@pytest.mark.parametrize("format", ["coco", "voc"])
def test_formats_that_mark_ignored_regions_do_so_unless_told_to_paint(tmp_path: Path, format: Format) -> None:
    version = meadow(tmp_path / "v")
    done = export_version(version, tmp_path / "marked", format)
    assert (done.ignored, done.painted, done.changed) == (2, 0, 0)  # the third is of no class
    assert "marked as" in (tmp_path / "marked" / "README.md").read_text()
    done = export_version(version, tmp_path / "painted", format, ignored="paint")
    assert (done.ignored, done.left_out, done.painted, done.changed) == (0, 0, 3, 2)


def test_masks_are_painted_by_their_pixels(tmp_path: Path) -> None:
    """An ignored mask that is a triangle: the other half of its box stays."""
    triangle, square = np.zeros((H, W), bool), np.zeros((H, W), bool)
    triangle[5:45, 50:90] = np.tri(40, dtype=bool)
    square[20:40, 10:30] = True
    pixels = picture()
    pixels[triangle], pixels[square] = BLUE, RED
    codes = [code.decode() for code in encode(np.stack([square, triangle]))]
    objects = {"bbox": [(10, 20, 20, 20), (50, 5, 40, 40)], "category": [0, 1], "ignore": [False, True]}
    version = make(tmp_path / "v", {"a.png": (pixels, {**objects, "segmentation": codes})}, "png")
    done = export_version(version, tmp_path / "out", "yolo")
    made = pixels_of(tmp_path / "out" / "images" / "a.png")
    assert done.painted == 1 and (made[~triangle] == pixels[~triangle]).all()
    assert np.abs(made[triangle].astype(int) - GREEN).max() < 40
    row = (tmp_path / "out" / "labels" / "a.txt").read_text().split()
    assert row[0] == "0" and len(row) == 9  # one square as a polygon
    done = export_version(version, tmp_path / "cropped", "yolo", ignored="crop")
    assert done.changed == 1 and pixels_of(tmp_path / "cropped" / "images" / "a.png").shape == (H, 50, 3)
    row = (tmp_path / "cropped" / "labels" / "a.txt").read_text().split()
    x, y = np.array(row[1::2], float) * 50, np.array(row[2::2], float) * H
    assert (x.min(), x.max(), y.min(), y.max()) == pytest.approx((10, 30, 20, 40), abs=1e-5)


@pytest.mark.parametrize(
    ("format", "options", "words"),
    [
        ("yolo", {"ignored": "mark"}, "yolo has no mark for ignored regions: choose paint, crop, drop or background"),
        ("yolo", {"images": False}, "3 ignored regions can be neither painted over nor cut off without images"),
        ("coco", {"ignored": "crop", "images": False}, "cut off without images"),
        ("yolo", {"ignored": "blur"}, "ignored = 'blur' is none of mark, paint, crop, drop, background"),
        ("coco", {"labels": "x.json"}, "to yolo, with images: leave out x.json"),
        ("yolo", {"val": "x.json"}, "labels x.json to measure on want labels to train on"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, format: Format, options: dict[str, Any], words: str) -> None:
    with pytest.raises(BuildError, match=words):
        export_version(meadow(tmp_path / "v"), tmp_path / "out", format, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v"]


def test_the_command_says_what_became_of_them(tmp_path: Path) -> None:
    meadow(tmp_path / "v")
    done = CliRunner().invoke(command, [str(tmp_path / "v"), str(tmp_path / "out"), "--format", "yolo"])
    assert done.exit_code == 0 and "painted over with what surrounds them: 3" in done.stderr
    assert "painted" in done.stdout and "dropped" not in done.stdout
    words = [
        str(tmp_path / "v"),
        str(tmp_path / "labels"),
        "--format",
        "yolo",
        "--no-images",
        "--ignored",
        "background",
    ]
    assert CliRunner().invoke(command, words).exit_code == 0
    assert yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())["names"] == ["sheep", "wolf"]


def test_files_keep_their_names_and_two_never_share_a_label_file(tmp_path: Path) -> None:
    nothing = {"bbox": [], "category": [], "ignore": []}
    names = ["set/images/street/one.JPEG", "one.png", "street/one.bmp", "no_extension", "a.b.tif"]
    version = make(tmp_path / "v", {name: (picture(), nothing) for name in names})
    for format, folder in (("yolo", "images"), ("voc", "JPEGImages"), ("coco", "images")):
        out = tmp_path / format
        assert export_version(version, out, format).images == 5  # type: ignore[arg-type]
        files = {str(path.relative_to(out / folder)) for path in (out / folder).rglob("*.*") if path.is_file()}
        own = {"a.b.jpg", "no_extension.jpg", "one.jpg"}
        if format == "yolo":  # what stands above and with the last `images` misleads its readers
            assert files == own | {"street/one.JPEG", "street/one-000000000002.jpg"}
        else:
            assert files == own | {"set/images/street/one.JPEG", "street/one.jpg"}
