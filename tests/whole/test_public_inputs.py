"""What the public functions say to arguments that people get wrong, and that they take paths as text and as Path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tutelage
from builder.errors import BuildError
from builder.measure import Sweep
from builder.review.exchange import AnnotationError
from tests.helpers.pools import write_world


@dataclass(frozen=True)
class World:
    """A folder with a pool and labels, and the version built of them. Fields are of any type, to be given wrongly."""

    folder: Path
    store: Any
    version: Any
    recipe: Any


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("inputs")
    write_world(folder, pool=6, truth=40)
    store = tutelage.Store(folder / "store")
    recipe = tutelage.load_recipe(folder / "recipe.yaml", ["keep={score: 0.3}", "truth=null"])
    built = tutelage.build_pseudo(recipe, store, root=folder, report=False)
    assert built.cut
    return World(folder, store, tutelage.Version.open(built.cut.folder), recipe)


Call = Callable[[World, Any], object]
NO_VERSION: dict[str, Call] = {
    "explain": lambda w, version: tutelage.explain(version, "image_00000.jpg", w.store),
    "diff": lambda w, version: tutelage.diff(version, w.version),
    "diff, the second": lambda w, version: tutelage.diff(w.version, version),
    "verify": lambda w, version: tutelage.verify(version, w.store),
    "export": lambda w, version: tutelage.export_version(version, w.folder / "out", "coco"),
    "queue": lambda w, version: tutelage.queue(version, w.store),
    "read_answers": lambda w, version: tutelage.read_answers("export.json", version),
    "take_over": lambda w, version: tutelage.take_over(None, version, w.store),  # type: ignore[arg-type]
    "publish": lambda w, version: tutelage.publish(version, "org/pets"),
}
NO_STORE: dict[str, Call] = {
    "explain": lambda w, store: tutelage.explain(w.version, "image_00000.jpg", store),
    "verify": lambda w, store: tutelage.verify(w.version, store),
    "queue": lambda w, store: tutelage.queue(w.version, store),
    "take_over": lambda w, store: tutelage.take_over(None, w.version, store),  # type: ignore[arg-type]
    "open_version": lambda w, store: tutelage.open_version("pets", store),
    "scan_pool": lambda w, store: tutelage.scan_pool(w.folder / "pool", store),
    "build_pseudo": lambda w, store: tutelage.build_pseudo(w.recipe, store, root=w.folder),
    "foresee": lambda w, store: tutelage.foresee(w.recipe, store, root=w.folder),
    "calibrate": lambda w, store: tutelage.calibrate(str(w.folder / "recipe.yaml"), store),
    "sweep": lambda w, store: tutelage.sweep(str(w.folder / "recipe.yaml"), store),
    "pull": lambda w, store: tutelage.pull("org/pets", store),
}


@pytest.mark.parametrize("name", NO_VERSION)
def test_a_name_is_no_version(world: World, name: str) -> None:
    with pytest.raises(TypeError, match=r"^'pets@v1' is no Version: open it with open_version\(REF, store\)$"):
        NO_VERSION[name](world, "pets@v1")


@pytest.mark.parametrize("name", NO_STORE)
def test_a_folder_is_no_store(world: World, name: str) -> None:
    with pytest.raises(TypeError, match=r"^'store' is no Store: give Store\(FOLDER\)$"):
        NO_STORE[name](world, "store")


def build(world: World, recipe: Any = None, **options: Any) -> object:
    return tutelage.build_pseudo(recipe or world.recipe, world.store, root=world.folder, **options)


def scan(world: World, **options: Any) -> object:
    return tutelage.scan_pool(world.folder / "pool", world.store, **options)


def queue_of(world: World) -> Any:
    return tutelage.queue(world.version, world.store, budget=1)


WRONG: dict[str, tuple[Callable[[World], object], type[Exception], str]] = {
    "only": (lambda w: build(w, only="cutt"), BuildError, "only = 'cutt' is none of scan, label, cut"),
    "a recipe's path": (lambda w: build(w, "recipe.yaml"), TypeError, r"give a Recipe: load_recipe\("),
    "a recipe's Path": (lambda w: build(w, Path("recipe.yaml")), TypeError, r"give a Recipe: load_recipe\("),
    "limit": (lambda w: scan(w, limit=0), BuildError, "limit = 0: give at least 1"),
    "chunk_size": (lambda w: scan(w, chunk_size=-1), BuildError, "chunk_size = -1: give at least 1"),
    "workers of a scan": (lambda w: scan(w, workers=0), BuildError, "workers = 0: give at least 1"),
    "workers of a check": (
        lambda w: tutelage.verify(w.version, w.store, workers=-2),
        BuildError,
        "workers = -2: give at least 1",
    ),
    "budget": (lambda w: tutelage.queue(w.version, w.store, budget=0), BuildError, "budget = 0: give at least 1"),
    "limit of a diff": (
        lambda w: tutelage.diff(w.version, w.version, limit=-1),
        BuildError,
        "^limit = -1: give at least 0$",
    ),
    "no answers": (
        lambda w: tutelage.read_answers(str(w.folder / "missing.json"), w.version),
        AnnotationError,
        "missing.json cannot be read",
    ),
    "a folder of answers": (lambda w: tutelage.read_answers(w.folder, w.version), AnnotationError, "cannot be read"),
    "a tool": (
        lambda w: tutelage.write_queue(queue_of(w), "app", w.folder / "queue"),  # type: ignore[arg-type]
        BuildError,
        "tool 'app': give labelstudio or cvat",
    ),
    "one override": (
        lambda w: tutelage.load_recipe(w.folder / "recipe.yaml", "keep.score=0.6"),
        TypeError,
        r"overrides must be a list: give \['keep.score=0.6'\]",
    ),
    "an image": (
        lambda w: tutelage.explain(w.version, 3, w.store),  # type: ignore[arg-type]
        TypeError,
        "^3 is no text: give the key, the name or the SHA-256",
    ),
    "a folder that is no version": (
        lambda w: tutelage.open_version(w.folder / "pool", w.store),
        BuildError,
        "pool has no manifest.json",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_one_sentence(world: World, name: str) -> None:
    call, kind, sentence = WRONG[name]
    with pytest.raises(kind, match=sentence) as raised:
        call(world)
    assert "\n" not in str(raised.value) and "--repair" not in str(raised.value)


SAME: dict[str, Callable[[World, type], object]] = {
    "labels": lambda w, path: [
        image.path for image in tutelage.read_truth(path(w.folder / "truth.json"), path(w.folder / "truth")).images
    ],
    "pool": lambda w, path: tutelage.scan_pool(path(w.folder / "pool"), w.store).id,
    "pool of a COCO JSON": lambda w, path: (
        tutelage.scan_pool(path(w.folder / "truth.json"), w.store, images=path(w.folder / "truth")).id
    ),
    "Version.open": lambda w, path: tutelage.Version.open(path(w.version.folder)),
    "open_version": lambda w, path: tutelage.open_version(path(w.version.folder), w.store),
    "load_recipe": lambda w, path: tutelage.load_recipe(path(w.folder / "recipe.yaml")),
}


@pytest.mark.parametrize("name", SAME)
def test_a_path_is_text_or_a_path(world: World, name: str) -> None:
    assert SAME[name](world, str) == SAME[name](world, Path)


def test_what_is_printed_is_short(world: World) -> None:
    assert repr(world.version) == (
        f"Version(folder={str(world.version.folder)!r}, ref='pets@v1', id={world.version.manifest.id[:12]!r})"
    )
    measured = tutelage.calibrate(str(world.folder / "recipe.yaml"), world.store)
    assert repr(measured) == "Calibration(iou=0.5)"
    assert repr(Sweep({"all classes": ()}, {"kind": "detection"})) == "Sweep(figures={'kind': 'detection'})"


def test_the_version_of_the_package() -> None:
    assert tutelage.__version__.count(".") == 2 and "__version__" in dir(tutelage)


def test_stored_predictions_are_no_model_and_unknown_ones_are_named(world: World) -> None:
    with pytest.raises(tutelage.TutelageError, match=r"^replay:x are stored predictions, no model that can be asked"):
        tutelage.load_teacher("replay:x")
    with pytest.raises(tutelage.TutelageError, match=r"^predictions 'abcd' are not in "):
        tutelage.calibrate("abcd", world.store)
