"""Files of a version are looked at before they are used, and what was found is remembered."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from builder.errors import BuildError
from builder.store import trust
from builder.store.files import canonical_json, sha256_file
from builder.store.manifest import Manifest, version_id, write_manifest
from builder.store.provenance import Provenance
from builder.store.shards import ShardRecord
from builder.store.store import Store
from builder.store.version import LABELS, Version
from teachers.errors import TutelageWarning

SIZE = trust.WORTH
TAR = "data/train-000000.tar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version in a store, of a shard that is large enough to be remembered, and labels."""
    folder = tmp_path / "store" / "datasets" / "pets" / "v1"
    (folder / "data").mkdir(parents=True)
    (folder / LABELS).write_text("labels")
    (folder / TAR).write_bytes(bytes(SIZE))
    shard = ShardRecord(
        name="train-000000.tar", bytes=SIZE, sha256=sha256_file(folder / TAR), samples=1, kept=1, ignored=0
    )
    manifest = Manifest(
        name="pets", version="v1", id=version_id(["cat"], ["jpg"], [shard.sha256], []), kind="detection",
        classes=["cat"], features=["jpg"], shards=[shard], images={}, objects={}, per_class={},
        files={LABELS: sha256_file(folder / LABELS)}, provenance=Provenance(),
    )  # fmt: skip
    write_manifest(folder, manifest)
    return folder


def _flip(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(100 % path.stat().st_size)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        (TAR, _flip, "data/train-000000.tar is not the file of its manifest"),
        (TAR, Path.unlink, "data/train-000000.tar is missing"),
        (TAR, lambda path: path.write_bytes(b""), f"data/train-000000.tar has 0 bytes, its manifest says {SIZE}"),
        (TAR, _link, "data/train-000000.tar is a link"),
        (TAR, _folder, "data/train-000000.tar is missing"),
        (TAR, _pipe, "data/train-000000.tar is no regular file"),
        (LABELS, _flip, "labels.parquet is not the file of its manifest"),
        (LABELS, Path.unlink, "labels.parquet is missing"),
    ],
)
def test_a_damaged_file_is_refused_by_name(
    folder: Path, name: str, damage: Callable[[Path], object], told: str
) -> None:
    damage(folder / name)
    version = Version.open(folder)
    with pytest.raises(BuildError) as refused:
        _read(version)
    assert told in str(refused.value) and "`tutelage verify --repair pets@v1`" in str(refused.value)


def _read(version: Version) -> None:
    assert [record.name for record, _ in version.shards()] and version.labels


@pytest.mark.parametrize("name", ["data/more.tar", "notes.txt", "report/x.html"])
def test_a_foreign_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("foreign")
    with pytest.raises(BuildError, match=rf"{name} is no part of it: move that elsewhere"):
        _read(Version.open(folder))


def test_hidden_files_and_a_page_that_is_being_written_are_not(folder: Path) -> None:
    for name in (".tmp-x", "report/index.html"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
    _read(Version.open(folder))


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were hashed, as another process would have to."""
    names: list[str] = []

    def hashing(path: Path) -> str:
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(trust, "sha256_file", hashing)
    monkeypatch.setattr(trust, "_known", trust._Known())
    monkeypatch.setattr(trust, "SETTLED", 0)
    return names


def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_known", trust._Known())


def test_a_file_is_hashed_once_a_day_by_all_processes(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        _read(Version.open(folder))
    assert hashed == ["train-000000.tar", LABELS]
    _another_process(monkeypatch)
    _read(Version.open(folder))
    assert hashed[2:] == [LABELS], "the small one again"
    _another_process(monkeypatch)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + trust.DAY)
    _read(Version.open(folder))
    assert hashed[3:] == ["train-000000.tar", LABELS], "on the next day"


def test_times_that_were_set_back_hide_no_change(folder: Path, hashed: list[str]) -> None:
    _read(Version.open(folder))
    before = (folder / TAR).stat()
    _flip(folder / TAR)
    os.utime(folder / TAR, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(BuildError, match=r"train-000000\.tar is not the file of its manifest"):
        _read(Version.open(folder))


@pytest.mark.parametrize("edited", [b"{", b"[]", b'{"files": 3}', None])
def test_a_damaged_memory_says_nothing(
    folder: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch, edited: bytes | None
) -> None:
    _read(Version.open(folder))
    memory = folder.with_name(".checked-v1")
    stored = orjson.loads(memory.read_bytes())
    assert [*stored["files"]] == [TAR]
    if edited is None:  # another hash, which the digest of the file does not cover
        stored["files"][TAR][1] = "00" * 32
        edited = canonical_json(stored)
    memory.write_bytes(edited)
    _another_process(monkeypatch)
    _read(Version.open(folder))
    assert hashed == 2 * ["train-000000.tar", LABELS]


def test_a_version_elsewhere_is_checked_and_nothing_written(folder: Path, hashed: list[str], tmp_path: Path) -> None:
    folder.rename(tmp_path / "elsewhere")
    _read(Version.open(tmp_path / "elsewhere"))
    assert hashed == ["train-000000.tar", LABELS] and not [*tmp_path.glob(".checked*")]


def test_a_store_that_is_trusted_hashes_nothing_and_says_so(folder: Path, hashed: list[str], tmp_path: Path) -> None:
    _flip(folder / TAR)
    with pytest.warns(TutelageWarning, match=r"pets@v1 are taken as they are: none is checked"):
        version = Store(tmp_path / "store", trust=True).version("pets@v1")
    _read(version)
    assert hashed == []
    (folder / TAR).unlink()
    with pytest.raises(BuildError, match="is missing"):
        _read(Store(tmp_path / "store").version("pets@v1"))


def test_what_was_checked_ahead_is_not_hashed_again_and_its_damage_is_told_later(
    folder: Path, hashed: list[str]
) -> None:
    version = Version.open(folder)
    version.check_ahead()
    _read(version)
    assert hashed.count("train-000000.tar") == 1
    _flip(folder / TAR)
    version.check_ahead()
    with pytest.raises(BuildError, match="not the file of its manifest"):
        _read(version)


def test_a_file_that_changes_while_it_is_read_is_not_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hashing(path: Path) -> str:
        sha256 = sha256_file(path)
        _flip(path)
        return sha256

    monkeypatch.setattr(trust, "sha256_file", hashing)
    with pytest.raises(BuildError, match="changed while it was read"):
        _read(Version.open(folder))


def test_a_forked_child_waits_for_no_thread_of_its_parent(folder: Path, hashed: list[str]) -> None:
    with trust._known.lock, trust._known.locks[str(folder / TAR)]:
        child = os.fork()
        if child == 0:
            try:
                _read(Version.open(folder))
            finally:
                os._exit(0)
        deadline = time.monotonic() + 20
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
    assert ended == (child, 0)
