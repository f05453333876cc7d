"""A small version to review, made once per test module."""

from __future__ import annotations

import shutil
from pathlib import Path

from click.testing import CliRunner

from builder.cli.build import build
from builder.store.store import Store
from tests.helpers.pools import write_images, write_recipe, write_results


def make_store(folder: Path, *, images: int = 24, versions: tuple[float, ...] = (0.5,)) -> Path:
    """A store with a version of `pets` at each of these score thresholds; four images have no objects."""
    names = write_images(folder / "pool", images)
    write_results(folder, names, empty=4)
    recipe = write_recipe(folder)
    for score in versions:
        options = ["--store", str(folder / "store"), "--set", f"keep.score={score}", "--set", "keep.ignore=0.2"]
        result = CliRunner().invoke(build, [str(recipe), *options])
        assert result.exit_code == 0, result.output
    return folder / "store"


def copied(store: Path, target: Path) -> Store:
    """A copy that a test may write to."""
    shutil.copytree(store, target / "store")
    return Store(target / "store")
