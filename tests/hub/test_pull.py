"""Pulling: the same version comes back, every byte checked, and what it can do in a store without its pool."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result

from builder.cli.hub import COMMANDS
from builder.cli.main import main
from builder.hub.publish import publish
from builder.store.files import seal
from builder.store.manifest import MANIFEST, read_manifest
from builder.store.version import Version
from tests.helpers.hub_server import READER, STRANGER, Fault, HubServer, requests_log, set_faults, state_of, use_hub
from tests.helpers.pools import tree, write_images, write_recipe, write_results

REPO = "org/pets"
HUB = {command.name: command for command in COMMANDS}
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's uploads


def run(*arguments: object, store: Path, code: int = 0) -> Result:
    words = [str(argument) for argument in arguments]
    command = HUB.get(words[0])
    result = CliRunner().invoke(command or main, [*(words[1:] if command else words), "--store", str(store)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of two versions of four shards, and the Hub that has both."""
    folder = tmp_path_factory.mktemp("pull")
    names = write_images(folder / "pool", 8, size=(512, 384), suffix=".bmp")
    write_results(folder, names[::-1], empty=2, size=(512, 384))
    recipe = write_recipe(folder, pool={"source": "pool", "chunk": 2}, shards={"max_mb": 1})
    run("build", recipe, store=folder / "store")
    run("build", recipe, "--set", "keep.score=0.9", store=folder / "store")
    with pytest.MonkeyPatch.context() as patch, HubServer.running(folder / "hub") as server:
        use_hub(patch, server.url, folder)
        for version in ("v1", "v2"):
            publish(Version.open(folder / "store/datasets/pets" / version), REPO)
    return folder


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    shutil.copytree(published / "hub", tmp_path / "hub")
    (tmp_path / "hub/log.jsonl").unlink()
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)  # what is written before a line is cut
    with HubServer.running(tmp_path / "hub") as server:
        use_hub(monkeypatch, server.url, tmp_path)
        yield server.root


def gets(hub: Path) -> list[str]:
    return [line["path"] for line in requests_log(hub) if line["method"] == "GET" and "/storage/" in line["path"]]


def version_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree(folder).items() if name != "claim"}


def test_build_publish_pull_verify_gives_the_same_version(published: Path, hub: Path, tmp_path: Path) -> None:
    store = tmp_path / "other"
    done = json.loads(run("pull", f"{REPO}@v1", "--json", store=store).stdout)
    source, target = published / "store/datasets/pets/v1", store / "datasets/pets/v1"
    assert (done["state"], done["version"], done["folder"]) == ("pulled", "pets@v1", str(target))
    assert done["id"] == read_manifest(source).id == read_manifest(target).id
    assert version_of(target) == version_of(source)
    assert "no problems" in run("verify", "pets@v1", store=store).output
    before = len(requests_log(hub))
    again = json.loads(run("pull", f"{REPO}@v1", "--json", store=store).stdout)
    assert again["state"] == "there" and len(requests_log(hub)) < before + 5


@pytest.mark.parametrize(
    ("ref", "version"),
    [
        (REPO, "v2"),
        (f"{REPO}@main", "v2"),
        (f"hf://{REPO}@v1", "v1"),
        (f"hf://datasets/{REPO}@v2", "v2"),
        ("COMMIT", "v1"),
    ],
)
def test_tags_branches_and_commits(hub: Path, tmp_path: Path, ref: str, version: str) -> None:
    ref = ref.replace("COMMIT", f"{REPO}@{state_of(hub, REPO)['tags']['v1']}")
    told = json.loads(run("pull", ref, "--json", "--dry-run", store=tmp_path / "other").stdout)
    assert told["state"] == "would" and told["fetched"] == 9
    assert not (tmp_path / "other").exists()
    assert json.loads(run("pull", ref, "--json", store=tmp_path / "other").stdout)["version"] == f"pets@{version}"


def test_an_interrupted_pull_goes_on_and_a_cut_file_is_taken_up(hub: Path, tmp_path: Path) -> None:
    store = tmp_path / "other"
    set_faults(hub, Fault("GET /storage/.*000002", status=404, times=99))
    run("pull", f"{REPO}@v1", store=store, code=1)
    assert not (store / "datasets/pets/v1").exists()
    first = gets(hub)
    assert len([path for path in first if "train-" in path]) >= 1
    here = {path.name for path in (store / "remote").rglob("train-*.tar") if path.parent.name == "data"}
    set_faults(hub, Fault("GET /storage/.*000002", cut=5000))
    run("pull", f"{REPO}@v1", store=store)
    second = gets(hub)[len(first) :]
    assert not any(name in path for name in here for path in second)
    parts = [line for line in requests_log(hub) if "000002" in line["path"] and line["status"] in (200, 206)]
    assert [part["status"] for part in parts if part["method"] == "GET"] == [200, 206]
    assert "no problems" in run("verify", "pets@v1", store=store).output


