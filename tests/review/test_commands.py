"""`tutelage review queue` and `review pull`, from one command to the next."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from builder.browse import app as viewer
from builder.cli.review import review
from builder.review import audits
from builder.review.objects import Edited, Shown, shown_objects
from builder.rules.overrides import read_overrides
from builder.store.manifest import Manifest
from builder.store.shards import read_samples
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.media import file_name, images_of
from tests.helpers.pools import tree
from tests.helpers.records import changed
from tests.helpers.reviewed import copied, make_store
from tests.helpers.sealing import reseal


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("reviewed"))


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return copied(made, tmp_path)


def run(store: Store, *arguments: object) -> Result:
    return CliRunner().invoke(review, [*map(str, arguments), "--store", str(store.root)])


def run_json(store: Store, *arguments: object) -> Any:
    result = run(store, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(store: Store, *arguments: object, code: int = 1) -> str:
    result = run(store, *arguments)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


def version(store: Store, ref: str = "pets@v1") -> tuple[Path, Manifest]:
    return (found := store.version(ref)).folder, found.manifest


def labels(store: Store, ref: str) -> dict[str, list[tuple[str, tuple[float, ...], str]]]:
    """Class, box and source of what a reader of the shards sees, by key; ignore regions left out."""
    folder, manifest = version(store, ref)
    found = {}
    for shard in manifest.shards:
        for sample in read_samples(folder / "data" / shard.name):
            said = orjson.loads(sample.members["json"].read())["objects"]
            rows = zip(said["category"], said["bbox"], said["source"], said["ignore"], strict=True)
            found[sample.key] = [
                (manifest.classes[c], (x, y, x + w, y + h), source) for c, (x, y, w, h), source, ig in rows if not ig
            ]
    return found


def submitted(path: Path, folder: Path, **changes: Any) -> tuple[Path, list[dict[str, Any]]]:
    """Label Studio's export of a queue in which every task was submitted as it was."""
    tasks: list[dict[str, Any]] = orjson.loads(path.read_bytes())
    for number, task in enumerate(tasks, 1):
        annotation = {"id": number, "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z", "completed_by": 1}
        task |= {"id": number, "annotations": [annotation | {"result": task.pop("predictions")[0]["result"]}]}
    return folder / "export.json", tasks


# --- queue -------------------------------------------------------------------------------------------------------------


def test_a_list_writes_nothing_and_says_why(store: Store) -> None:
    before = tree(store.root)
    result = run(store, "queue", "pets", "--budget", 5)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["image", "gain", "near", "rare", "disagreement", "novelty"] and lines[-1] == "5 images"
    value = run_json(store, "queue", "pets", "--budget", 5)
    assert [line.split()[0] for line in lines[1:6]] == [one["key"] for one in value["images"]]
    assert tree(store.root) == before


@pytest.mark.parametrize("tool", ["labelstudio", "cvat"])
def test_files_for_a_tool(store: Store, tmp_path: Path, tool: str) -> None:
    out = tmp_path / "queue"
    assert "nothing written" in run(store, "queue", "pets", "--budget", 5, "--to", tool, "--dry-run").output
    result = run(store, "queue", "pets", "--budget", 5, "--to", tool, "--out", out)
    assert result.exit_code == 0 and result.stdout.endswith("5 images\n"), result.output
    assert len(result.stdout.splitlines()) == 3 and "review pull pets@v1" in result.stdout
    suffix = "config.xml" if tool == "labelstudio" else "labels.json"
    assert {path.name for path in tmp_path.glob("queue*")} == {"queue", "queue.images", f"queue.{suffix}"}
    first = tree(tmp_path)
    assert "already there" in refused(store, "queue", "pets", "--to", tool, "--out", out)
    assert tree(tmp_path) == first
    (tmp_path / ".tmp-queue-4194305").touch()  # of a process that was killed
    assert run(store, "queue", "pets", "--budget", 5, "--to", tool, "--out", out).exit_code == 0  # the same as is there
    assert tree(tmp_path) == first
    again = tmp_path / "again"
    again.mkdir()
    assert run(store, "queue", "pets", "--budget", 5, "--to", tool, "--out", again / "queue").exit_code == 0
    assert {name: data for name, data in first.items() if name.startswith("queue")} == tree(again)


