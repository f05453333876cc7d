"""Verify: what it sees beyond hashes, whose fault it is, and that its memory does not grow with what lies on images."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from builder.cli.build import build
from builder.cli.versions import COMMANDS
from builder.store.files import sha256_file
from builder.store.manifest import Manifest, read_manifest, write_manifest
from builder.store.shards import read_samples, write_shard
from builder.store.store import Store
from builder.store.version import Version
from builder.versions import repair as repairing
from builder.versions.health import bad_shards
from builder.versions.verify import problems
from tests.helpers.pools import write_images, write_recipe, write_results
from tests.helpers.sealing import seal

GROUP = click.Group(commands=[*COMMANDS, build])
Samples = list[tuple[str, list[tuple[str, bytes]]]]


def run(*arguments: object, store: Path) -> Result:
    return CliRunner().invoke(GROUP, [*map(str, arguments), "--store", str(store)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version of four shards, the last without objects."""
    folder = tmp_path_factory.mktemp("verify")
    names = write_images(folder / "pool", 8, size=(512, 384), suffix=".bmp")
    write_results(folder, names[::-1], empty=2, size=(512, 384))
    recipe = write_recipe(folder, pool={"source": "pool", "chunk": 2}, shards={"max_mb": 1})
    assert run("build", recipe, store=folder / "store").exit_code == 0
    return folder / "store"


@pytest.fixture
def version(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "store")
    return tmp_path / "store" / "datasets" / "pets" / "v1"


def read(path: Path) -> Samples:
    return [(s.key, [(e, m.read()) for e, m in s.members.items()]) for s in read_samples(path)]


