"""`import tutelage`: light, documented, and enough for the whole way from images to a published version."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pycocotools.coco import COCO

import tutelage
from tests.helpers.hub_server import HubServer, use_hub
from tests.helpers.pools import write_world
from tests.whole.test_structure import HEAVY, loaded

RECORDS = {"Manifest", "Pool", "Recipe", "TrainRecipe", "Truth", "Version"}
"""Classes whose objects people are handed."""


def test_importing_it_loads_nothing_heavy(tmp_path: Path) -> None:
    assert not loaded("import tutelage; dir(tutelage); tutelage.TutelageError", tmp_path) & (HEAVY - {"numpy"})
    assert not loaded("import tutelage", tmp_path) & HEAVY


def test_type_checkers_see_what_python_does() -> None:
    tree = ast.parse(Path(tutelage.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body for alias in node.names if isinstance(node, ast.ImportFrom)}
    assert seen == tutelage._HOMES
    assert {*seen} <= {*dir(tutelage)}
    with pytest.raises(AttributeError, match="no attribute 'build'"):
        tutelage.build  # noqa: B018


@pytest.mark.parametrize("name", tutelage.__all__)
def test_every_public_name_says_its_parts(name: str) -> None:
    """Of a function what it takes, returns and raises; of a class what makes it, or what it holds; all by name."""
    value = getattr(tutelage, name)
    text = inspect.getdoc(value) or ""
    assert len(text) > 60
    if name in ("TutelageError", "TutelageWarning"):
        return
    if isinstance(value, type):
        part = "Attributes:" if name in RECORDS else "Args:"
        names = [*inspect.signature(value).parameters]
    else:
        part, names = "Args:", [*inspect.signature(value).parameters]
        assert "\nReturns:\n" in text
        assert re.search(r"\nRaises:\n +[A-Z]\w+(Error|Failed)\b", text)
    listed = text.partition(f"\n{part}\n")[2].partition("\n\n")[0]
    heads = re.findall(r"^    ((?:\w+, )*\w+):", listed, re.MULTILINE)
    assert {each for head in heads for each in head.split(", ")} == {*names}


def test_every_package_is_typed() -> None:
    for package in ("tutelage", "builder", "teachers", "students"):
        assert (Path(tutelage.__file__).parent.parent / package / "py.typed").is_file()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public")
    write_world(folder, pool=12, truth=60)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with HubServer.running(tmp_path / "hub") as server:
        use_hub(monkeypatch, server.url, tmp_path)
        yield


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's uploads
def test_the_whole_way_by_tutelage_alone(world: Path, tmp_path: Path, hub: None) -> None:
    store = tutelage.Store(world / "store")
    recipe = tutelage.load_recipe(str(world / "recipe.yaml"), ["keep.precision=0.7", "keep.calibration=isotonic"])
    built = tutelage.build_pseudo(recipe, store, root=world)
    assert built.cut is not None
    version = tutelage.open_version("pets@v1", store)
    assert isinstance(version, tutelage.Version) and version.manifest.id == built.cut.manifest.id
    assert version.manifest.kept > 0 and version.report.is_file()

    measured = tutelage.calibrate(str(world / "recipe.yaml"), store)
    assert 0 < measured.figures["map"]["ece"] < 1 if "map" in measured.figures else measured.figures
    assert tutelage.sweep(str(world / "recipe.yaml"), store).figures["pool_images"] == 12

    name = next(iter(sorted(path.name for path in (world / "pool").iterdir())))
    explanation = tutelage.explain(version, name, store)
    assert explanation.name == name
    again = tutelage.build_pseudo(tutelage.load_recipe(world / "recipe.yaml", ["keep={score: 0.9}"]), store, root=world)
    assert again.cut is not None and again.cut.folder.name == "v2"
    changed = tutelage.diff(version, tutelage.open_version("pets@v2", store))
    assert not changed.empty
    assert tutelage.verify(version, store).problems == ()

    tutelage.export_version(version, tmp_path / "coco", "coco")
    assert len(COCO(tmp_path / "coco" / "annotations.json").getAnnIds()) > 0
    published = tutelage.publish(version, "org/pets", dry_run=True)
    assert published
    with pytest.raises(tutelage.TutelageError, match="pets@v7"):
        tutelage.open_version("pets@v7", store)
