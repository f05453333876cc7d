"""Make docs/images/app.png: FiftyOne's App on COCO images that YOLOX-nano labelled (examples/coco_yolox).

Needs the extras `onnx`, `fiftyone` and `hub`, the package playwright, a `chromium`, and the shared data.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from builder.browse.app import app, connected
from builder.browse.database import free_port
from builder.browse.load import load
from builder.build import build_pseudo
from builder.hub.remote import open_version
from builder.recipe.recipe import load_recipe
from builder.store.store import Store

ROOT = Path(__file__).resolve().parent.parent
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync".split()
)
PICTURE = ROOT / "docs" / "images" / "app.png"
SIZE = 1280, 800


def take(page_address: str, path: Path) -> None:
    """Write what a browser of SIZE shows of a dataset once its pictures are drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=QUIET)
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
        page.goto(page_address)
        page.wait_for_selector("[data-cy=looker]", timeout=60_000)
        page.get_by_text("Dismiss").click()
        page.locator("[data-cy=saved-views-selection]").click()
        page.locator("[data-cy=saved-views-borderline-selection-option]").click()
        page.wait_for_timeout(5_000)  # nothing in the page says that all boxes are drawn
        page.mouse.move(SIZE[0] / 2, 40)
        page.wait_for_timeout(1_000)
        path.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=path)
        browser.close()
    with Image.open(path) as picture:  # a third of the bytes, and hardly to be told apart
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    recipe = ROOT / "examples" / "coco_yolox" / "recipe.yaml"
    with TemporaryDirectory(prefix="tutelage-") as folder:
        store = Store(Path(folder) / "store")
        build_pseudo(load_recipe(recipe), store, root=recipe.parent)
        with connected(store) as fo:
            name = load(fo, store, [open_version("coco-yolox@v1", store)])
            with app(fo, name, Path(folder) / "app.log", port=free_port()) as address:
                take(address, Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)


if __name__ == "__main__":
    main()
