"""A small store whose versions share their images."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from builder.cli.main import main
from tests.helpers.pools import write_images, write_recipe, write_results


def run(*arguments: object, store: Path, code: int = 0) -> Result:
    """A command on a store, which is to end with this exit status."""
    result = CliRunner().invoke(main, [*map(str, arguments), "--store", str(store)])
    assert result.exit_code == code, result.output
    return result


def sharing_store(folder: Path) -> Path:
    """Ten images in chunks of four, two of them without objects, cut at two thresholds; results of two more."""
    names = [f"image_{n:05d}.jpg" for n in range(12)]
    assert write_images(folder / "pool", 10) == names[:10]
    write_results(folder, names, empty=2)
    recipe = write_recipe(folder, shards={"images": "shared", "max_images": 4})
    for score in (0.5, 0.8):
        run("build", recipe, "--set", f"keep.score={score}", "--no-report", store=folder / "store")
    return folder / "store"