def test_images_from_elsewhere_are_not_copied(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "queue.json"
    prefix = "https://example.org/pets"
    run_json(store, "queue", "pets", "--budget", 3, "--to", "labelstudio", "--out", out, "--url-prefix", prefix)
    assert not (tmp_path / "queue.json.images").exists()
    for task in orjson.loads(out.read_bytes()):
        assert task["data"]["image"] == f"{prefix}/{file_name(task['data']['key'], 'jpg')}"


def test_ignored_boxes_are_shown_if_asked_for(store: Store, tmp_path: Path) -> None:
    outcomes = {one.id: one.outcome for some in shown_objects(Version.open(version(store)[0])) for one in some}
    for more, expected in (([], {"kept"}), (["--ignored"], {"kept", "ignored"})):
        out = tmp_path / f"queue{len(more)}.json"
        run_json(store, "queue", "pets", "--to", "labelstudio", "--out", out, *more)
        regions = [r for task in orjson.loads(out.read_bytes()) for r in task["predictions"][0]["result"]]
        ids = [region["meta"]["tutelage"].partition("@")[0] for region in regions]
        assert {outcomes[id] for id in ids} == expected
        notes = {id: region["meta"].get("text") for id, region in zip(ids, regions, strict=True)}
        assert all((notes[id] == ["ignored"]) == (outcomes[id] == "ignored") for id in ids)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--to", "cvat"], 2, "--to cvat needs --out FILE"),
        (["--out", "x"], 2, "--out and --ignored belong to"),
        (["--ignored"], 2, "--out and --ignored belong to"),
        (["--to", "cvat", "--out", "x", "--url-prefix", "y"], 2, "--url-prefix belongs to"),
        (["--budget", "0"], 2, "budget"),
        (["--audit", "1"], 2, "audit"),
    ],
)
def test_wrong_usage(store: Store, arguments: list[str], code: int, said: str) -> None:
    assert said in refused(store, "queue", "pets", *arguments, code=code)


def test_an_unknown_version(store: Store) -> None:
    assert "no version 'cats'" in refused(store, "queue", "cats")
    assert "no version 'cats'" in refused(store, "pull", "cats")


# --- pull --------------------------------------------------------------------------------------------------------------


def edited_export(store: Store, tmp_path: Path) -> tuple[Path, dict[str, Shown]]:
    """An export with one change of each kind, and the objects that they are about."""
    out = tmp_path / "queue.json"
    run_json(store, "queue", "pets", "--to", "labelstudio", "--out", out)
    path, tasks = submitted(out, tmp_path)
    shown = {one.id: one for some in shown_objects(Version.open(version(store)[0])) for one in some}
    at = [(task, region) for task in tasks for region in task["annotations"][0]["result"]]
    chosen = {}
    for (task, region), action in zip(at, ("reject", "relabel", "move", "accept", "add"), strict=False):
        one = shown[region["meta"]["tutelage"].partition("@")[0]]
        chosen[action] = one
        result = task["annotations"][0]["result"]
        match action:
            case "reject":
                result.remove(region)
            case "relabel":
                region["value"]["rectanglelabels"] = ["dog" if one.label != "dog" else "cat"]
            case "move":
                region["value"]["x"] += 5
            case "accept":
                choice = {"id": region["id"], "type": "choices", "from_name": "verdict", "to_name": "image"}
                result.append(choice | {"value": {"choices": ["accept"]}})
            case "add":
                size = {"original_width": 64, "original_height": 48}
                value = {"x": 0, "y": 0, "width": 6.25, "height": 6.25, "rectanglelabels": ["bird"]}
                result.append({"id": "new", "type": "rectanglelabels", "value": value, **size})
    path.write_bytes(orjson.dumps(tasks))
    return path, chosen


