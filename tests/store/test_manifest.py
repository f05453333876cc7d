"""Manifests as they were written, and what cannot be read."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from builder.errors import BuildError
from builder.store.files import SEAL, digest, seal
from builder.store.manifest import CLAIM, MANIFEST, Manifest, as_read, id_of, read_manifest
from tests.helpers.mutated import changed, mutated
from tests.helpers.pools import write_images

INPUTS = int(os.environ.get("TUTELAGE_INPUTS", "150"))
"""Mutated manifests that each run of the tests reads; as many that say something else under a digest that fits."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version that a replay built."""
    tmp_path = tmp_path_factory.mktemp("manifest")
    from builder.build import build_pseudo
    from builder.recipe.recipe import Recipe
    from builder.store.store import Store

    names = write_images(tmp_path / "pool", 2)
    (tmp_path / "p.csv").write_text("name,red,blue\n" + "".join(f"{name},.9,.1\n" for name in names))
    recipe = Recipe.model_validate({"name": "x", "pool": "pool", "teacher": "replay:p.csv"})
    done = build_pseudo(recipe, Store(tmp_path / "store"), root=tmp_path, report=False)
    assert done.cut is not None
    return done.cut.folder


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    """What is read of it."""
    for name in (MANIFEST, CLAIM):
        (tmp_path / name).write_bytes((built / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": 3}, r"damaged \(classes: input should be a valid list\): remove it, then build or pull"),
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


def read(folder: Path) -> Manifest | None:
    """None for a manifest that is refused in one sentence."""
    try:
        return read_manifest(folder)
    except BuildError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    assert len(said) < 1000
    return None


@settings(max_examples=INPUTS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_manifest_is_refused_or_says_the_same(folder: Path, built: Path, data: st.DataObject) -> None:
    whole = (built / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(data.draw(mutated(whole)))
    manifest = read(folder)
    assert manifest is None or orjson.loads(whole) == seal(manifest.written())


@settings(max_examples=INPUTS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_other_values_under_a_digest_that_fits_are_refused_or_read_again_as_they_are(
    folder: Path, built: Path, data: st.DataObject
) -> None:
    value = data.draw(changed((built / MANIFEST).read_bytes()))
    if isinstance(value, dict):
        with suppress(BuildError, ValidationError, ValueError):  # what has no id, is refused before
            manifest = Manifest.model_validate({key: kept for key, kept in value.items() if key != SEAL})
            value["id"] = id_of(manifest)
            (folder / CLAIM).write_text(digest(manifest.provenance.inputs.claimed()))
        with suppress(ValueError):
            value = seal(value)
    (folder / MANIFEST).write_text(json.dumps(value))
    if found := read(folder):
        assert found.written() == {key: kept for key, kept in value.items() if key != SEAL}
        assert as_read(found) == found
        assert as_read(found).pin == found.pin
