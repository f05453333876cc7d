"""The report page and the pictures of real small versions."""

from __future__ import annotations

import ast
import base64
import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from builder.cli.main import main
from builder.errors import BuildError
from builder.report.borderline import CONTEXT, LEAST, MOST, TILE, closest, crops
from builder.report.index import write_report
from builder.report.page import bar
from builder.report.pictures import contact_sheet, draw_image
from builder.report.quality import expected_quality, thresholds
from builder.rules.scores import PoolScores, Scored
from builder.store.manifest import Manifest, read_manifest, write_manifest
from builder.store.provenance import Group
from builder.store.shards import read_samples
from builder.store.version import REPORT, Version
from builder.words import percent
from tests.helpers.pools import CLASSES, write_images, write_recipe, write_results, write_world
from tests.helpers.records import changed


class Page(HTMLParser):
    """The elements, pictures and text of a page; raises where a closing tag does not fit."""

    VOID = ("meta", "img", "br")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str]] = []
        self.text: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.links += [value for name, value in found.items() if name in ("src", "href")]
        if tag == "img":
            self.images.append(found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.text).split())

    def pictures(self, kind: str) -> list[bytes]:
        return [
            base64.b64decode(image["src"].partition(",")[2])
            for image in self.images
            if image["src"].startswith(f"data:{kind};base64,")
        ]


def read_page(folder: Path) -> Page:
    return Page((folder / REPORT).read_text())


def build(recipe: Path, store: Path, *options: str) -> Path:
    result = CliRunner().invoke(main, ["build", str(recipe), "--store", str(store), "--workers", "1", *options])
    assert result.exit_code == 0, result.output
    return store / "datasets" / "pets" / "v1"