def test_every_kind_of_change_becomes_a_label_of_the_new_version(store: Store, tmp_path: Path) -> None:
    path, chosen = edited_export(store, tmp_path)
    before = tree(store.root)
    dry = run_json(store, "pull", "pets", "--from", path, "--author", "ann", "--dry-run")
    assert (
        dry["actions"] == {"accept": 1, "reject": 1, "relabel": 1, "move": 1, "add": 1} and tree(store.root) == before
    )

    kept = run_json(store, "pull", "pets", "--from", path, "--author", "ann", "--no-build")
    assert kept["overrides"] == {"added": 5, "changed": 0, "same": 0, "total": 5} and "new_version" not in kept
    assert {one.author for one in read_overrides(store, "pets")} == {"ann"}

    value = run_json(store, "pull", "pets@v1", "--from", path, "--author", "ann")  # and now build
    assert value["overrides"]["same"] == 5 and value["new_version"] == "pets@v2"
    manifest = version(store, "pets@v2")[1]
    assert value["id"] == manifest.id != version(store)[1].id and manifest.provenance.parent.version == "pets@v1"
    old, new = labels(store, "pets@v1"), labels(store, "pets@v2")
    gone, one = chosen["reject"], chosen["relabel"]
    human = {key: [o for o in objects if o[2] == "human"] for key, objects in new.items()}
    assert sum(map(len, human.values())) == 4
    assert len(new[gone.key]) == len(old[gone.key]) - 1 + sum(o[0] == "bird" and o[1][2] <= 4 for o in human[gone.key])
    assert any(o[0] != one.label and o[1] == pytest.approx(one.box) for o in human[one.key])
    moved = chosen["move"]
    assert any(o[1][0] == pytest.approx(moved.box[0] + 3.2, abs=1e-3) for o in human[moved.key])
    assert [o for o in human[chosen["add"].key] if o[1] == pytest.approx((0, 0, 4, 3))]

    again = run(store, "pull", "pets@v1", "--from", path, "--author", "ann")
    assert again.exit_code == 0 and "pets@v2" in again.output and len(store.versions("pets")) == 2
    nothing = run_json(store, "pull", "pets@v2", "--from", untouched(store, tmp_path, "pets@v2"))
    assert "new_version" not in nothing and nothing["changed_images"] == 0


def untouched(store: Store, tmp_path: Path, ref: str) -> Path:
    out = tmp_path / "untouched.json"
    run_json(store, "queue", ref, "--to", "labelstudio", "--out", out, "--again")
    path, tasks = submitted(out, tmp_path)
    path.write_bytes(orjson.dumps(tasks))
    return path