def test_a_damaged_file_never_gets_its_name(hub: Path, tmp_path: Path) -> None:
    state = state_of(hub, REPO)
    files = state["commits"][state["tags"]["v1"]]["files"]
    large = hub / "lfs" / files["data/train-000001.tar"]["sha256"]
    data = bytearray(large.read_bytes())
    data[600] ^= 1
    large.unlink()
    large.write_bytes(data)
    said = run("pull", f"{REPO}@v1", store=tmp_path / "other", code=1).output
    assert f"data/train-000001.tar of hf://{REPO}@v1 is not the file of its manifest" in said
    assert not list((tmp_path / "other").rglob("data/*000001.tar")) and not (tmp_path / "other/datasets").exists()


def test_a_file_that_was_damaged_on_the_disk_since_is_fetched_again(hub: Path, tmp_path: Path) -> None:
    store = tmp_path / "other"
    set_faults(hub, Fault("GET /storage/.*000002", status=404, times=99))
    run("pull", f"{REPO}@v1", store=store, code=1)
    report = next((store / "remote").rglob("README.md"))
    report.write_text("other")
    set_faults(hub)
    run("pull", f"{REPO}@v1", store=store)
    assert "no problems" in run("verify", "pets@v1", store=store).output


def edit_manifest(hub: Path, revision: str, **changes: Any) -> None:
    """Put another manifest under a tag that is there, with the digest of what it says."""
    state = state_of(hub, REPO)
    file = state["commits"][state["tags"][revision]]["files"][MANIFEST]
    blob = hub / "blobs" / file["oid"]
    content = seal(orjson.loads(blob.read_bytes()) | changes)
    blob.unlink()
    blob.write_bytes(orjson.dumps(content))
    file["size"] = blob.stat().st_size
    (hub / "repos" / f"{REPO}.json").write_text(json.dumps(state))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": "0" * 64}, "states id 000000000000 but its contents have"),
        ({"format": 99}, "is of format 99, made by a newer Tutelage, and this one knows 3: update tutelage"),
        ({"format": "x", "more": 1}, "is damaged (its format is 'x'): do not use it"),
        ({"more": 1}, "is damaged (more: extra inputs are not permitted): do not use it"),
        ({"files": {"../../outside": "0" * 64}}, "no file can be named '../../outside'): do not use it"),
        ({"files": {"/etc/passwd": "0" * 64}}, "no file can be named '/etc/passwd'): do not use it"),
        ({"files": {"manifest.json": "0" * 64}}, "no file can be named 'manifest.json'): do not use it"),
        ({"files": {"claim": "0" * 64}}, "no file can be named 'claim'): do not use it"),
        ({"files": {"a\0b": "0" * 64}}, "no file can be named 'a\\x00b'): do not use it"),
        ({"files": {"a" * 300: "0" * 64}}, "do not use it"),
        ({"files": {"data/train-000000.tar": "0" * 64}}, "can be named 'data/train-000000.tar'): do not use it"),
        ({"name": "../pets"}, "no dataset can be named '../pets'): do not use it"),
        ({"version": "../v1"}, "no version can be named '../v1'): do not use it"),
    ],
)
def test_a_manifest_that_is_not_ours_writes_nothing(
    hub: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    edit_manifest(hub, "v1", **changes)
    said = run("pull", f"{REPO}@v1", store=tmp_path / "other", code=1).output
    assert words in said and said.startswith(f"Error: manifest.json of {REPO} at ") and said.count("\n") == 1
    assert not (tmp_path / "other").exists() and not (tmp_path / "outside").exists()


def test_what_is_there_is_not_replaced(published: Path, hub: Path, tmp_path: Path) -> None:
    store = tmp_path / "other"
    shutil.copytree(published / "store/datasets/pets/v2", store / "datasets/pets/v1")
    said = run("pull", f"{REPO}@v1", store=store, code=1).output
    assert "pets@v1 is here with id" in said and "--name" in said
    (store / "datasets/pets/v1" / MANIFEST).unlink()
    assert "is being built here" in run("pull", f"{REPO}@v1", store=store, code=1).output
    done = json.loads(run("pull", f"{REPO}@v1", "--name", "theirs", "--json", store=store).stdout)
    assert done["version"] == "theirs@v1" and done["id"] == read_manifest(published / "store/datasets/pets/v1").id
    assert "no problems" in run("verify", "theirs@v1", store=store).output
    run("tag", "theirs@v1", "paper", store=store)
    assert done["id"][:12] in run("show", "theirs@paper", store=store).output
    assert "dataset name '../x'" in run("pull", f"{REPO}@v1", "--name", "../x", store=store, code=1).output


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("org/other@v1", "no dataset org/other on the Hub that you may see"),
        (f"{REPO}@v9", "org/pets has no version, tag or branch 'v9': it has v1, v2, main"),
        ("pets@v1", "write ORG/NAME, or ORG/NAME@VERSION"),
    ],
)
def test_what_is_not_there(hub: Path, tmp_path: Path, ref: str, words: str) -> None:
    assert words in run("pull", ref, store=tmp_path / "other", code=1).output


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "no dataset org/pets on the Hub that you may see (401: Repository not found): check its name, or log in"),
        (STRANGER, "no dataset org/pets on the Hub that you may see (404"),
        ("hf_" + "x" * 34, "does not take your token for org/pets (401: Invalid credentials"),
        (READER, ""),
    ],
)
def test_a_private_repository(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str, words: str
) -> None:
    (hub / "repos" / f"{REPO}.json").write_text(json.dumps(state_of(hub, REPO) | {"private": True}))
    monkeypatch.setenv("HF_TOKEN", token)
    result = run("pull", REPO, store=tmp_path / "other", code=1 if words else 0)
    assert words in result.output and "hf_x" not in result.output