def scores_of(version: Version) -> PoolScores:
    """Counted from labels.parquet, which here holds no box that NMS or a cap took."""
    manifest, table = version.manifest, pq.read_table(version.labels)
    label, score = table["label"].to_numpy().astype(np.int64), table["score"].to_numpy()
    classes = len(manifest.classes)
    return PoolScores.of(Scored(np.arange(len(label)), label, score), manifest.samples, classes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of 40 images in three shards without human labels; the first six images have no boxes."""
    folder = tmp_path_factory.mktemp("plain")
    size = (640, 480)
    write_results(folder, write_images(folder / "pool", 40, size=size), empty=6, size=size)
    return build(write_recipe(folder), folder / "store", "--set", "shards.max_mb=1", "--no-report")


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version with solved thresholds; its report was written by the build."""
    folder = tmp_path_factory.mktemp("certified")
    recipe = write_world(folder, pool=30, truth=120)
    return build(recipe, folder / "store", "--set", "keep.precision.on_low_support=fallback")


def test_the_page_of_a_certified_version(certified: Path) -> None:
    manifest, page = read_manifest(certified), read_page(certified)
    for paragraph in expected_quality(manifest):
        assert paragraph.split(": ", 1)[-1] in page.said
    assert any(group.certified for group in manifest.provenance.thresholds)
    assert "Precision, recall and reliability" in page.said and "in labels" in page.said
    for gate in manifest.provenance.gates:
        assert gate.message in page.said
    assert manifest.id in page.said and f"{manifest.kept:,}" in page.said
    group = next(g for g in manifest.provenance.thresholds if g.certified)
    for field in ("units", "kept", "correct"):
        assert str(getattr(group, field)) in page.said


def test_a_page_loads_nothing_and_every_picture_has_words(plain: Path, certified: Path) -> None:
    manifest = read_manifest(plain)
    write_report(Version(plain, manifest), scores_of(Version(plain, manifest)), None)
    for version in (plain, certified):
        page = read_page(version)
        assert page.links and all(link.startswith("data:image/") for link in page.links)
        assert "@import" not in (version / REPORT).read_text() and "url(" not in (version / REPORT).read_text()
        assert not page.tags & {"script", "link", "iframe"}
        assert all(len(image["alt"]) > 20 for image in page.images)
        for svg in page.pictures("image/svg+xml"):
            root = ET.fromstring(svg)
            links = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
            assert root.tag.endswith("svg") and all(link.startswith("#") for link in links)
            assert b"dc:date" not in svg
        for jpeg in page.pictures("image/jpeg"):
            assert Image.open(io.BytesIO(jpeg)).size == (TILE, TILE)


def test_the_same_version_gives_the_same_page_and_the_manifest_knows_it(certified: Path, tmp_path: Path) -> None:
    from builder.store.files import sha256_file

    again = build(
        write_world(tmp_path, pool=30, truth=120), tmp_path / "store", "--set", "keep.precision.on_low_support=fallback"
    )
    assert (again / REPORT).read_bytes() == (certified / REPORT).read_bytes()
    assert read_manifest(again).files[REPORT] == sha256_file(again / REPORT)


def test_a_page_without_labels_claims_nothing(plain: Path) -> None:
    manifest = read_manifest(plain)
    write_report(Version(plain, manifest), scores_of(Version(plain, manifest)), None)
    page = read_page(plain)
    assert "Precision unknown" in page.said and "exchangeable" not in page.said
    assert "reliability" not in page.said and "unknown , ask before you share" in page.said
    assert len(page.pictures("image/svg+xml")) == len(CLASSES)
    for name, counts in manifest.per_class.items():
        assert f"{name} · {counts['kept']} kept, {counts['ignored']} ignored" in page.said


def test_names_are_text_not_markup(plain: Path) -> None:
    manifest = read_manifest(plain)
    name = "<script>alert(1)</script>"
    classes = [name, *manifest.classes[1:]]
    counts = dict(zip(classes, (manifest.per_class[c] for c in manifest.classes), strict=True))
    provenance = changed(manifest.provenance, thresholds=[Group(classes=classes, rule="score", threshold=0.5)])
    renamed = manifest.model_copy(update={"classes": classes, "per_class": counts, "provenance": provenance})
    write_report(Version(plain, renamed), scores_of(Version(plain, renamed)), None)
    page = read_page(plain)
    assert "script" not in page.tags and name in page.said


@pytest.mark.parametrize("field", ["pool", "predictions"])
def test_ids_of_a_foreign_manifest_are_text_too(plain: Path, tmp_path: Path, field: str) -> None:
    """No version with such an id is opened, and no page of one would run it."""
    manifest = read_manifest(plain)
    inputs = manifest.provenance.inputs.model_copy(update={field: "<script>x</script>"})
    provenance = manifest.provenance.model_copy(update={"inputs": inputs})
    foreign = manifest.model_copy(update={"provenance": provenance})
    write_manifest(tmp_path, foreign)
    with pytest.raises(BuildError, match=rf"^[^\n]*damaged \(provenance\.inputs\.{field}: string should match") as told:
        Version.open(tmp_path)
    assert "build or pull the version again" in str(told.value)
    version = Version(plain, foreign)
    write_report(version, scores_of(version), None)
    page = read_page(plain)
    assert "script" not in page.tags and "<script>x</script>" in page.said


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("folder", ["builder/report", "students/study/report", "students/rounds"])
def test_no_markup_is_an_f_string(folder: str) -> None:
    """An f-string escapes nothing: HTML and SVG are Markup("…").format(…)."""
    for path in (ROOT / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                text = "".join(part.value for part in node.values if isinstance(part, ast.Constant))
                assert not re.search(r"</?[a-z]+\d?[ />]", text), f"{path.name}:{node.lineno}"


def test_many_classes_and_nothing_kept_still_make_a_page(plain: Path) -> None:
    manifest = read_manifest(plain)
    classes = [*manifest.classes, *(f"class {n}" for n in range(40))]
    none = {"predicted": 0, "kept": 0, "ignored": 0}
    provenance = changed(manifest.provenance, thresholds=[Group(classes=classes, rule="mixture", threshold=None)])
    wide = manifest.model_copy(
        update={"classes": classes, "per_class": dict.fromkeys(classes, none), "provenance": provenance}
    )
    label = np.arange(len(classes))
    scores = PoolScores.of(Scored(label, label, np.full(len(label), 0.5, np.float32)), 1, len(classes))
    write_report(Version(plain, wide), scores, None)
    page = read_page(plain)
    assert f"{len(classes) - 12} more classes" in page.said and "nothing kept" in page.said
    assert len(page.pictures("image/svg+xml")) == 12 and "Borderline" not in page.said


def by_hand(version: Path, manifest: Manifest) -> dict[tuple[str, str], list[float]]:
    """Scores of each class and outcome by their distance to the threshold, without DuckDB."""
    keep = thresholds(manifest).kept_from
    found: dict[tuple[str, str], list[float]] = {}
    for row in pq.read_table(version / "labels.parquet").to_pylist():
        if row["outcome"] == "kept" or row["reason"] == "ignore_band":
            found.setdefault((manifest.classes[row["label"]], row["outcome"]), []).append(row["score"])
    return {who: sorted(s, key=lambda score: abs(score - keep[0])) for who, s in found.items()}


def test_the_closest_boxes_are_chosen_and_spread_over_classes(plain: Path) -> None:
    manifest = read_manifest(plain)
    chosen, expected = closest(Version(plain, manifest)), by_hand(plain, manifest)
    assert len(chosen) == MOST and sum(one.outcome == "kept" for one in chosen) == MOST // 2
    for (name, outcome), scores in expected.items():
        mine = [c.confidence for c in chosen if (manifest.classes[c.label], c.outcome) == (name, outcome)]
        assert mine == scores[: len(mine)] and len(mine) >= min(len(scores), 3)


def test_the_choice_depends_on_no_row_order(plain: Path, tmp_path: Path) -> None:
    manifest = read_manifest(plain)
    table = pq.read_table(plain / "labels.parquet")
    order = np.random.default_rng(3).permutation(len(table))
    pq.write_table(table.take(pa.array(order)), tmp_path / "labels.parquet")
    boxes = [(c.key, c.label, c.outcome, c.box) for c in closest(Version(plain, manifest))]
    assert boxes == [(c.key, c.label, c.outcome, c.box) for c in closest(Version(tmp_path, manifest))]


def samples(version: Path, manifest: Manifest) -> dict[str, tuple[int, bytes]]:
    """Shard and image bytes of each key."""
    found = {}
    for number, shard in enumerate(manifest.shards):
        tar = version / "data" / shard.name
        for sample in read_samples(tar):
            found[sample.key] = number, sample.members[manifest.features[0]].read()
    return found


def test_crops_show_the_box_in_its_image(plain: Path) -> None:
    manifest = read_manifest(plain)
    boxes, found = closest(Version(plain, manifest)), samples(plain, manifest)
    assert len({found[box.key][0] for box in boxes}) > 1 < len(manifest.shards)
    for box, tile in zip(boxes, crops(Version(plain, manifest), boxes), strict=True):
        number, data = found[box.key]
        assert number in box.shards and len(box.shards) <= 2 and tile is not None
        x1, y1, x2, y2 = box.box
        side = max(CONTEXT * max(x2 - x1, y2 - y1), LEAST)
        if min(x2 - x1, y2 - y1) < side / 4:
            continue  # its outline crosses the middle
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        around = tuple(v + d * side / 16 for v, d in ((x, -1), (y, -1), (x, 1), (y, 1)))
        middle = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").crop(tuple(map(round, around))), float)
        shown = np.asarray(Image.open(io.BytesIO(tile)), float)[105:135, 105:135]
        assert np.abs(middle.mean((0, 1)) - shown.mean((0, 1))).max() < 40


def test_tombstones_are_not_shown(plain: Path, tmp_path: Path) -> None:
    manifest = read_manifest(plain)
    gone = sorted({box.key for box in closest(Version(plain, manifest))})
    later = manifest.model_copy(update={"tombstones": gone})
    assert not {box.key for box in closest(Version(plain, later))} & {*gone}
    everything = manifest.model_copy(update={"tombstones": sorted(samples(plain, manifest))})
    assert closest(Version(plain, everything)) == []
    with pytest.raises(BuildError, match="no images to draw"):
        contact_sheet(Version(plain, everything), tmp_path / "sheet.png")
    contact_sheet(Version(plain, manifest), tmp_path / "all.png", images=40)
    contact_sheet(Version(plain, later), tmp_path / "some.png", images=40)
    heights = []
    for name in ("some.png", "all.png"):
        with Image.open(tmp_path / name) as sheet:
            heights.append(sheet.height)
    assert heights[0] < heights[1]
    with pytest.raises(BuildError, match="was removed"):
        draw_image(Version(plain, later), gone[0], tmp_path / "one.png")


def test_one_image_with_all_its_boxes(plain: Path, tmp_path: Path) -> None:
    manifest = read_manifest(plain)
    box = next(one for one in closest(Version(plain, manifest)) if one.outcome == "kept")
    draw_image(Version(plain, manifest), box.key, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.width == 640 and picture.height > 480
        _, top, right, bottom = box.box
        colours = {picture.getpixel((round(right), round(y))) for y in np.linspace(top + 3, bottom - 3, 9)}
    assert (0, 158, 115) in colours
    with pytest.raises(BuildError, match="no image 'nowhere'"):
        draw_image(Version(plain, manifest), "nowhere", tmp_path / "none.png")


def test_ignored_boxes_of_images_left_out_are_not_looked_for(tmp_path: Path) -> None:
    write_results(tmp_path, write_images(tmp_path / "pool", 40), empty=4)
    recipe = write_recipe(tmp_path, images={"drop_empty": True}, keep={"score": 0.8, "ignore": 0.2})
    version = build(recipe, tmp_path / "store", "--no-report")
    manifest = read_manifest(version)
    assert manifest.images["empty"] > 4
    boxes = closest(Version(version, manifest))
    assert boxes and all(crops(Version(version, manifest), boxes))


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.0004, "< 0.1 %"),
        (0.0456, "4.6 %"),
        (0.5, "50 %"),
        (0.9996, "> 99.9 %"),
        (np.nan, "-"),
    ],
)
def test_percent_never_rounds_to_nothing_or_all(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_bar_stays_in_its_column() -> None:
    assert "width:100.0%" in bar(1.7, "k") and "left:" not in bar(0.5, "k") and "left:100.0%" in bar(0.5, "k", 2.0)