def relabel(number: int, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the first label JSON of a shard that has objects."""

    def damage(folder: Path) -> None:
        path = folder / "data" / f"train-{number:06d}.tar"
        samples = read(path)
        for _, members in samples:
            label = orjson.loads(members[1][1])
            if label["objects"]["score"]:
                change(label)
                members[1] = ("json", orjson.dumps(label))
                break
        write_shard(path, samples)
        seal(folder)

    return damage


def edit_labels(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        table = change(pq.read_table(folder / "labels.parquet"))
        pq.write_table(table, folder / "labels.parquet")
        seal(folder)

    return damage


def swap_boxes(label: dict[str, Any]) -> None:
    box = label["objects"]["bbox"][0]
    label["objects"]["bbox"][0] = [box[0] + 1, *box[1:]]


def repeat_a_key(folder: Path) -> None:
    first = read(folder / "data" / "train-000000.tar")
    path = folder / "data" / "train-000001.tar"
    write_shard(path, [first[0], *read(path)[1:]])
    seal(folder)


def without_first_kept(table: pa.Table) -> pa.Table:
    first = pc.index(table["outcome"], "kept").as_py()
    return pa.concat_tables([table.slice(0, first), table.slice(first + 1)])


def as_ignored(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("outcome")
    return table.set_column(place, "outcome", pc.replace_substring(table["outcome"], "kept", "ignored"))


WRONG: list[tuple[str, Callable[[Path], None], str, list[int] | None]] = [
    ("a score", relabel(1, lambda x: x["objects"]["score"].__setitem__(0, 0.999)), "1 images are not those of data/train-000001", None),
    ("a box", relabel(2, swap_boxes), "1 images are not those of data/train-000002", None),
    ("a class", relabel(1, lambda x: x["objects"]["category"].__setitem__(0, (x["objects"]["category"][0] + 1) % 3)), "not those of data", None),
    ("a class there is none of", relabel(1, lambda x: x["objects"]["category"].__setitem__(0, 3)), "3 is no position in 3 classes", [1]),
    ("an ignore flag", relabel(0, lambda x: x["objects"]["ignore"].__setitem__(0, not x["objects"]["ignore"][0])), "the manifest says", [0]),
    ("lists of unequal length", relabel(0, lambda x: x["objects"]["score"].append(0.5)), "differ in length", [0]),
    ("no objects at all", relabel(0, lambda x: x.pop("objects")), "damaged (objects: field required)", [0]),
    ("a word that nobody writes", relabel(0, lambda x: x.update(reencoded="nine")), "damaged (reencoded: ", [0]),
    ("another key", relabel(0, lambda x: x.update(key="x")), "damaged (it is that of 'x')", [0]),
    ("a row less", edit_labels(without_first_kept), "labels.parquet: the objects of 1 images", None),
    ("kept is ignored", edit_labels(as_ignored), "labels.parquet: the objects of", None),
    ("a key twice", repeat_a_key, "stands in another sample too", [1]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "damage", "told", "bad"), WRONG, ids=[w[0] for w in WRONG])
def test_what_no_hash_shows(
    version: Path, what: str, damage: Callable[[Path], None], told: str, bad: list[int] | None
) -> None:
    assert problems(Version.open(version)) == []
    damage(version)
    found = problems(Version.open(version), workers=2)
    assert any(told in problem.what for problem in found), found
    assert bad_shards(found) == (bad or [])


def other_counts(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Numbers that agree with one another, and are not those of the shards."""
    objects = manifest.objects | {
        "below_threshold": manifest.objects["below_threshold"] - 1,
        "ignore_band": manifest.objects["ignore_band"] + 1,
    }
    first, second = manifest.classes[:2]
    per_class = {name: dict(counts) for name, counts in manifest.per_class.items()}
    per_class[first]["kept"] += 1
    per_class[second]["kept"] -= 1
    return {"objects": {"objects": objects}, "per_class": {"per_class": per_class}}


@pytest.mark.parametrize(("what", "told"), [("objects", "objects."), ("per_class", "per_class.")])
def test_other_counts_are_told(version: Path, what: str, told: str) -> None:
    seal(version, **other_counts(read_manifest(version))[what])
    (found,) = problems(Version.open(version))
    assert found.what.startswith(f"manifest.json: {told}") and found.stray


def test_flags_turned_everywhere_contradict_their_reasons(version: Path) -> None:
    """An ignore flag in a label JSON, the row of labels.parquet and the numbers of the manifest."""

    def turn(label: dict[str, Any]) -> None:
        label["objects"]["ignore"] = [False] * len(label["objects"]["ignore"])

    for number in range(3):
        path = version / "data" / f"train-{number:06d}.tar"
        samples = read(path)
        for _, members in samples:
            label = orjson.loads(members[1][1])
            turn(label)
            members[1] = ("json", orjson.dumps(label))
        write_shard(path, samples)
    manifest = read_manifest(version)
    shards = [s.model_copy(update={"kept": s.kept + s.ignored, "ignored": 0}) for s in manifest.shards]
    per_class = {
        name: counts | {"kept": counts["kept"] + counts["ignored"], "ignored": 0}
        for name, counts in manifest.per_class.items()
    }
    write_manifest(version, manifest.model_copy(update={"shards": shards, "per_class": per_class}))
    table = pq.read_table(version / "labels.parquet")
    kept = pc.replace_substring(table["outcome"], "ignored", "kept")
    pq.write_table(
        table.set_column(table.schema.get_field_index("outcome"), "outcome", kept), version / "labels.parquet"
    )
    seal(version)
    (found, *_) = problems(Version.open(version))
    assert "objects are kept for the reason 'ignore_band', which makes them ignored" in found.what


def test_an_index_of_other_samples_is_told(version: Path) -> None:
    table = pq.read_table(version / "index.parquet")
    keys = pa.array(["other-0123456789ab", *table["key"].to_pylist()[1:]])
    pq.write_table(table.set_column(0, "key", keys), version / "index.parquet", row_group_size=2)
    manifest = read_manifest(version)
    files = manifest.files | {"index.parquet": sha256_file(version / "index.parquet")}
    write_manifest(version, manifest.model_copy(update={"files": files}))
    assert any("index.parquet says something else" in p.what for p in problems(Version.open(version)))


def test_the_order_of_rows_and_of_objects_does_not_matter(version: Path) -> None:
    order = np.random.default_rng(0).permutation(pq.read_metadata(version / "labels.parquet").num_rows)
    edit_labels(lambda table: table.take(order))(version)

    def backwards(label: dict[str, Any]) -> None:
        label["objects"] = {name: column[::-1] for name, column in label["objects"].items()}

    relabel(0, backwards)(version)
    assert problems(Version.open(version)) == []


def test_rows_of_images_that_are_not_in_the_shards_are_counted(version: Path) -> None:
    def more(table: pa.Table) -> pa.Table:
        foreign = table.slice(0, 3)
        keys = pa.array(["not-there"] * 3)
        return pa.concat_tables([table, foreign.set_column(table.schema.get_field_index("key"), "key", keys)])

    edit_labels(more)(version)
    (found,) = problems(Version.open(version))
    assert found.what.startswith("manifest.json: objects.") and found.stray


def test_an_added_tombstone_is_told(version: Path) -> None:
    key = pq.read_table(version / "labels.parquet")["key"][0].as_py()
    edit_labels(lambda table: table.filter(pc.field("key") != key))(version)
    assert problems(Version.open(version))
    seal(version, tombstones=[key])
    assert "2 skipped kept; the manifest says 0" in problems(Version.open(version))[0].what


def test_stray_files_are_told_but_no_hidden_ones(version: Path) -> None:
    (version / "data" / "notes.txt").write_text("mine")
    (version / "extra").mkdir()
    (version / "extra" / "a.png").write_bytes(b"")
    (version / ".gitattributes").write_text("")
    (version / "data" / ".tmp-train-000000.tar-1").write_bytes(b"")
    found = problems(Version.open(version))
    assert [p.what.partition(":")[0] for p in found] == ["data/notes.txt", "extra/a.png"]
    assert all(p.stray for p in found) and bad_shards(found) == []
    told = run("verify", "pets", store=version.parents[2])
    assert told.exit_code == 1 and "2 problems in pets: move files that are not part of it elsewhere" in told.output


def test_every_bad_shard_is_named(version: Path) -> None:
    (version / "data" / "train-000002.tar").unlink()
    raw = bytearray((path := version / "data" / "train-000000.tar").read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))
    (version / "README.md").write_text("?")
    found = problems(Version.open(version), workers=3)
    assert bad_shards(found) == [0, 2]
    assert {p.shard for p in found} == {"", "train-000000.tar", "train-000002.tar"}