def test_a_gated_repository_and_a_full_window(hub: Path, tmp_path: Path) -> None:
    set_faults(hub, Fault("/revision/", status=403, headers={"X-Error-Code": "GatedRepo"}))
    assert "org/pets is gated (403" in run("pull", REPO, store=tmp_path / "other", code=1).output
    set_faults(hub, Fault("/revision/", status=429, headers={"RateLimit": '"api";r=0;t=170'}))
    assert "slow down for org/pets (429): in 170 s run" in run("pull", REPO, store=tmp_path / "other", code=1).output


def test_a_repository_without_a_version(hub: Path, tmp_path: Path) -> None:
    state = state_of(hub, REPO)
    for commit in state["commits"].values():
        commit["files"].pop(MANIFEST, None)
    (hub / "repos" / f"{REPO}.json").write_text(json.dumps(state))
    assert (
        "has no manifest.json: it is no version that Tutelage published"
        in run("pull", REPO, store=tmp_path / "other", code=1).output
    )


def test_a_version_under_another_name_is_called_by_it(hub: Path, tmp_path: Path) -> None:
    run("pull", f"{REPO}@v1", "--name", "theirs", store=tmp_path / "store")
    assert run("show", "theirs", store=tmp_path / "store").output.split()[:2] == ["version", "theirs@v1"]
    assert run("log", store=tmp_path / "store").output.splitlines()[1].split()[-1] == "pulled"


def test_a_version_without_its_pool(published: Path, hub: Path, tmp_path: Path) -> None:
    """Everything about a pulled version works, or says in a sentence what it lacks."""
    store = tmp_path / "other"
    run("pull", f"{REPO}@v1", store=store)
    run("pull", f"{REPO}@v2", store=store)
    assert "pets@v1" in run("show", "pets@v1", store=store).output
    run("show", "pets@v1", "--picture", tmp_path / "p.png", store=store)
    assert json.loads(run("log", "--json", store=store).stdout)["versions"][1]["version"] == "v2"
    assert "removed" in run("diff", "pets@v1", "pets@v2", store=store).output
    key = next(iter(read_keys(store / "datasets/pets/v1")))
    assert "kept" in run("explain", "pets@v1", key, store=store).output
    run("tag", "pets@v1", "paper", store=store)
    assert run("gc", store=store).output.count("fetched: a copy from the Hub") == 2 and not list(
        store.glob("remote/*/*/*")
    )
    assert read_manifest(store / "datasets/pets/v1").id[:12] in run("show", "pets@paper", store=store).output
    for format in ("coco", "yolo"):
        run("export", "pets@v1", tmp_path / format, "--format", format, store=store)
    assert "report/index.html" in run("report", "pets@v1", store=store).output
    (store / "datasets/pets/v1/data/train-000000.tar").unlink()
    said = run("verify", "pets@v1", "--repair", store=store, code=1).output
    assert said.count("Error: ") == 1 and "Traceback" not in said


def read_keys(folder: Path) -> list[str]:
    import pyarrow.parquet as pq

    return [str(key) for key in pq.read_table(folder / "labels.parquet")["key"].to_pylist()]


def test_a_hub_version_is_not_looked_for_in_the_store(tmp_path: Path) -> None:
    said = run("verify", f"hf://{REPO}@v1", store=tmp_path, code=1).output
    assert "lies on the Hub: run `tutelage pull org/pets@v1` first" in said


def test_two_versions_of_the_same_bytes(published: Path, hub: Path, tmp_path: Path) -> None:
    """Their id is one, but not their cards."""
    store = tmp_path / "store"
    shutil.copytree(published / "store", store)
    run("build", published / "recipe.yaml", "--set", "teacher.license=mit", store=store)
    first, third = (store / "datasets/pets" / version for version in ("v1", "v3"))
    assert read_manifest(first).id == read_manifest(third).id and version_of(first) != version_of(third)
    publish(Version.open(third), REPO)
    other = tmp_path / "other"
    for version in ("v1", "v3"):
        run("pull", f"{REPO}@{version}", store=other)
    assert version_of(other / "datasets/pets/v1") == version_of(first)
    assert version_of(other / "datasets/pets/v3") == version_of(third)


def test_huggingface_hub_is_left_as_it_was(hub: Path, tmp_path: Path) -> None:
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled

    before = logging.get_verbosity(), are_progress_bars_disabled()
    run("pull", REPO, store=tmp_path / "other")  # several files side by side
    assert (logging.get_verbosity(), are_progress_bars_disabled()) == before