def test_the_next_queue_is_about_other_images(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "queue.json"
    first = {one["key"] for one in run_json(store, "queue", "pets", "--budget", 5)["images"]}
    run_json(store, "queue", "pets", "--budget", 5, "--to", "labelstudio", "--out", out)
    path, tasks = submitted(out, tmp_path)
    tasks[0]["annotations"][0]["result"].clear()
    path.write_bytes(orjson.dumps(tasks))
    run_json(store, "pull", "pets", "--from", path, "--dry-run")
    assert {one["key"] for one in run_json(store, "queue", "pets", "--budget", 5)["images"]} == first
    assert run_json(store, "pull", "pets", "--from", path)["new_version"] == "pets@v2"
    for ref in ("pets@v1", "pets@v2"):
        value = run_json(store, "queue", ref, "--budget", 5)
        assert value["left_out"] == 5 and len(value["images"]) == 5
        assert not first & {one["key"] for one in value["images"]}
    assert first & {one["key"] for one in run_json(store, "queue", "pets@v2", "--again")["images"]}
    assert "5 images that people reviewed already" in run(store, "queue", "pets").output
    (store.root / "reviews" / "pets" / "looked_at.json").write_text("{")
    assert re.search(r"is damaged .*or remove it", refused(store, "queue", "pets"))


def test_what_a_person_submits_is_what_the_next_version_shows(store: Store, tmp_path: Path) -> None:
    """Boxes drawn over the edge and over kept ones of their class, and taken back again."""
    key = ""
    for ref, edit in (("pets@v1", "draw"), ("pets@v2", "delete"), ("pets@v3", "")):
        path = untouched(store, tmp_path, ref)
        tasks = orjson.loads(path.read_bytes())
        tasks.sort(key=lambda task: -len(task["annotations"][0]["result"]))
        key = key or tasks[0]["data"]["key"]
        result = next(task["annotations"][0]["result"] for task in tasks if task["data"]["key"] == key)
        left = [one["value"]["rectanglelabels"] + [round(one["value"][side], 2) for side in "xy"] for one in result]
        if edit == "draw":
            before, first = left, result[0]
            beside = first["value"] | {"x": first["value"]["x"] + 1}
            over = {"x": 80, "y": 50, "width": 60, "height": 90, "rectanglelabels": ["bird"]}
            size = {"type": "rectanglelabels", "original_width": 64, "original_height": 48}
            result += [size | {"id": "a", "value": beside}, size | {"id": "b", "value": over}]
        elif edit == "delete":
            assert len(left) == len(before) + 2
            result[:] = [
                one for one, value in zip(result, left, strict=True) if value in before and one["value"] != beside
            ]
        else:
            assert left == before
        path.write_bytes(orjson.dumps(tasks))
        for old in tmp_path.glob("untouched*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        run_json(store, "pull", ref, "--from", path)


def test_a_later_pull_may_contradict_an_earlier_one(store: Store, tmp_path: Path) -> None:
    path, chosen = edited_export(store, tmp_path)
    run_json(store, "pull", "pets", "--from", path, "--no-build")
    tasks = orjson.loads(path.read_bytes())
    choice = next(r for task in tasks for r in task["annotations"][0]["result"] if r["type"] == "choices")
    choice["value"]["choices"] = ["reject"]
    path.write_bytes(orjson.dumps(tasks))
    result = run(store, "pull", "pets", "--from", path, "--no-build")
    assert result.exit_code == 0 and "1 verdicts differ from earlier ones" in result.stderr
    actions = {one.box: one.action for one in read_overrides(store, "pets")}
    assert actions[chosen["accept"].box] == "reject"
    choice["value"]["choices"] = ["accept"]
    path.write_bytes(orjson.dumps(tasks))
    shutil.rmtree(store.predictions)
    shard = min((store.datasets / "pets/v1/data").iterdir())
    data = bytearray(shard.read_bytes())
    shard.write_bytes(data[:600] + bytes([data[600] ^ 1]) + data[601:])
    said = refused(store, "pull", "pets", "--from", path)  # of which image is what, where a shard is damaged?
    assert f"data/{shard.name} is not the file of its manifest: run `tutelage verify --repair pets@v1`" in said
    assert {one.box: one.action for one in read_overrides(store, "pets")}[chosen["accept"].box] == "reject"
    shard.write_bytes(data)
    provenance = version(store)[1].provenance
    inputs = changed(provenance.inputs, keep=provenance.inputs.keep | {"tomorrow": 1})
    # no version can be built of it, but the verdicts are kept, and that is said
    reseal(store.datasets / "pets/v1", provenance=changed(provenance, inputs=inputs))
    failed = run(store, "pull", "pets", "--from", path)
    assert failed.exit_code == 1 and "1 verdicts differ from earlier ones" in failed.stderr
    assert "pets@v1 says of itself what no version can (provenance.inputs.keep.tomorrow: " in failed.stderr
    assert {one.box: one.action for one in read_overrides(store, "pets")}[chosen["accept"].box] == "accept"


def test_a_bad_file_changes_nothing(store: Store, tmp_path: Path) -> None:
    path, _ = edited_export(store, tmp_path)
    tasks = orjson.loads(path.read_bytes())
    tasks[-1]["annotations"][0]["result"].append({"type": "rectanglelabels", "original_width": 1, "original_height": 4})
    path.write_bytes(orjson.dumps(tasks))
    before = tree(store.root)
    output = refused(store, "pull", "pets", "--from", path)
    assert len(output.strip().splitlines()) == 1 and tree(store.root) == before


POLYGON = {"type": "polygonlabels", "original_width": 64, "original_height": 48}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda result: result[0]["value"].update(rectanglelabels=["wolf"]), "class 'wolf', which pets@v1 does not"),
        (lambda result: result[0]["value"].update(rectanglelabels=["cat", "dog"]), "exactly one"),
        (lambda result: result[0]["value"].update(rotation=12.0), "turned"),
        (lambda result: result.append(dict(POLYGON)), "only rectangles"),
    ],
)
def test_what_is_wrong_with_one_image_does_not_stop_the_others(
    store: Store, tmp_path: Path, spoil: Callable[[Any], Any], said: str
) -> None:
    path, _ = edited_export(store, tmp_path)
    expected = run_json(store, "pull", "pets", "--from", path, "--dry-run")
    tasks = orjson.loads(path.read_bytes())
    boxed = [task for task in tasks if any(r["type"] == "rectanglelabels" for r in task["annotations"][0]["result"])]
    results = boxed[-1]["annotations"][0]["result"]
    results.sort(key=lambda result: result["type"] != "rectanglelabels")
    spoil(results)
    path.write_bytes(orjson.dumps(tasks))
    result = run(store, "pull", "pets", "--from", path, "--json")
    value = json.loads(result.stdout)
    (name,) = value["refused"]
    assert result.exit_code == 1 and f"not taken over: image {name}: " in result.stderr and said in result.stderr
    assert f"1 of {expected['images']} images that came back was not taken over" in result.stderr
    assert value["images"] == expected["images"] - 1 and value["new_version"] == "pets@v2"
    sha256 = next(image.sha256 for image in images_of(store.version("pets@v1")) if image.name == name)
    assert sha256 not in {override.sha256 for override in read_overrides(store, "pets")}


