"""A version of images in formats that few readers of shards know."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from builder.build import build_pseudo
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from builder.versions.health import verify
from teachers.images import file_extensions
from tests.helpers.pools import write_images, write_recipe, write_results


@pytest.mark.parametrize(("suffix", "written"), [(".avif", "jpg"), (".jp2", "jpg"), (".bmp", "bmp"), (".mpo", "jpg")])
def test_shards_hold_what_readers_know(suffix: str, written: str, tmp_path: Path) -> None:
    if suffix[1:] not in file_extensions():
        pytest.skip(f"{suffix} cannot be read here")
    write_results(tmp_path, write_images(tmp_path / "pool", 5, suffix=suffix))
    store = Store(tmp_path / "store")
    built = build_pseudo(load_recipe(write_recipe(tmp_path)), store, root=tmp_path)
    assert built.cut and built.cut.manifest.features == [written, "json"]
    assert not verify(built.cut, store).problems
    with tarfile.open(built.cut.folder / "data" / "train-000000.tar") as tar:
        assert {Path(name).suffix for name in tar.getnames()} == {f".{written}", ".json"}
