"""A manifest that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builder.errors import BuildError
from builder.store.files import seal
from builder.store.manifest import MANIFEST, read_manifest
from tests.helpers.pools import write_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version that a replay built."""
    from builder.build import build_pseudo
    from builder.recipe.recipe import Recipe
    from builder.store.store import Store

    names = write_images(tmp_path / "pool", 2)
    (tmp_path / "p.csv").write_text("name,red,blue\n" + "".join(f"{name},.9,.1\n" for name in names))
    recipe = Recipe.model_validate({"name": "x", "pool": "pool", "teacher": "replay:p.csv"})
    built = build_pseudo(recipe, Store(tmp_path / "store"), root=tmp_path, report=False)
    assert built.cut is not None
    return built.cut.folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": 3}, r"damaged \(classes: input should be a valid list\): build or pull"),
        ({"shards": [{"file": 1}]}, r"damaged \(shards\.0\.name: field required"),
        ({"strange": 1}, r"damaged \(strange: extra inputs are not permitted\)"),
    ],
)
def test_a_damaged_manifest_names_the_bad_key(changes: dict[str, Any], words: str, folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(seal({**json.loads(path.read_text()), **changes})))
    with pytest.raises(BuildError, match=words) as error:
        read_manifest(folder)
    assert "\n" not in str(error.value) and "pydantic" not in str(error.value)
