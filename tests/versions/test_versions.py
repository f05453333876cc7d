"""What one can ask of the versions of a store: log, tags, diff, explain, gc."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from builder.cli.build import build
from builder.cli.log import diff, log
from builder.cli.versions import COMMANDS
from builder.store.manifest import read_manifest
from tests.helpers.pools import tree, write_images, write_recipe, write_results
from tests.helpers.records import changed
from tests.helpers.sealing import reseal, seal

GROUP = click.Group(commands=[log, diff, *COMMANDS, build])


def run(*arguments: object, store: Path) -> Result:
    return CliRunner().invoke(GROUP, [*map(str, arguments), "--store", str(store)])


def run_json(*arguments: object, store: Path) -> Any:
    result = run(*arguments, "--json", store=store)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: object, store: Path) -> str:
    result = run(*arguments, store=store)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1, result.output
    return result.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of 20 images, the second stricter; one image is unreadable, one a duplicate, one was removed, four
    have no objects."""
    folder = tmp_path_factory.mktemp("versions")
    pool = folder / "pool"
    names = write_images(pool, 20)
    write_results(folder, names, empty=4)
    recipe, store = write_recipe(folder, max_failure_rate=0.5), folder / "store"
    (pool / "gone.jpg").write_bytes((pool / names[0]).read_bytes()[:-1] + b"\0\xff\xd9")
    run_json("build", recipe, "--only", "scan", store=store)
    (pool / "gone.jpg").unlink()
    shutil.copy(pool / names[7], pool / "zz_copy.jpg")
    (pool / "bad.jpg").write_text("no image")
    run_json("build", recipe, store=store)
    run_json("build", recipe, "--set", "keep.score=0.7", "--set", "keep.ignore=0.5", "--set", "images.drop_empty=true",
             "--set", "keep.nms=0.3", store=store)  # fmt: skip
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(made / "store", tmp_path / "store")
    return tmp_path / "store"


def with_provenance(folder: Path, **changes: Any) -> None:
    reseal(folder, provenance=changed(read_manifest(folder).provenance, **changes))


# log and tags


def test_log_lists_versions_with_their_lineage(store: Path) -> None:
    v1, v2 = (store / "datasets" / "pets" / v for v in ("v1", "v2"))
    group = {"classes": ["cat"], "rule": "precision", "threshold": 0.6, "certified": True, "target": 0.8}
    rest = {"classes": ["dog", "bird"], "rule": "precision", "threshold": None, "target": 0.8}
    with_provenance(v2, thresholds=[group, rest], parent={"version": "pets@v1", "id": read_manifest(v1).id})
    (store / "datasets" / "pets" / "v3").mkdir()
    (store / "datasets" / "pets" / "v3" / "claim").write_text("a digest")
    run_json("tag", "pets@v1", "first", store=store)
    one, two, three = run_json("log", "pets", store=store)["versions"]
    manifest = read_manifest(v1)
    assert (one["version"], one["id"], one["samples"], one["kept"]) == ("v1", manifest.id, 20, manifest.kept)
    assert (one["parent"], one["certified"], one["tags"], one["teacher"]) == (
        "",
        None,
        ["first"],
        "replay:results.json",
    )
    assert one["pool"] == manifest.provenance.inputs.pool and one["bytes"] > manifest.shards[0].bytes
    assert (two["parent"], two["certified"], two["alone"], two["together"]) == ("pets@v1", 0.8, ["cat"], [])
    assert (three["state"], three["id"]) == ("unfinished", "")
    text = run("log", store=store).output
    assert all(word in text for word in ("pets@v1", "unknown", "first", "0.8: cat (", "unfinished"))
    assert sum(line.startswith("pets@") for line in text.splitlines()) == 3
    assert run_json("log", store=store) == run_json("log", "pets", store=store)


def test_log_shows_what_is_damaged_and_says_what_is_missing(store: Path, tmp_path: Path) -> None:
    (store / "datasets" / "pets" / "v1" / "manifest.json").write_text("{")
    told = run("log", store=store)
    assert told.exit_code == 0 and "damaged" in told.output and "pets@v2" in told.output
    assert "it holds pets" in refused("log", "dogs", store=store)
    assert "run `tutelage build` first" in run("log", store=tmp_path / "none").output
    assert "holds none yet" in refused("log", "pets", store=tmp_path / "none")