def test_who_it_was(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = edited_export(store, tmp_path)
    for options, environment, expected in (
        (["--author", "ann"], "bob", "ann"),
        ([], "bob", "bob"),
        ([], None, ""),  # and not the login name
    ):
        monkeypatch.setenv("LOGNAME", "carl")
        monkeypatch.delenv("TUTELAGE_AUTHOR", raising=False)
        if environment:
            monkeypatch.setenv("TUTELAGE_AUTHOR", environment)
        run_json(store, "pull", "pets", "--from", path, "--no-build", *options)
        assert {one.author for one in read_overrides(store, "pets")} == {expected}
        (store.root / "reviews" / "pets" / "overrides.json").unlink()


# --- audits ------------------------------------------------------------------------------------------------------------


def test_an_audit_by_label_studio(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "audit.json"
    assert "nothing written" in run(store, "queue", "pets", "--audit", 20, "--dry-run").output
    assert not (store.root / "reviews").exists()
    drawn = run_json(store, "queue", "pets", "--audit", 20, "--seed", 5, "--to", "labelstudio", "--out", out)
    assert len(drawn["items"]) == 20
    path, tasks = submitted(out, tmp_path)
    marked = [r for task in tasks for r in task["annotations"][0]["result"] if "audit" in r["meta"].get("text", [])]
    ids = {region["meta"]["tutelage"].partition("@")[0] for region in marked}
    assert ids == {item["id"] for item in drawn["items"]}
    for task in tasks[:3]:  # of each the first audited box was wrong
        results = task["annotations"][0]["result"]
        results.remove(next(r for r in results if "audit" in r["meta"].get("text", [])))
    path.write_bytes(orjson.dumps(tasks[:-1]))
    part = run(store, "pull", "pets", "--from", path, "--no-build")
    assert part.exit_code == 0 and "no verdict yet: no estimate until they do" in part.output

    path.write_bytes(orjson.dumps(tasks))
    before = tree(store.root)
    dry = run_json(store, "pull", "pets", "--from", path, "--dry-run")
    assert dry["audits"][0]["missing"] == 0 and tree(store.root) == before
    whole = run_json(store, "pull", "pets", "--from", path)
    (found,) = whole["audits"]
    assert found["missing"] == 0 and found["estimate"] == dry["audits"][0]["estimate"]
    assert found["estimate"]["audited"] == 20 and sum(found["estimate"]["wrong"].values()) == 3
    assert found["estimate"]["low"] < found["estimate"]["precision"] < found["estimate"]["high"]
    known = audits.latest(store, version(store)[1])
    assert known and known.estimate and known.estimate.precision == found["estimate"]["precision"]
    assert audits.latest(store, version(store, "pets@v2")[1]) is None  # its labels are others


def test_a_queue_is_no_audit(store: Store, tmp_path: Path) -> None:
    """Verdicts on a queue's boxes count only for boxes that an audit drew as well."""
    run_json(store, "queue", "pets", "--audit", 20)
    (drawn,) = audits.read(store, version(store)[1])
    out = tmp_path / "queue.json"
    run_json(store, "queue", "pets", "--budget", 4, "--to", "labelstudio", "--out", out)
    path, tasks = submitted(out, tmp_path)
    path.write_bytes(orjson.dumps(tasks))
    value = run_json(store, "pull", "pets", "--from", path)
    there = {task["data"]["key"] for task in tasks}
    asked = {item.id for item in drawn.audit.items if item.key in there}
    assert [one["missing"] for one in value["audits"]] == ([20 - len(asked)] if asked else [])
    assert all(one["estimate"] is None for one in value["audits"])


# --- the App -----------------------------------------------------------------------------------------------------------


def test_edits_of_the_app(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The App itself is tested in test_viewer and test_browser; here what becomes of what it gives back."""
    folder, manifest = version(store)
    drawn = run_json(store, "queue", "pets", "--audit", 10)
    shown = [some for some in shown_objects(Version.open(folder)) if any(one.outcome == "kept" for one in some)]
    audited = {item["id"] for item in drawn["items"]}

    def read_edits(*arguments: object, **more: object) -> tuple[list[Edited], dict[str, str]]:
        assert arguments[1:] == (Version(folder, manifest), "ann")
        kept = [one for some in shown for one in some if one.outcome == "kept"]
        verdict = {one.id: "accept" if one.id in audited else None for one in kept}
        back = [Edited(one.id, one.key, one.label, one.box, verdict[one.id], "ann") for one in kept[1:]]  # type: ignore[arg-type]
        return back, {one.key: one.sha256 for one in kept}

    monkeypatch.setattr(viewer, "read_edits", read_edits)
    value = run_json(store, "pull", "pets", "--author", "ann")
    first = next(one for some in shown for one in some if one.outcome == "kept")
    assert value["actions"] == {
        "accept": len(audited - {first.id}),
        "reject": 1,
        "relabel": 0,
        "move": 0,
        "add": 0,
    }
    assert value["audits"][0]["missing"] == 0 and value["new_version"] == "pets@v2"


def test_without_browsing_there_is_nothing_to_pull(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    class Nothing:
        def list_datasets(self, pattern: str) -> list[str]:
            return []

    @contextmanager
    def connected(store: Store) -> Iterator[Any]:
        yield Nothing()

    monkeypatch.setattr(viewer, "connected", connected)
    assert "run `tutelage browse pets@v1`" in refused(store, "pull", "pets")
    assert "run `tutelage browse pets@v1`" in refused(store, "queue", "pets", "--to", "app")


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_real_database(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queue in the App's database, what a person then does there, and back."""
    if find_spec("fiftyone") is None:
        pytest.skip("fiftyone is not installed")
    monkeypatch.setenv("FIFTYONE_CONFIG_PATH", str(tmp_path / "config.json"))
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "database"))
    monkeypatch.delenv("FIFTYONE_DATABASE_URI", raising=False)
    from builder.browse.load import load
    from builder.hub.remote import open_version

    with viewer.connected(store) as fo:
        name = load(fo, store, [open_version("pets@v1", store)])
        first = run_json(store, "queue", "pets", "--budget", 3, "--to", "app")
        assert "3 images have the tag 'queue'" in first["next"]
        second = run_json(store, "queue", "pets", "--budget", 2, "--to", "app")
        drawn = run_json(store, "queue", "pets", "--audit", 6, "--to", "app")
        dataset = fo.load_dataset(name)
        tagged = {tag: set(dataset.match_tags(tag).values("key")) for tag in ("queue", "audit")}
        assert tagged == {
            "queue": {one["key"] for one in second["images"]},
            "audit": {item["key"] for item in drawn["items"]},
        }
        untouched = run_json(store, "pull", "pets", "--no-build")
        assert untouched["images"] == 0  # a tag of ours is no person's doing

        ids = [item["id"] for item in drawn["items"]]
        for sample in dataset.match_tags("audit"):
            for one in sample.pseudo.detections:
                if one.tutelage_id in ids:
                    one.tags = ["reject" if one.tutelage_id == ids[0] else "accept"]
            sample.save()
        value = run_json(store, "pull", "pets", "--author", "ann")
    assert value["actions"]["reject"] == 1 and value["actions"]["accept"] == 5
    assert value["audits"][0]["missing"] == 0 and value["audits"][0]["estimate"]["audited"] == 6
    assert value["new_version"] == "pets@v2"
