"""Pools of images in an S3 server, through a line that fails: the pool is that of the same files in a folder."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.buckets.line import RemoteError
from builder.cli.main import main
from builder.errors import BuildError
from builder.scan.entries import Listing
from builder.scan.pool import ImageChanged, Pool, PoolImage
from builder.scan.scanner import foresee_scan, scan_pool
from builder.scan.sources import list_source
from builder.store.store import Store
from tests.helpers.pools import write_images
from tests.helpers.s3 import BUCKET, S3, Fault, running_s3

ROOT = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with running_s3() as server:
        yield server


@pytest.fixture(scope="module")
def files(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of everything that a source can be, which lies in the bucket, too, below `here`."""
    folder = tmp_path_factory.mktemp("files")
    names = write_images(folder, 6)
    write_images(folder / "sub/deep er", 2, start=10)
    write_images(folder / ".hidden", 1, start=20)
    (folder / "notes.heic").write_bytes(b"x")
    (folder / ".gone.jpg").write_bytes(b"x")
    write_images(folder / "sub/ü#?", 1, start=12)
    with tarfile.open(folder / "sub/packed.tar", "w") as tar:
        for n, name in enumerate(write_images(folder.parent / "members", 4, start=30)):
            tar.add(folder.parent / "members" / name, f"{n:04d}.jpg")
            note = tarfile.TarInfo(f"{n:04d}.json")
            note.size = 70_000
            tar.addfile(note, io.BytesIO(b" " * note.size))
    (folder / "list.txt").write_text(
        f"# some\n{names[0]}\n\nsub/deep er/image_00010.jpg\n./sub/../{names[2]}\nsub/packed.tar\n"
    )
    coco = {"images": [{"id": n, "file_name": name} for n, name in enumerate(names[:3])], "annotations": []}
    (folder / "annotations").mkdir()
    (folder / "annotations/instances_val.json").write_text(json.dumps(coco))
    write_images(folder / "val", 3)
    odd = folder / "odd"
    for n, name in enumerate(("3f2a", ".hid/x.jpg", "x[1].jpg", "x1.jpg"), start=50):
        (made,) = write_images(folder.parent / "odd", 1, start=n)
        (odd / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.parent / "odd" / made).rename(odd / name)
    coco["images"] = [{"id": n, "file_name": name} for n, name in enumerate(("3f2a", ".hid/x.jpg"))]
    (odd / "coco.json").write_text(json.dumps(coco))
    (odd / "list.txt").write_text("3f2a\n.hid/x.jpg\ngone.jpg\ngone.tar\n")
    s3.put_folder(folder, "here")
    s3.put("here/empty/", b"")
    return folder


def rows(pool: Pool) -> list[tuple[object, ...]]:
    return [(i.key, i.name, i.sha256, i.offset, i.bytes, i.width, i.dhash, i.chunk, i.state) for i in pool.images()]


@pytest.mark.parametrize(
    "source",
    [
        "", "sub/packed.tar", "image_00003.jpg", "list.txt", "annotations/instances_val.json", "*.jpg", "**/*.jpg",
        "sub/**", "*/deep er/*1?.jpg", "sub/*", "image_0000[!1-3].jpg", "**/*.tar",
        "odd/coco.json", "odd/list.txt", "odd/x[1].jpg",
    ],
)  # fmt: skip
def test_every_source_gives_the_pool_of_the_same_files_in_a_folder(
    source: str, s3: S3, files: Path, tmp_path: Path
) -> None:
    here = scan_pool(f"{files}/{source}".rstrip("/"), Store(tmp_path / "here"))
    there = scan_pool(f"{ROOT}/here/{source}", Store(tmp_path / "there"))
    assert (there.id, rows(there), there.passed_over) == (here.id, rows(here), here.passed_over)
    assert next(there.images()).read() == next(here.images()).read()


def test_faults_change_nothing_and_many_requests_are_in_flight(s3: S3, files: Path, tmp_path: Path) -> None:
    here = scan_pool(files, Store(tmp_path / "here"))
    s3.asked("")
    s3.most = 0
    s3.faults[:] = [
        Fault("GET .*list-type", status=503, times=2),
        Fault("GET .*image_00000", status=503, times=3),
        Fault("GET .*image_00001", cut=100),
        Fault("GET .*image_00002", wait=0.2),
        Fault("GET .*image_00003", die=True),
        Fault("GET .*packed.tar", cut=0),
        Fault("GET .*packed.tar", status=500, skip=1),
        Fault("GET", wait=0.5, times=8),
    ]
    store = Store(tmp_path / "there")
    there = scan_pool(f"{ROOT}/here", store)
    assert not any(fault.times for fault in s3.faults)
    assert rows(there) == rows(here)
    assert s3.most > 4
    s3.asked("")
    assert scan_pool(f"{ROOT}/here/", store).id == there.id  # nothing is read again but headers in tars
    assert {path.rpartition("/")[2].partition("?")[0] for _, path, *_ in s3.asked("")} == {BUCKET, "packed.tar"}