def test_a_tag_stands_for_its_version_until_it_is_moved_or_removed(store: Path) -> None:
    assert run_json("tag", "pets", store=store) == {"tags": []}
    run_json("tag", "pets@v1", "good", store=store)
    run_json("tag", "pets@v1", "good", store=store)  # the same again is no move
    kept = [read_manifest(store / "datasets" / "pets" / v).kept for v in ("v1", "v2")]
    same = run_json("diff", "pets@good", "pets@v1", store=store)
    assert same["empty"] and not run_json("diff", "pets@good", "pets@latest", store=store)["empty"]
    assert "--force moves it" in refused("tag", "pets@v2", "good", store=store)
    run_json("tag", "pets@v2", "good", "--force", store=store)
    assert [t["version"] for t in run_json("tag", "pets", store=store)["tags"]] == ["v2"] and kept[0] > kept[1]
    run_json("tag", "pets@good", "better", store=store)
    assert run("tag", "pets", store=store).output.splitlines()[0].startswith("pets@better  v2")
    run_json("tag", "pets@good", "--delete", store=store)
    run_json("tag", "pets", "better", "--delete", store=store)
    assert run("tag", "pets", store=store).output == "pets has no tags\n"
    assert "no version 'pets@good'" in refused("diff", "pets@good", "pets", store=store)
    assert "it has none" in refused("tag", "pets", "good", "--delete", store=store)


@pytest.mark.parametrize("name", ["v3", "V12", "latest", "../x", "a/b", ".hidden", "a b", "", "x" * 65])
def test_a_name_that_no_tag_may_have(store: Path, name: str) -> None:
    if not name:
        assert run("tag", "pets@v1", "--delete", "", store=store).exit_code in (1, 2)
        return
    assert "must be 1 to 64 letters" in refused("tag", "pets@v1", name, store=store)
    assert not list((store / "tags").rglob("[!.]*"))


def test_a_tag_never_comes_to_mean_other_contents(store: Path) -> None:
    run_json("tag", "pets@v2", "good", store=store)
    folder = store / "datasets" / "pets" / "v2"
    counts = read_manifest(folder).per_class
    reseal(folder, classes=["cow", "dog", "bird"], per_class={"cow": counts.pop("cat")} | counts)
    assert "which now has" in refused("diff", "pets@good", "pets@v1", store=store)
    assert run_json("log", store=store)["versions"][1]["tags"] == ["good (stale)"]
    shutil.rmtree(store / "datasets" / "pets" / "v2")
    assert "no longer there" in refused("diff", "pets@good", "pets@v1", store=store)
    (store / "tags" / "pets" / "good").write_text("junk")
    assert "is damaged" in refused("diff", "pets@good", "pets@v1", store=store)


REFS = [
    ("pets@v9", "pets has v1, v2, good"),
    ("dogs", "it holds pets"),
    ("pets@v3", "has not finished"),
    ("../pets", "it holds pets"),
]


@pytest.mark.parametrize(("ref", "told"), REFS)
def test_a_version_that_is_not_there(store: Path, ref: str, told: str) -> None:
    run_json("tag", "pets@v2", "good", store=store)
    (store / "datasets" / "pets" / "v3").mkdir()
    assert told in refused("diff", ref, "pets", store=store)


# diff of real versions


