"""Publishing: whole or not at all, once, nothing twice over the line, and a sentence for whatever goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from click.testing import CliRunner, Result

from builder.cli.build import build
from builder.cli.hub import COMMANDS
from builder.cli.versions import verify
from builder.hub.client import Hub
from builder.hub.publish import publish
from builder.store.manifest import Manifest, read_manifest
from builder.store.store import Store
from tests import ROOT
from tests.helpers.hub_server import (
    READER,
    STRANGER,
    WRITER,
    Fault,
    HubServer,
    git_id,
    requests_log,
    set_faults,
    state_of,
    use_hub,
)
from tests.helpers.pools import write_images, write_recipe, write_results
from tests.helpers.records import changed
from tests.helpers.sealing import reseal

GROUP = click.Group(commands=[*COMMANDS, build, verify])
REPO = "org/pets"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's uploads


def run(*arguments: object, store: Path, code: int = 0) -> Result:
    result = CliRunner().invoke(GROUP, [*map(str, arguments), "--store", str(store)])
    assert result.exit_code == code, result.output
    assert WRITER not in result.output
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two versions of eight shards; the first keeps more than the second, and has a report."""
    folder = tmp_path_factory.mktemp("publish")
    names = write_images(folder / "pool", 8, size=(640, 512), suffix=".bmp")
    write_results(folder, names[::-1], empty=2, size=(640, 512))
    recipe = write_recipe(folder, pool={"source": "pool", "chunk": 1}, shards={"max_mb": 1})
    run("build", recipe, store=folder / "store")
    run("build", recipe, "--set", "keep.score=0.9", "--no-report", store=folder / "store")
    assert len(read_manifest(folder / "store/datasets/pets/v1").shards) == 8
    return folder / "store"


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "store", copy_function=os.link)
    return tmp_path / "store"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state of a running Hub."""
    with HubServer.running(tmp_path / "hub") as server:
        use_hub(monkeypatch, server.url, tmp_path)
        yield server.root


def sent(hub: Path) -> list[str]:
    """SHA-256 of the large files that arrived."""
    return [
        line["path"].split("?")[0].rpartition("/")[2]
        for line in requests_log(hub)
        if line["method"] == "PUT" and line["status"] == 200
    ]


def commits(hub: Path) -> int:
    return len(state_of(hub, REPO)["commits"])


def manifest_of(store: Path, version: str = "v1") -> Manifest:
    return read_manifest(store / "datasets/pets" / version)


def published_files(hub: Path, revision: str) -> dict[str, bytes]:
    state = state_of(hub, REPO)
    files = state["commits"][state["tags"].get(revision) or state["branches"][revision]]["files"]
    return {
        path: (hub / "lfs" / f["sha256"] if "sha256" in f else hub / "blobs" / f["oid"]).read_bytes()
        for path, f in files.items()
        if path != ".gitattributes"
    }


def version_files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "claim"
    }


def test_a_version_is_published_whole_and_once(store: Path, hub: Path) -> None:
    done = json.loads(run("publish", "pets@v1", REPO, "--json", store=store).stdout)
    assert (done["state"], done["tag"], done["id"]) == ("published", "v1", manifest_of(store).id)
    state = state_of(hub, REPO)
    assert state["branches"]["main"] == state["tags"]["v1"] == done["commit"]
    assert commits(hub) == 2 and not state["private"]
    assert published_files(hub, "v1") == version_files(store / "datasets/pets/v1")
    log = requests_log(hub)
    kinds = [line["method"] if line["method"] == "PUT" else line["path"].split("/")[5:6] for line in log]
    order = [n for n, kind in enumerate(kinds) if kind in ("PUT", ["commit"], ["tag"])]
    assert [kinds[n] for n in order] == ["PUT"] * 10 + [["commit"], ["tag"]]
    assert not any(line["token"] for line in log if "/storage/" in line["path"])
    again = json.loads(run("publish", "pets@v1", REPO, "--json", store=store).stdout)
    assert again["state"] == "there" and again["commit"] == done["commit"]
    assert commits(hub) == 2 and len(sent(hub)) == 10


def test_a_version_that_shares_its_images_is_published_with_them(made: Path, tmp_path: Path, hub: Path) -> None:
    """Joined on the way: what arrives is what the same version with its images inside is, but for its recipe."""
    store = tmp_path / "shared"
    run("build", made.parent / "recipe.yaml", "--set", "shards.images=shared", "--no-report", store=store)
    done = json.loads(run("publish", "pets@v1", REPO, "--json", store=store).stdout)
    there, inside = published_files(hub, "v1"), version_files(made / "datasets/pets/v1")
    tars = sorted(name for name in inside if name.startswith("data/"))
    assert (done["id"], len(tars)) == (manifest_of(made).id, 8)
    for name in (*tars, "labels.parquet", "index.parquet"):
        assert there[name] == inside[name]
    assert run("publish", "pets@v1", REPO, "--json", store=store).stdout.count('"there"')
    run("pull", f"{REPO}@v1", store=tmp_path / "other")
    pulled = manifest_of(tmp_path / "other")
    assert not pulled.is_shared and pulled.id == done["id"] and pulled.shards == manifest_of(made).shards
    run("verify", "pets@v1", store=tmp_path / "other")


def test_a_dry_run_lists_and_changes_nothing(store: Path, hub: Path) -> None:
    first = run("publish", "pets@v1", REPO, "--dry-run", store=store).output
    assert "data/train-000007.tar" in first and "nothing sent" in first
    assert not (hub / "repos/org").exists()
    run("publish", "pets@v1", REPO, store=store)
    before = (hub / "repos/org/pets.json").read_bytes()
    told = json.loads(run("publish", "pets@v2", REPO, "--dry-run", "--json", store=store).stdout)
    assert told["state"] == "would" and told["deleted"] == ["report/index.html"] and told["unchanged"] >= 2
    assert (hub / "repos/org/pets.json").read_bytes() == before
    assert {line["method"] for line in requests_log(hub)[-6:]} <= {"GET", "HEAD"}


def test_unchanged_shards_do_not_travel_and_what_is_gone_is_deleted(store: Path, hub: Path) -> None:
    run("publish", "pets@v1", REPO, store=store)
    old = sent(hub)
    done = json.loads(run("publish", "pets@v2", REPO, "--json", store=store).stdout)
    first, second = ({s.sha256 for s in manifest_of(store, v).shards} for v in ("v1", "v2"))
    assert first & second and second - first
    new = sent(hub)[len(old) :]
    assert set(new) & (first | second) == second - first and len(new) == len(set(new))
    assert done["deleted"] == ["report/index.html"]
    assert published_files(hub, "v1") == version_files(store / "datasets/pets/v1")
    assert published_files(hub, "main") == published_files(hub, "v2") == version_files(store / "datasets/pets/v2")


@contextmanager
def server_process(root: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.helpers.hub_server", str(root), str(port)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        for _ in range(1000):
            with socket.socket() as line:
                if line.connect_ex(("127.0.0.1", port)) == 0:
                    break
            process.poll()
            time.monotonic()
            _pause()
        yield process
    finally:
        process.kill()
        process.wait()


_sleep = time.sleep


def _pause() -> None:
    _sleep(0.02)  # the fixture replaces time.sleep


def test_a_server_that_is_killed_half_way_gets_only_what_it_lacks(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "hub"
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    use_hub(monkeypatch, f"http://127.0.0.1:{port}", tmp_path)
    set_faults(root, Fault("lfs/verify", skip=2, die=True))
    with server_process(root, port) as process:
        failed = run("publish", "pets@v1", REPO, store=store, code=1)
        assert process.wait(10) == -signal.SIGKILL
    assert "cannot be reached" in failed.output and "run the same command again" in failed.output
    assert failed.output.count("Error: ") == 1
    there = {path.name for path in (root / "lfs").iterdir() if len(path.name) == 64}
    wanted = {s.sha256 for s in manifest_of(store).shards}
    wanted |= {manifest_of(store).files[name] for name in ("labels.parquet", "index.parquet")}
    assert there and wanted - there and not state_of(root, REPO)["tags"] and commits(root) == 1
    before = len(sent(root))
    set_faults(root)
    with server_process(root, port):
        run("publish", "pets@v1", REPO, store=store)
    again = sent(root)[before:]
    assert sorted(again) == sorted(wanted - there)
    assert published_files(root, "v1") == version_files(store / "datasets/pets/v1")


@pytest.mark.parametrize(
    ("token", "fault", "words"),
    [
        ("hf_" + "x" * 34, None, "does not take your token for org/pets (401"),
        (READER, None, "may not do this to org/pets (403"),
        (STRANGER, None, "may not do this to org/pets (403"),
        ("", None, "not logged in to the Hub: run `hf auth login`"),
        (WRITER, Fault("/preupload/", status=404, headers={"X-Error-Code": "RepoNotFound"}), "no dataset org/pets"),
        (WRITER, Fault("/preupload/", status=404, headers={"X-Error-Code": "RevisionNotFound"}), "does not hold what"),
        (WRITER, Fault("/commit/", status=409), "being changed by somebody else (409"),
        (WRITER, Fault("/commit/", status=412), "somebody else published to org/pets meanwhile (412"),
        (
            WRITER,
            Fault("/commit/", status=429, headers={"Retry-After": "900"}),
            "slow down for org/pets (429): in 900 s run",
        ),
        (WRITER, Fault("/commit/", status=429, times=99), "slow down for org/pets (429): later run the same"),
        (WRITER, Fault("PUT", status=500, times=99), "the Hub failed for org/pets (500"),
        (WRITER, Fault("/refs", status=503, times=99, body=f"<html>{WRITER}"), "the Hub failed for org/pets (503"),
        (
            WRITER,
            Fault("/commit/", status=413, body=f"too large, {WRITER}"),
            "refused what was asked of org/pets (413: too la",
        ),
        (WRITER, Fault("PUT", cut=1000, times=99), "the Hub cannot be reached for org/pets ("),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    store: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, token: str, fault: Fault | None, words: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    set_faults(hub, *([fault] if fault else []))
    result = run("publish", "pets@v1", REPO, store=store, code=1)
    assert words in result.stderr.splitlines()[-1]
    assert not any(secret in result.output for secret in (WRITER, READER, STRANGER)) and "hf_x" not in result.output
    assert "Traceback" not in result.output and "signature" not in result.output
    assert not (hub / "repos/org/pets.json").exists() or "v1" not in state_of(hub, REPO)["tags"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", status=503),
        Fault("PUT", cut=1000),
        Fault("/refs", status=503, times=2),
        Fault("/commit/", status=429, headers={"Retry-After": "1"}),
        Fault("POST .*/commit/", cut=5),  # made, but its answer is lost
        Fault("POST .*/tag/", cut=0),
        Fault("repos/create", cut=0),
    ],
)
def test_a_failure_of_a_moment_is_overcome(store: Path, hub: Path, fault: Fault) -> None:
    set_faults(hub, fault)
    run("publish", "pets@v1", REPO, store=store)
    assert commits(hub) == 2 and list(state_of(hub, REPO)["tags"]) == ["v1"]


def test_no_server_and_offline_mode_are_told(store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path)
    assert "cannot be reached for org/pets (ConnectError" in run("publish", "pets", REPO, store=store, code=1).output
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set: unset it" in run("publish", "pets", REPO, store=store, code=1).output


def test_a_hub_without_xet_is_told(store: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    said = run("publish", "pets@v1", REPO, store=store, code=1).stderr.splitlines()[-1]
    assert "cannot be used for org/pets" in said and "set HF_HUB_DISABLE_XET=1, if this Hub has no Xet" in said
    assert WRITER not in said and commits(hub) == 1


def test_a_commit_without_its_tag_gets_it_and_no_second_commit(store: Path, hub: Path) -> None:
    set_faults(hub, Fault("POST .*/tag/", status=500, times=99))
    run("publish", "pets@v1", REPO, store=store, code=1)
    assert commits(hub) == 2 and not state_of(hub, REPO)["tags"]
    set_faults(hub)
    run("publish", "pets@v2", REPO, store=store)  # v1 is no longer at the head
    done = json.loads(run("publish", "pets@v1", REPO, "--json", store=store).stdout)
    assert done["state"] == "finished" and commits(hub) == 3
    assert published_files(hub, "v1") == version_files(store / "datasets/pets/v1")


def test_two_publishers_at_once(store: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("publish", "pets@v1", REPO, store=store)
    plain = Hub.upload

    def meanwhile(version: str) -> Callable[..., Any]:
        def upload(self: Hub, *arguments: Any) -> None:
            monkeypatch.setattr(Hub, "upload", plain)
            publish(Store(store).version(version), REPO)
            plain(self, *arguments)

        return upload

    monkeypatch.setattr(Hub, "upload", meanwhile("pets@v2"))
    run("publish", "pets@v2", REPO, store=store)  # the same version: both are content
    assert commits(hub) == 3
    for version in ("v3", "v4"):
        shutil.copytree(store / "datasets/pets/v2", store / "datasets/pets" / version)
        reseal(store / "datasets/pets" / version, version=version, tombstones=[version])
    monkeypatch.setattr(Hub, "upload", meanwhile("pets@v3"))
    assert (
        "somebody else published to org/pets meanwhile" in run("publish", "pets@v4", REPO, store=store, code=1).output
    )
    assert commits(hub) == 4 and "v4" not in state_of(hub, REPO)["tags"]
    run("publish", "pets@v4", REPO, store=store)
    assert commits(hub) == 5


def test_what_is_published_never_changes(store: Path, hub: Path) -> None:
    run("publish", "pets@v1", REPO, store=store)
    reseal(store / "datasets/pets/v1", tombstones=["other"])
    said = run("publish", "pets@v1", REPO, store=store, code=1).output
    assert "org/pets@v1 is pets with id" in said and "build the next version" in said
    run("publish", "pets@v2", REPO, store=store)
    reseal(store / "datasets/pets/v2", version="v1")
    assert commits(hub) == 3


def test_main_does_not_go_back_but_a_branch_may_hold_what_is_older(store: Path, hub: Path) -> None:
    run("publish", "pets@v2", REPO, store=store)
    said = run("publish", "pets@v1", REPO, store=store, code=1).output
    assert "main of org/pets holds v2, which is later than v1" in said
    would = json.loads(run("publish", "pets@v1", REPO, "--revision", "old", "--dry-run", "--json", store=store).stdout)
    assert would["state"] == "would" and not would["deleted"] and list(state_of(hub, REPO)["branches"]) == ["main"]
    run("publish", "pets@v1", REPO, "--revision", "old", store=store)  # as the sentence says
    assert published_files(hub, "old") == version_files(store / "datasets/pets/v1")
    assert published_files(hub, "main") == version_files(store / "datasets/pets/v2")
    assert list(state_of(hub, REPO)["tags"]) == ["v2", "v1"]
    run("publish", "pets@v2", "org/main", "--revision", "new", store=store)
    assert published_files(hub, "v1") == version_files(store / "datasets/pets/v1")


@pytest.mark.parametrize("branch", ["v1", "V9", "refs/pr/1", "", "a b", "../x"])
def test_a_branch_that_is_taken_for_something_else(store: Path, hub: Path, branch: str) -> None:
    said = run("publish", "pets@v1", REPO, f"--revision={branch}", store=store, code=1).output
    assert f"{branch!r} cannot be the branch of a version: give --revision a plain name" in said
    assert not requests_log(hub)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hub.example", "HF_ENDPOINT 'hub.example' is no address: write https://HOST"),
        ("http://", "HF_ENDPOINT 'http:' is no address"),
        ("http://[::", "HF_ENDPOINT 'http://[::' is no address"),
        ("ftp://hub.example", "is no address"),
        ("https://hub.example:port", "is no address"),
        ("https://me:mysecret@hub.example", "HF_ENDPOINT holds a user or password"),
    ],
)
def test_an_endpoint_that_is_none(store: Path, monkeypatch: pytest.MonkeyPatch, address: str, words: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    said = run("publish", "pets@v1", REPO, store=store, code=1).output
    assert words in said and "mysecret" not in said


def test_an_endpoint_with_a_slash_at_its_end(store: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = os.environ["HF_ENDPOINT"]
    monkeypatch.setenv("HF_ENDPOINT", f"{address}/")
    done = json.loads(run("publish", "pets@v1", REPO, "--json", store=store).stdout)
    assert done["address"] == f"{address}/datasets/org/pets"


def test_a_token_with_characters_of_no_token(store: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_schlüssel")
    said = run("publish", "pets@v1", REPO, store=store, code=1).output
    assert "your token holds characters that no token has: run `hf auth login`" in said and "schl" not in said


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"data/train.parquet": b"x"}, "holds data/train.parquet, and no version of Tutelage"),
        ({"manifest.json": b"{}"}, "is damaged (name: field required): do not use it"),
        ({".gitignore": b"*.tar"}, "did not take data/train-000000.tar: remove the .gitignore"),
        ({"LICENSE": b"mine", "README.md": b"to come"}, ""),
    ],
)
def test_a_repository_that_is_there_already(store: Path, hub: Path, files: dict[str, bytes], words: str) -> None:
    Hub(REPO).create(private=False)
    state = state_of(hub, REPO)
    head = state["commits"][state["branches"]["main"]]
    for path, data in files.items():
        (hub / "blobs" / git_id(data)).write_bytes(data)
        head["files"][path] = {"oid": git_id(data), "size": len(data)}
    (hub / "repos/org/pets.json").write_text(json.dumps(state))
    result = run("publish", "pets@v1", REPO, store=store, code=1 if words else 0)
    assert words in result.output
    if not words:
        assert published_files(hub, "v1")["LICENSE"] == b"mine"
    else:
        assert not state_of(hub, REPO)["tags"]


def test_another_dataset_does_not_go_into_the_repository(store: Path, hub: Path) -> None:
    run("publish", "pets@v1", REPO, store=store)
    reseal(store / "datasets/pets/v2", name="cats")
    said = run("publish", "pets@v2", REPO, store=store, code=1).output
    assert "org/pets holds versions of pets, not of cats" in said


def test_private(store: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("publish", "pets@v1", REPO, "--private", store=store)
    assert state_of(hub, REPO)["private"]
    run("publish", "pets@v2", REPO, "--private", store=store)
    run("publish", "pets@v1", "org/open", store=store)
    said = run("publish", "pets@v2", "org/open", "--private", store=store, code=1).output
    assert "org/open is public already" in said
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    assert "403" in run("publish", "pets@v1", REPO, store=store, code=1).output


def test_gates_and_hashes_come_first(store: Path, hub: Path) -> None:
    version = store / "datasets/pets/v1"
    gate = {"name": "leak", "status": "fail", "message": "9 images leak"}
    provenance = read_manifest(version).provenance
    reseal(version, provenance=changed(provenance, gates=[gate]))
    assert "gate leak failed: 9 images leak" in run("publish", "pets@v1", REPO, store=store, code=1).output
    reseal(version, provenance=provenance)
    shard = version / "data/train-000003.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.unlink()
    shard.write_bytes(data)
    said = run("publish", "pets@v1", REPO, store=store, code=1).output
    assert "data/train-000003.tar of pets@v1 is not the file of its manifest: run `tutelage verify --repair" in said
    shard.unlink()
    said = run("publish", "pets@v1", REPO, store=store, code=1).output
    assert "v1 is damaged, data/train-000003.tar is missing: run `tutelage verify --repair pets@v1`" in said
    assert not requests_log(hub)


@pytest.mark.parametrize("repo", ["pets", "org/pets@v1", "org/pets/more", "../pets", "hf://org/pets"])
def test_names_of_repositories(store: Path, repo: str) -> None:
    assert "write ORG/NAME" in run("publish", "pets@v1", repo, store=store, code=1).output


def test_unknown_licences_are_a_warning_on_stderr(store: Path, hub: Path) -> None:
    result = run("publish", "pets@v1", REPO, "--json", store=store)
    assert "warning: the licence of the source images is unknown" in result.stderr
    assert len(orjson.loads(result.stdout)["warnings"]) == 2