def test_headers_of_tars_are_read_without_their_images(s3: S3, files: Path) -> None:
    data = (files / "sub/packed.tar").read_bytes()
    s3.asked("")
    entries = list(list_source(f"{ROOT}/here/sub/packed.tar", listing=Listing()))
    assert len(entries) == 4
    assert all(data[e.offset : e.offset + 3] == b"\xff\xd8\xff" for e in entries)
    ranges = [line[2].removeprefix("bytes=").split("-") for line in s3.asked("GET")]
    assert sum(int(last) + 1 - int(first) for first, last in ranges) < len(data) / 1.5
    s3.put("cut/t.tar", data[: len(data) // 2])
    with pytest.raises(BuildError, match="cannot be read as an uncompressed tar"):
        list(list_source(f"{ROOT}/cut"))


def test_what_changes_after_the_scan_is_found_and_only_that_is_read_again(s3: S3, files: Path, tmp_path: Path) -> None:
    names = write_images(tmp_path / "pool", 5)
    s3.put_folder(tmp_path / "pool", "moving")
    store = Store(tmp_path / "store")
    first = {image.name: image for image in scan_pool(f"{ROOT}/moving", store).images()}
    data = {name: (tmp_path / "pool" / name).read_bytes() for name in names}
    s3.client.delete_object(Bucket=BUCKET, Key=f"moving/{names[0]}")
    other = bytes([*data[names[1]][:-3], 0, *data[names[1]][-2:]])  # as long
    s3.put(f"moving/{names[1]}", other)
    s3.put(f"moving/{names[2]}", data[names[2]] + b"x")
    s3.put(f"moving/{names[3]}", data[names[3]])  # again
    for name, reason in zip(names, ("no such object", "changed", "changed", "", ""), strict=True):
        if not reason:
            assert first[name].read() == data[name]
            continue
        with pytest.raises(ImageChanged, match=reason) as raised:
            first[name].read()
        assert f"{ROOT}/moving/{name}" in str(raised.value)
    s3.asked("")
    assert foresee_scan(f"{ROOT}/moving", store).unread == 2
    again = scan_pool(f"{ROOT}/moving", store)
    assert again.counts["removed"] == 3
    assert {path.rpartition("/")[2] for _, path, *_ in s3.asked("GET /photos/")} == {names[1], names[2]}


def test_a_local_list_of_addresses_and_a_file_that_is_not_there(s3: S3, files: Path, tmp_path: Path) -> None:
    write_images(tmp_path, 1, start=40)
    listed = ["image_00040.jpg", f"{ROOT}/here/image_00001.jpg", f"{ROOT}/here/no.jpg", f"{ROOT}/here/sub/packed.tar"]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    images = {i.name: i for i in scan_pool(tmp_path / "list.txt", Store(tmp_path / "store")).images()}
    assert len(images) == 7
    assert images[f"{BUCKET}/here/image_00001.jpg"].read() == (files / "image_00001.jpg").read_bytes()
    assert images[f"{BUCKET}/here/no.jpg"].error == "there is no such object"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("ftp://host/a", "ftp:// is not read"),
        ("s3://user:secretword@bucket/a", "holds a user or password"),
        ("https://host/a.jpg?X-Amz-Signature=secretword", "has a query"),
        ("s3://", "is no address"),
        (f"{ROOT}/a/../b", "is no address"),
        (f"{ROOT}/nothing", "no images in"),
        ("s3://no-such-bucket/a", "there is no bucket no-such-bucket"),
        (f"{ROOT}/no.txt", "does not exist"),
        (f"{ROOT}/a.tar.gz", "unpack it first"),
        (f"{ROOT}/here/list.txt --images {ROOT}/here", "is no COCO JSON"),
        ("s3://bu*/a", "wildcard in the name of its bucket"),
    ],
)  # fmt: skip
def test_what_cannot_be_scanned_is_one_sentence_without_secrets(
    source: str, words: str, s3: S3, files: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, ["scan", *source.split(), "--store", str(tmp_path)])
    assert result.exit_code == 1
    assert words in result.output
    assert "secretword" not in result.output
    assert len(result.output.splitlines()) == 1


def test_a_store_that_stays_away_ends_the_work_with_one_sentence(
    s3: S3, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = next(scan_pool(f"{ROOT}/here/image_00003.jpg", Store(tmp_path)).images())
    for fault, why in (
        (Fault("GET", status=503, times=99), r"in 4 tries \(503 SlowDown\)"),
        (Fault("GET", cut=5, times=99), "its answers are cut"),
        (Fault("GET", die=True, times=99), "it cannot be reached|it hangs up"),
        (Fault("GET", status=403, times=1), "403 AccessDenied.*AWS_PROFILE"),
    ):
        s3.faults[:] = [fault]
        with pytest.raises(RemoteError, match=why) as raised:
            image.read()
        assert str(raised.value).startswith(f"{ROOT}/here/image_00003.jpg cannot be read")
    monkeypatch.setattr("builder.buckets.systems.SILENCE", 0.2)
    monkeypatch.setattr("builder.buckets.systems._made", {})
    s3.faults[:] = [Fault("GET", wait=0.6, times=4)]
    with pytest.raises(RemoteError, match="no answer in time"):
        image.read()
    s3.faults[:] = []
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("builder.buckets.systems._made", {})
    with pytest.raises(RemoteError, match=r"no login\): set AWS_PROFILE"):
        image.read()


def test_no_credential_is_written_into_a_pool(s3: S3, files: Path, tmp_path: Path) -> None:
    scan_pool(f"{ROOT}/here", Store(tmp_path))
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"AKIDTEST" not in stored
    assert b"secretsecret" not in stored


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.buckets.systems._made", {})
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(RemoteError, match=r"pip install 'tutelage\[s3\]'"):
        PoolImage("a", "a", "", "s3://bucket/a", 0, 1, 0).read()