def test_diff_of_two_versions_adds_up(made: Path) -> None:
    store = made / "store"
    folders = [store / "datasets" / "pets" / v for v in ("v1", "v2")]
    found = run_json("diff", "pets@v1", "pets@v2", store=store)
    states = []
    for folder in folders:
        keys = set(written(folder))
        rows = pq.read_table(folder / "labels.parquet").to_pylist()
        states.append(
            {(r["key"], r["label"], r["x1"], r["y1"], r["score"]): r["outcome"] for r in rows
             if r["key"] in keys and r["outcome"] != "dropped"}
        )  # fmt: skip
    a, b = states
    assert found["total"]["removed"] == len(a.keys() - b.keys()) > 0
    assert found["total"]["added"] == len(b.keys() - a.keys())
    flipped = sum(a[k] == "kept" and b[k] == "ignored" for k in a.keys() & b.keys())
    assert found["total"]["kept_to_ignored"] == flipped > 0
    assert sum(c["removed"] for c in found["classes"].values()) == found["total"]["removed"]
    assert found["images"]["removed"] == len(set(written(folders[0])) - set(written(folders[1])))
    text = run("diff", "pets@v1", "pets@v2", "--limit", 2, store=store).output
    assert "kept→ignored" in text and "cat" in text and "images removed" in text
    assert "hold the same objects on the same 20 images" in run("diff", "pets@v1", "pets@v1", store=store).output


def test_tombstoned_images_count_as_not_there(store: Path) -> None:
    shutil.copytree(store / "datasets" / "pets" / "v1", store / "datasets" / "pets" / "v3")
    folder = store / "datasets" / "pets" / "v3"
    keys = written(folder)
    reseal(folder, version="v3", tombstones=[keys[8]])
    found = run_json("diff", "pets@v1", "pets@v3", store=store)
    assert found["removed_images"] == [keys[8]] and found["images"]["changed"] == 0
    assert found["total"]["removed"] == found["total"]["on_gone_images"] > 0
    assert run_json("explain", "pets@v3", keys[8], store=store)["state"] == "tombstone"


def written(folder: Path) -> list[str]:
    from builder.store.shards import read_samples

    return [s.key for path in sorted((folder / "data").glob("*.tar")) for s in read_samples(path)]


def test_a_child_version_has_a_parent_tombstones_and_an_honest_diff(made: Path, tmp_path: Path) -> None:
    names = write_images(tmp_path / "pool", 8)
    write_results(tmp_path, names)
    (late := tmp_path / "pool" / names[7]).rename(tmp_path / "late.jpg")
    recipe, store = write_recipe(tmp_path, max_failure_rate=0.5), tmp_path / "store"
    run_json("build", recipe, store=store)
    (tmp_path / "pool" / names[2]).unlink()
    (tmp_path / "late.jpg").rename(late)
    run_json("build", recipe, "--set", "parent=pets@v1", store=store)
    parent, child = run_json("log", store=store)["versions"]
    assert (parent["parent"], child["parent"]) == ("", "pets@v1")
    found = run_json("diff", "pets@v1", "pets@v2", store=store)
    assert found["images"] == {"added": 1, "removed": 1, "common": 6, "changed": 0}
    assert found["total"]["added"] == found["total"]["on_new_images"]
    assert found["total"]["removed"] == found["total"]["on_gone_images"] > 0
    gone = run_json("explain", "pets@v2", names[2], store=store)
    assert gone["state"] == "tombstone" and gone["objects"][0]["whence"] == "set by hand, taken over from pets@v1"
    assert run("verify", "pets", store=store).exit_code == 0
    assert run_json("gc", "--predictions", store=store)["garbage"] == []


# explain


def test_explain_tells_every_prediction_of_an_image(made: Path) -> None:
    store, name = made / "store", "image_00009.jpg"
    found = run_json("explain", "pets@v1", name, store=store)
    raw = json.loads((made / "results.json").read_text())
    mine = sorted((r["score"] for r in raw if r["image_id"] == 19 and r["score"] >= 0.05), reverse=True)
    np.testing.assert_allclose([o["score"] for o in found["objects"]], mine, rtol=1e-6)
    assert found["state"] == "written" and found["name"] == name
    for one in found["objects"]:
        outcome = "kept" if one["score"] >= 0.5 else "ignored" if one["score"] >= 0.3 else "dropped"
        assert (one["outcome"], one["threshold"], one["whence"]) == (outcome, 0.5, "set by hand")
        words = {"kept": "reaches the threshold 0.5", "ignored": "but reaches 0.3", "dropped": "and below 0.3"}[outcome]
        assert words in one["why"] and "set by hand" in one["why"]
    for part in (found["key"], found["key"][:-3], found["sha256"], found["sha256"][:10]):
        assert run_json("explain", "pets@v1", part, store=store) == found
    assert "set by hand" in run("explain", "pets@v1", name, store=store).output


