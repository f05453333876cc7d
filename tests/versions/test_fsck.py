"""The state of a whole store: what is bad is found, made again where it can be, and told where it cannot."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from builder.cli.main import main
from builder.rules.overrides import Override, add_overrides, read_overrides
from builder.store.files import TEMPORARY, unseal
from builder.store.history import read_history
from builder.store.store import Store
from builder.store.sums import SUMS, forget_checked
from builder.versions.fsck import flipped_back
from tests.helpers.pools import tree, write_images, write_recipe, write_results


def run(*arguments: object, store: Path) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--store", str(store)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of a pool of three chunks, a tagged version, and what somebody said of it."""
    folder = tmp_path_factory.mktemp("fsck")
    write_results(folder, write_images(folder / "pool", 10))
    recipe = write_recipe(folder)
    assert run("build", recipe, store=folder / "store").exit_code == 0
    assert run("tag", "pets@v1", "good", store=folder / "store").exit_code == 0
    said = [Override("0" * 64, (1, 2, 3, 4 + n), "reject", "cat") for n in range(3)]
    add_overrides(Store(folder / "store"), "pets", said)
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the store, with the images where they were scanned, and the teacher where the recipe says."""
    shutil.copytree(made / "store", tmp_path / "store")
    monkeypatch.chdir(made)
    forget_checked()
    return tmp_path / "store"


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


FILES = {
    "pool": ("pools/[0-9a-f]*/pool.parquet", "pool.parquet is damaged"),
    "a pool's sums": (f"pools/[0-9a-f]*/{SUMS}", "SHA256SUMS"),
    "source": ("pools/sources/*.json", "digest"),
    "teacher": ("predictions/*/meta.json", "it"),
    "images": ("predictions/*/*/images.parquet", "images.parquet is damaged"),
    "objects": ("predictions/*/*/objects.parquet", "objects.parquet is damaged"),
    "a chunk's sums": (f"predictions/*/*/{SUMS}", "SHA256SUMS"),
    "shard": ("datasets/pets/v1/data/train-000000.tar", "train-000000.tar"),
    "labels": ("datasets/pets/v1/labels.parquet", "labels.parquet"),
    "card": ("datasets/pets/v1/README.md", "README.md"),
    "overrides": ("reviews/pets/overrides.json", "digest"),
    "tag": ("tags/pets/good", "digest"),
    "history": ("history.json", "damaged"),
    "claim": ("datasets/pets/v1/claim", "claim"),
    "index": ("datasets/pets/v1/index.parquet", "index.parquet"),
    "manifest": ("datasets/pets/v1/manifest.json", "damaged"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_and_all_is_as_it_was_after_a_repair(name: str, world: Path) -> None:
    pattern, what = FILES[name]
    before = tree(world)
    flip(next(iter(sorted(world.glob(pattern)))))
    checked = run("fsck", "--json", store=world)
    faults = [fault for fault in json.loads(checked.stdout)["faults"] if fault["state"] == "bad"]
    assert checked.exit_code == 1 and faults and what in faults[0]["what"] and faults[0]["again"]
    repaired = run("fsck", "--repair", store=world)
    assert repaired.exit_code == 0, repaired.output
    assert "repaired: " in repaired.output and tree(world) == before
    assert run("fsck", store=world).exit_code == 0


def test_nothing_is_written_by_a_look(world: Path) -> None:
    flip(next(world.glob("predictions/*/*/objects.parquet")))
    before = tree(world)
    assert run("fsck", store=world).exit_code == 1
    assert tree(world) == before


def without_images(world: Path) -> str:
    shutil.rmtree(world.parent / "elsewhere", ignore_errors=True)
    flip(next(world.glob("pools/[0-9a-f]*/pool.parquet")))
    pointer = next(world.glob("pools/sources/*.json"))
    pointer.unlink()
    return "it is of no source's last scan"


def without_teacher(world: Path) -> str:
    flip(next(world.glob("predictions/*/*/objects.parquet")))
    for path in (*world.glob("datasets/pets/v1/manifest.json"),):
        path.unlink()
    meta = next(world.glob("predictions/*/meta.json"))
    value = unseal(orjson.loads(meta.read_bytes()), meta)
    meta.write_bytes(orjson.dumps({**value, "spec": "onnx:gone.onnx"}))
    return "its teacher onnx:gone.onnx is not at hand"


def two_bits(world: Path) -> str:
    path = world / "reviews" / "pets" / "overrides.json"
    for place in (0.3, 0.6):
        flip(path, place)
    return "more of it is damaged than one bit"


@pytest.mark.parametrize("damage", [without_images, without_teacher, two_bits])
def test_what_cannot_be_made_again_stays_and_says_why(damage: Callable[[Path], str], world: Path) -> None:
    why = damage(world)
    before = tree(world)
    done = run("fsck", "--repair", store=world)
    assert (
        done.exit_code == 1 and f"cannot be repaired: {why}" in done.output and "what remains needs you" in done.output
    )
    assert tree(world) == before


def test_another_teacher_answer_is_not_put_in_place(made: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sorted(world.glob("predictions/*/*/objects.parquet"))[0]
    sums = (path.with_name(SUMS)).read_text().splitlines()
    path.write_bytes(path.read_bytes()[:-1])
    other = "\n".join([sums[0], "0" * 64 + sums[1][64:], ""])  # as if it had said something else
    path.with_name(SUMS).write_text(other)
    before = tree(world)
    done = run("fsck", "--repair", store=world)
    assert done.exit_code == 1 and "its teacher says something else now (objects.parquet" in done.output
    assert tree(world) == before


def test_a_store_from_before_gets_its_digests_once(world: Path) -> None:
    for path in world.rglob(SUMS):
        path.unlink()
    patterns = ("pools/sources/*.json", "predictions/*/meta.json", "reviews/*/*.json", "tags/*/*", "history.json")
    for path in (path for pattern in patterns for path in world.glob(pattern) if path.name[0] != "."):
        value = unseal(orjson.loads(path.read_bytes()), path)
        if path.name == "history.json":
            value = {ref: {key: event[key] for key in ("id", "what", "when", "author")} for ref, event in value.items()}
        path.write_bytes(orjson.dumps(value))
    found = json.loads(run("fsck", "--json", store=world).stdout)["faults"]
    assert {fault["state"] for fault in found} == {"unverified"}
    areas = {"source", "pool", "teacher", "chunk", "review", "history", "version", "tag"}
    assert {fault["area"] for fault in found} == areas
    done = run("fsck", "--adopt", store=world)
    assert done.exit_code == 0 and done.output.count("adopted: ") == len(found)
    (event,) = read_history(world).values()
    assert event.manifest == Store(world).version("pets").manifest.pin and event.adopted
    assert "# unverified before 20" in next(world.glob(f"predictions/*/*/{SUMS}")).read_text()
    after = tree(world)
    again = run("fsck", "--adopt", store=world)
    assert "adopted" not in again.output and tree(world) == after
    assert len(read_overrides(Store(world), "pets")) == 3
    flip(next(world.glob("predictions/*/*/images.parquet")))
    assert run("fsck", store=world).exit_code == 1


def test_leftovers_are_told_and_swept(world: Path) -> None:
    left = [
        world / "datasets/pets/v1" / f"{TEMPORARY}repair",
        next(world.glob("predictions/[0-9a-f]*")) / f"{TEMPORARY}x",
    ]
    for folder in left:
        folder.mkdir()
    told = run("fsck", store=world)
    assert told.exit_code == 0 and told.output.count("left over: ") == 2
    assert run("fsck", "--repair", store=world).exit_code == 0
    assert not any(folder.exists() for folder in left)


def test_an_empty_store_has_no_faults_and_none_is_no_store(tmp_path: Path) -> None:
    assert run("fsck", store=tmp_path).output == f"{tmp_path}: no problems\n"
    missed = run("fsck", store=tmp_path / "none")
    assert missed.exit_code == 1 and f"there is no store {tmp_path / 'none'} to check: give --store" in missed.output
    assert not (tmp_path / "none").exists()


def test_a_tag_of_nothing_and_a_broken_one_say_what_mends_them(world: Path) -> None:
    assert run("tag", "pets@v1", "other", store=world).exit_code == 0
    (world / "tags" / "pets" / "other").write_text("junk")
    shutil.rmtree(world / "datasets" / "pets" / "v1")
    done = run("fsck", "--repair", store=world)
    assert "it is as it was written: run `tutelage tag --force pets@VERSION good` or" in done.output
    assert "nothing else says what it was: run `tutelage tag --force pets@VERSION other` or" in done.output
    for name in ("good", "other"):
        assert run("tag", "--delete", "pets", name, store=world).exit_code == 0
    assert run("fsck", store=world).exit_code == 0


def test_the_note_of_a_pool_that_is_gone_says_what_mends_it(world: Path) -> None:
    shutil.rmtree(next(world.glob("pools/[0-9a-f]*")))
    note = next(world.glob("pools/sources/*.json"))
    done = run("fsck", "--repair", store=world)
    assert done.exit_code == 1 and "it is as it was written: remove it, and the next scan" in done.output
    note.unlink()
    assert run("fsck", store=world).exit_code == 0


def test_what_a_damaged_version_advises_works(made: Path, world: Path) -> None:
    shutil.rmtree(world / "reviews")  # else the build is another one, with these
    version = world / "datasets" / "pets" / "v1"
    before = tree(version)
    (version / "data" / "train-000000.tar").unlink()
    told = run("build", "recipe.yaml", store=world)
    assert told.exit_code == 1 and "train-000000.tar is missing: run `tutelage verify --repair pets@v1`" in told.output
    assert run("verify", "--repair", "pets@v1", store=world).exit_code == 0 and tree(version) == before
    (version / "manifest.json").write_text("{}")
    told = run("show", "pets@v1", store=world)
    assert told.exit_code == 1 and "manifest.json is damaged" in told.output and "remove it, then build" in told.output
    (version / "manifest.json").unlink()
    assert run("build", "recipe.yaml", store=world).exit_code == 0 and tree(version) == before


def test_one_bit_is_turned_back_and_not_two() -> None:
    whole = b"some words"
    assert flipped_back(b"somd words", lambda data: data == whole) == whole
    assert flipped_back(b"smod words", lambda data: data == whole) is None