def test_quick_finds_what_hashes_show_and_looks_at_nothing_else(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.versions.verify.decode_rgb", None)  # would fail
    quick = run("verify", "pets", "--quick", store=version.parents[2])
    assert quick.exit_code == 0 and quick.output.strip().endswith("every file has its hash")
    with open(version / "data" / "train-000001.tar", "r+b") as file:
        file.seek(-2000, 2)
        file.write(b"?")
    (version / "README.md").write_text("?")
    found = problems(Version.open(version), quick=True)
    assert [p.what for p in found] == [
        "README.md: its bytes are not those of the manifest",
        "data/train-000001.tar: its SHA-256 is not the manifest's",
    ]
    assert run("verify", "pets", "--quick", store=version.parents[2]).exit_code == 1


def test_repair_is_asked_for_the_bad_shards_alone(version: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the repair itself does is tested with the cut."""
    asked: list[list[int]] = []

    def stand_in(bad: Version, store: Store, numbers: list[int], workers: int, track: object) -> None:
        asked.append(numbers)
        shutil.copytree(made / "datasets" / "pets" / "v1", bad.folder, dirs_exist_ok=True)

    monkeypatch.setattr(repairing, "repair", stand_in)
    store = version.parents[2]
    assert run("verify", "pets", "--repair", store=store).exit_code == 0 and asked == []
    (version / "data" / "train-000001.tar").write_bytes(b"junk")
    (version / "labels.parquet").unlink()
    before = run("verify", "pets", store=store)
    assert before.exit_code == 1 and "`tutelage verify --repair pets` rebuilds what is damaged" in before.output
    (version / "data" / "mine.txt").write_text("stays")
    done = run("verify", "pets", "--repair", "--json", store=store)
    value = json.loads(done.stdout)
    assert asked == [[1]] and done.exit_code == 1
    assert [p.partition(":")[0] for p in value["problems"]] == ["data/mine.txt"]
    assert any("labels.parquet: missing" in p for p in value["repaired"]) and len(value["repaired"]) >= 2
    (version / "data" / "mine.txt").unlink()
    (version / "labels.parquet").unlink()
    assert run("verify", "pets", "--repair", store=store).exit_code == 0 and asked == [[1], []]


def test_a_version_needs_no_other_column_than_it_has(version: Path) -> None:
    edit_labels(lambda table: table.drop_columns(["calibrated"]))(version)
    assert problems(Version.open(version)) == []
    edit_labels(lambda table: table.drop_columns(["source"]))(version)
    assert problems(Version.open(version)) == []
    edit_labels(lambda table: table.drop_columns(["score"]))(version)
    assert problems(Version.open(version))[0].what == "labels.parquet is damaged (it has no column score)"


def test_the_fixture_is_what_it_says(made: Path) -> None:
    manifest: Manifest = read_manifest(made / "datasets" / "pets" / "v1")
    assert [shard.samples for shard in manifest.shards] == [2, 2, 2, 2]
    assert [bool(shard.kept + shard.ignored) for shard in manifest.shards] == [True, True, True, False]