def test_explain_quotes_the_evidence_of_a_threshold(store: Path) -> None:
    group = {"classes": ["cat", "dog"], "rule": "precision", "threshold": 0.5, "certified": True, "target": 0.8,
             "units": 101, "kept": 412, "correct": 340, "p_value": 0.08}  # fmt: skip
    other = {"classes": ["bird"], "rule": "precision", "threshold": 0.5, "reason": "needs 11 objects, has 3"}
    folder = store / "datasets" / "pets" / "v1"
    with_provenance(folder, thresholds=[group, other], parent={"version": "pets@v0", "thresholds": "taken over"})
    objects = [o for k in written(folder) for o in run_json("explain", "pets@v1", k, store=store)["objects"]]
    solved = "solved for precision 0.8: 412 kept, 340 right on 101 certify images, p = 0.08, taken over from pets@v0"
    assert {o["whence"] == solved for o in objects if o["label"] != "bird"} == {True}
    assert any(f"of group cat, dog ({solved})" in o["why"] for o in objects)
    assert all("needs 11 objects, has 3" in o["whence"] for o in objects if o["label"] == "bird")


def test_explain_names_the_rule_that_refused(made: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    rules = ["nms=0.3", "max_per_image=2", "min_size=12", "where=x1 > 4", "score=0.2", "ignore=0.1"]
    run_json("build", made / "recipe.yaml", *(x for r in rules for x in ("--set", f"keep.{r}")), store=store)
    found = [o for k in written(store / "datasets" / "pets" / "v1")
             for o in run_json("explain", "pets", k, store=store)["objects"]]  # fmt: skip
    words = {"nms": "overlaps it by more than nms 0.3: the one with score", "cap": "2 better boxes",
             "size": "below min_size 12", "where_false": "`where` is false for it: x1 > 4"}  # fmt: skip
    for reason, told in words.items():
        some = [o["why"] for o in found if o["reason"] == reason]
        assert some and all(told in why for why in some), reason


def with_reasons(version: Path, reason: str) -> str:
    """Give every object this reason, as a wrong builder would have. Returns a key."""
    table = pq.read_table(version / "labels.parquet")
    reasons = pa.array([reason] * len(table), table.schema.field("reason").type)
    pq.write_table(
        table.set_column(table.schema.get_field_index("reason"), "reason", reasons), version / "labels.parquet"
    )
    seal(version)
    return str(table["key"][0].as_py())


def test_explain_quotes_a_reason_that_it_does_not_know(store: Path) -> None:
    """Of a newer Tutelage it is a word, which is quoted; whoever wrote what is none, a template, is told."""
    version = store / "datasets" / "pets" / "v1"
    key = with_reasons(version, "of_tomorrow")
    objects = run_json("explain", "pets@v1", key, store=store)["objects"]
    assert objects and all("refused by 'of_tomorrow'" in one["why"] for one in objects)
    with_reasons(version, "{it.rules.keep} {x")
    said = refused("explain", "pets@v1", key, store=store)
    assert "its column reason holds '{it.rules.keep} {x'" in said and "`tutelage verify --repair`" in said


def test_explain_says_why_an_image_is_not_in_the_version(made: Path) -> None:
    store = made / "store"
    states = {
        "bad.jpg": ("unreadable", "could not be read: not an image"),
        "zz_copy.jpg": ("duplicate", "same bytes as image_00007.jpg"),
        "gone.jpg": ("removed", "no longer in its source"),
        "image_00000.jpg": ("empty", "images.drop_empty is set"),
    }
    for name, (state, why) in states.items():
        found = run_json("explain", "pets@v2", name, store=store)
        assert found["state"] == state and why in found["why"] and found["name"] == name
    same = run_json("explain", "pets@v1", "image_00007.jpg", store=store)
    assert run_json("explain", "pets@v1", same["sha256"][:12], store=store) == same  # and not its duplicate


def test_explain_finds_leaks_and_near_duplicates_again(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "pool", tmp_path / "pool")
    shutil.copy(made / "results.json", tmp_path)
    listing = json.loads((made / "listing.json").read_text())
    (tmp_path / "listing.json").write_text(json.dumps(listing))
    box = {"id": 1, "image_id": 18, "category_id": 3, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    (tmp_path / "test.json").write_text(json.dumps(listing | {"images": listing["images"][8:9], "annotations": [box]}))
    shutil.copytree(tmp_path / "pool", tmp_path / "test")
    with Image.open(tmp_path / "pool" / "image_00009.jpg") as image:
        image.save(tmp_path / "pool" / "image_00010.jpg", quality=60)
    recipe, store = write_recipe(tmp_path, max_failure_rate=0.5, images={"near_duplicates": 4}), tmp_path / "store"
    run_json("build", recipe, "--set", "test={source: test.json, images: test}", store=store)
    for name, state, why in (
        ("image_00008.jpg", "leak", "image_00008.jpg of test"),
        ("image_00010.jpg", "near_duplicate", "image_00009.jpg"),
    ):
        found = run_json("explain", "pets", name, store=store)
        assert found["state"] == state and why in found["why"], found


def test_explain_without_the_pool_looks_into_the_shards(store: Path) -> None:
    before = run_json("explain", "pets@v1", "image_00009.jpg", store=store)
    shutil.rmtree(store / "pools")
    assert run_json("explain", "pets@v1", "image_00009.jpg", store=store) == before
    assert run_json("explain", "pets@v1", before["sha256"][:8], store=store) == before
    assert "no image 'gone.jpg'" in refused("explain", "pets@v1", "gone.jpg", store=store)


def test_a_key_that_says_too_little(made: Path) -> None:
    assert "stands for 20 images" in refused("explain", "pets@v1", "image_", store=made / "store")
    assert "no image 'im'" in refused("explain", "pets@v1", "im", store=made / "store")
    assert "no image 'x%_'" in refused("explain", "pets@v1", "x%_", store=made / "store")


def test_explain_draws_the_image(made: Path, tmp_path: Path) -> None:
    picture = tmp_path / "one.png"
    run_json("explain", "pets@v1", "image_00009.jpg", "--picture", picture, store=made / "store")
    with Image.open(picture) as image:
        assert image.width >= 64
    assert "bad" in refused("explain", "pets@v1", "bad.jpg", "--picture", tmp_path / "no.png", store=made / "store")
    assert not (tmp_path / "no.png").exists()


@pytest.mark.parametrize("file", ["data/train-000000.tar", "labels.parquet", "manifest.json"])
def test_damage_is_told_in_one_sentence(store: Path, file: str) -> None:
    path = store / "datasets" / "pets" / "v1" / file
    path.write_bytes(b"junk")
    told = "verify" if file != "manifest.json" else "is damaged"
    assert told in refused("diff", "pets@v1", "pets@v2", store=store)
    assert told in refused("explain", "pets@v1", "image_00009.jpg", store=store)
    path.unlink()
    assert refused("diff", "pets@v1", "pets@v2", store=store)
    assert refused("explain", "pets@v1", "image_00009.jpg", store=store)


# gc


def leave_rubbish(store: Path) -> dict[str, str]:
    """Rubbish of each kind; path below the store -> kind."""
    v1 = store / "datasets" / "pets" / "v1"
    unfinished = store / "datasets" / "pets" / "v3"
    (unfinished / "data").mkdir(parents=True)
    (unfinished / "claim").write_text("a digest")
    (unfinished / "data" / ".tmp-train-000000.tar-1").write_bytes(bytes(1000))
    (v1 / ".work").mkdir()
    (v1 / "data" / ".tmp-train-000000.tar-7").write_bytes(bytes(10))
    (store / "pools" / "sources" / ".tmp-x-1").write_bytes(b"")
    fingerprint = next(p for p in (store / "predictions").iterdir() if p.is_dir())
    (fingerprint / ".tmp-chunk-1").mkdir()
    return {
        "datasets/pets/v3": "version",
        "datasets/pets/v1/.work": "temporary",
        "datasets/pets/v1/data/.tmp-train-000000.tar-7": "temporary",
        "pools/sources/.tmp-x-1": "temporary",
        f"predictions/{fingerprint.name}/.tmp-chunk-1": "temporary",
    }


def unneeded_pool(store: Path) -> str:
    """The id of the first scan's pool, which nothing refers to."""
    needed = {read_manifest(store / "datasets" / "pets" / v).provenance.inputs.pool for v in ("v1", "v2")}
    (rest,) = {p.name for p in (store / "pools").iterdir() if len(p.name) == 64} - needed
    return rest


def test_gc_removes_what_nothing_refers_to_and_nothing_else(store: Path) -> None:
    before = tree(store)
    expected = leave_rubbish(store) | {f"pools/{unneeded_pool(store)}": "pool"}
    full = tree(store)
    planned = run_json("gc", "--dry-run", store=store)
    found = {str(Path(g["path"]).relative_to(store)): g["kind"] for g in planned["garbage"]}
    assert found == expected and planned["bytes"] >= 1010
    assert tree(store) == full
    done = run_json("gc", store=store)
    assert done == planned | {"removed": True}
    pool = next(path for path, kind in expected.items() if kind == "pool")
    assert tree(store) == {name: data for name, data in before.items() if not name.startswith(pool)}
    assert run("gc", store=store).output == "nothing to remove\n"
    assert run("verify", "pets@v1", store=store).exit_code == 0


def test_gc_keeps_predictions_unless_told(made: Path, store: Path) -> None:
    shutil.rmtree(store / "datasets")
    shutil.rmtree(store / "pools" / "sources")
    chunks = {p for p in (store / "predictions").glob("*/*") if p.is_dir()}
    first = run_json("gc", store=store)
    assert {g["kind"] for g in first["garbage"]} == {"pool"} and all(p.exists() for p in chunks)
    second = run_json("gc", "--predictions", store=store)
    assert {Path(g["path"]) for g in second["garbage"]} == chunks and not any(p.exists() for p in chunks)


def test_gc_keeps_pools_that_a_source_or_a_truth_refers_to(store: Path) -> None:
    pool = unneeded_pool(store)
    folder = store / "datasets" / "pets" / "v2"
    inputs = read_manifest(folder).provenance.inputs
    with_provenance(folder, inputs=changed(inputs, references={"truth": pool}))
    shutil.rmtree(store / "pools" / "sources")
    assert run_json("gc", "--predictions", store=store)["garbage"] == []


@pytest.mark.parametrize("lock", ["datasets/pets/.lock-v3", "predictions/*/.lock", "pools/.lock"])
def test_gc_leaves_alone_what_is_in_use(store: Path, lock: str) -> None:
    expected = leave_rubbish(store)
    path = next(store.glob(lock), store / lock)
    with open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = run_json("gc", "--predictions", store=store)
    names = {str(Path(g["path"]).relative_to(store)) for g in found["garbage"]}
    mine = {"datasets": "datasets/pets/v3", "predictions": str(path.parent.relative_to(store)), "pools": "pools"}
    kept = {name for name in expected if name.startswith(mine[lock.partition("/")[0]])}
    assert names == expected.keys() - kept and kept
    assert found["busy"] == [str(path.relative_to(store))]
    assert all((store / name).exists() for name in kept)


def test_gc_stops_at_a_manifest_it_cannot_read(store: Path) -> None:
    leave_rubbish(store)
    (store / "datasets" / "pets" / "v1" / "manifest.json").write_text("{")
    full = tree(store)
    assert "is damaged" in refused("gc", store=store)
    assert tree(store) == full


def test_gc_of_no_store(tmp_path: Path) -> None:
    assert run("gc", store=tmp_path / "none").output == "nothing to remove\n"
    assert not (tmp_path / "none").exists()


def test_every_command_has_help_and_json(made: Path) -> None:
    for command in COMMANDS:
        assert command.help and {"--json", "--store"} <= {o for p in command.params for o in p.opts}


def test_json_is_json(made: Path) -> None:
    for arguments in (["log"], ["tag", "pets"], ["diff", "pets@v1", "pets@v2"], ["gc", "--dry-run"]):
        orjson.loads(run(*arguments, "--json", store=made / "store").stdout)
