"""Sources of every kind become pools with stable keys and chunks that never change."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import BuildError
from builder.scan.entries import read_entry
from builder.scan.pool import Pool, find_pool
from builder.scan.scanner import list_size, scan_entries, scan_pool
from builder.scan.sources import list_source
from builder.store.files import digest
from builder.store.keys import make_key
from builder.store.store import Store
from builder.store.sums import SUMS
from tests.helpers.pools import write_images


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=150),
        unique_by=lambda s: unicodedata.normalize("NFC", s),
        max_size=20,
    )
)
def test_keys_are_safe_and_differ(names: list[str]) -> None:
    keys = [make_key(name) for name in names]
    assert len(set(keys)) == len(names)
    for name, key in zip(names, keys, strict=True):
        assert re.fullmatch(r"[A-Za-z0-9_/-]{1,90}", key)
        assert "__" not in key and "//" not in key and not key.startswith("/")
        assert make_key(unicodedata.normalize("NFD", name)) == key


def test_keys_keep_what_they_can() -> None:
    assert make_key("a/b.jpg").startswith("a/b-") and make_key("a/b.jpg") != make_key("a/b.png")
    assert len({make_key(n) for n in ("日本/1", "東京/1", "日本/1.jpg", "1")}) == 4


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "pool", 5)
    write_images(tmp_path / "pool" / "deep" / "er", 3, start=10, suffix=".PNG")
    (tmp_path / "pool" / "notes.md").write_text("no image")
    write_images(tmp_path / "pool" / ".hidden", 1, start=90)
    return tmp_path / "pool"


def names(pool: Pool) -> list[str]:
    return [image.name for image in pool.images()]


def test_every_kind_of_source_finds_the_same_images(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    flat = [f"image_{n:05d}.jpg" for n in range(5)]
    everything = [f"deep/er/image_{n:05d}.PNG" for n in (10, 11, 12)] + flat
    (tmp_path / "list.txt").write_text("# comment\n\n" + "\n".join(f"pool/{name}" for name in flat))
    coco = {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(flat)],
        "annotations": [],
        "categories": [],
    }
    (images / "beside.json").write_text(json.dumps(coco))
    (tmp_path / "elsewhere.json").write_text(json.dumps(coco))
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:  # webdataset's own habit: PAX, labels between the images
        for name in flat:
            tar.add(images / name, arcname=name)
            tar.add(images / "notes.md", arcname=name.replace(".jpg", ".json"))
    cases = [
        (str(images), None, everything),
        (str(images / "*.jpg"), None, flat),
        (str(images / "**" / "*.PNG"), None, everything[:3]),
        (str(tmp_path / "list.txt"), None, [f"pool/{name}" for name in flat]),
        (str(images / "beside.json"), None, flat),
        (str(tmp_path / "elsewhere.json"), images, flat),
        (str(tmp_path / "shard-0.tar"), None, [f"shard-0/{name}" for name in flat]),
    ]
    folder = scan_pool(str(images), store)
    content = {image.name.rpartition("/")[2]: image.sha256 for image in folder.images()}
    for source, root, expected in cases:
        pool = scan_pool(source, store, images=root)
        assert names(pool) == expected, source
        assert all(image.sha256 == content[image.name.rpartition("/")[2]] for image in pool.images()), source
        assert {(image.width, image.height, image.state) for image in pool.images()} == {(64, 48, "ok")}
        assert find_pool(store, pool.id[:12]) == pool == find_pool(store, source)


def test_absolute_lines_below_a_list_are_named_from_there(images: Path, tmp_path: Path) -> None:
    lines = [images / "image_00001.jpg", Path("pool/image_00000.jpg"), images / "deep" / "er" / "image_00010.PNG"]
    (tmp_path / "list.txt").write_text("".join(f"{line}\n" for line in lines))
    pool = scan_pool(tmp_path / "list.txt", Store(tmp_path / "store"))
    assert names(pool) == ["pool/deep/er/image_00010.PNG", "pool/image_00000.jpg", "pool/image_00001.jpg"]


def test_a_rescan_keeps_old_chunks_appends_new_ones_and_marks_what_is_gone(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    before = scan_pool(str(images), store, chunk_size=3)
    assert scan_pool(str(images), store, chunk_size=3) == before
    write_images(images, 2, start=20)
    shutil.copy(images / "image_00000.jpg", images / "a_copy.jpg")
    (images / "image_00001.jpg").rename(images / "renamed.jpg")
    os.remove(images / "image_00002.jpg")
    after = scan_pool(str(images), store, chunk_size=3)
    old, new = list(before.chunks()), list(after.chunks())
    assert [c.digest for c in new[: len(old)]] == [c.digest for c in old]
    assert [[i.name for i in c.images] for c in new[len(old) :]] == [["image_00020.jpg", "image_00021.jpg"]]
    state = {image.name: image.state for image in after.images()}
    assert state["image_00002.jpg"] == "removed" and state["a_copy.jpg"] == "duplicate" and state["renamed.jpg"] == "ok"
    assert "image_00001.jpg" not in state and after.id != before.id


def test_a_limit_makes_a_nested_unbiased_pool_of_its_own(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    small, large = (scan_pool(str(images), store, limit=n) for n in (2, 4))
    assert len(small) == 2 and set(names(small)) < set(names(large)) and small.id != large.id


def test_unreadable_images_are_rows(images: Path, tmp_path: Path) -> None:
    (images / "empty.jpg").write_bytes(b"")
    (images / "text.png").write_text("hello")
    (images / "broken_link.jpg").symlink_to(tmp_path / "nowhere")
    pool = scan_pool(str(images), Store(tmp_path / "store"))
    errors = {image.name: image.error for image in pool.images() if image.state == "unreadable"}
    assert errors == {
        "empty.jpg": "empty file",
        "text.png": "not an image of a known format",
        "broken_link.jpg": "No such file or directory",
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "missing", "does not exist"),
        (lambda d: (d / "empty").mkdir() or d / "empty", "no images in"),
        (lambda d: (d / "a.tar").write_bytes(b"no tar") and d / "a.tar", "uncompressed tar"),
        (lambda d: (d / "a.json").write_text("[1]") and d / "a.json", "no COCO JSON"),
        (lambda d: (d / "a.csv").write_text("x") and d / "a.csv", "is no folder"),
        (lambda d: "ftp://host/x", "ftp:// is not read"),
    ],
)
def test_wrong_sources_say_what_to_give(tmp_path: Path, make: object, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        scan_pool(str(make(tmp_path)), Store(tmp_path / "store"))  # type: ignore[operator]


def test_unreadable_twins_are_no_duplicates(images: Path, tmp_path: Path) -> None:
    for n in range(3):
        (images / f"empty_{n}.jpg").write_bytes(b"")
    pool = scan_pool(str(images), Store(tmp_path / "store"))
    assert (pool.count("unreadable"), pool.count("duplicate")) == (3, 0)


def test_the_store_and_loops_of_links_are_no_part_of_a_folder(images: Path, tmp_path: Path) -> None:
    store = Store(images / "store")
    before = scan_pool(str(images), store)
    (images / "store" / "datasets").mkdir()
    write_images(images / "store" / "datasets", 1)
    (images / "loop").symlink_to(images)
    assert scan_pool(str(images), store) == before


def test_a_tar_damaged_at_a_header_is_an_error_not_a_shorter_pool(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for n in range(5):
            tar.add(images / f"image_{n:05d}.jpg", arcname=f"{n}.jpg")
        third = tar.getmembers()[2].offset
    raw = bytearray((tmp_path / "a.tar").read_bytes())
    raw[third] ^= 1
    (tmp_path / "a.tar").write_bytes(bytes(raw))
    with pytest.raises(BuildError, match="uncompressed tar"):
        scan_pool(str(tmp_path / "a.tar"), Store(tmp_path / "store"))


def test_a_source_is_found_by_its_place_and_whole_before_limited(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    scan_pool(str(images), store, limit=2)
    assert len(find_pool(store, str(images))) == 2
    whole = scan_pool(str(images), store)
    copy = shutil.copytree(images, tmp_path / "elsewhere" / "pool")
    scan_pool(str(copy), store)
    monkeypatch.chdir(tmp_path)
    assert find_pool(store, "pool").id == find_pool(store, "./elsewhere/../pool").id == whole.id
    with pytest.raises(BuildError, match="no pool 'deep'"):
        find_pool(store, "deep")


def test_a_damaged_pool_is_scanned_anew(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    pool = scan_pool(str(images), store)
    (store.pools / pool.id / "pool.parquet").write_bytes(b"PAR1")
    assert scan_pool(str(images), store) == pool


def test_a_damaged_pool_that_cannot_be_made_again_is_not_replaced_by_another(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    scan_pool(str(images), store, chunk_size=2)
    (images / "image_00000.jpg").unlink()
    pool = scan_pool(str(images), store, chunk_size=2)  # it still knows the one that is gone, in its chunk
    pool.path.write_bytes(b"PAR1")
    with pytest.raises(BuildError, match=r"is damaged, and its images or their chunks are others by now.*from a copy"):
        scan_pool(str(images), store, chunk_size=2)
    shutil.rmtree(pool.path.parent)
    assert len(scan_pool(str(images), store, chunk_size=2)) == len(pool) - 1


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-9], lambda data: data.replace(b"limit", b"lamit"), lambda _: b"[]"]
)
def test_a_damaged_note_of_the_last_scan_stops_the_next(
    images: Path, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    store = Store(tmp_path / "store")
    scan_pool(str(images), store)
    (path,) = store.pools.glob("sources/*.json")
    path.write_bytes(damage(path.read_bytes()))
    for look in (lambda: scan_pool(str(images), store), lambda: find_pool(store, str(images))):
        with pytest.raises(BuildError, match=r"sources/[0-9a-f]{64}\.json .*fsck --repair.*from the beginning"):
            look()


def test_what_a_killed_scan_left_behind_is_swept(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    pool = scan_pool(str(images), store)
    left = [store.pools / pool.id / ".tmp-pool.parquet-1", store.pools / "sources" / ".tmp-x.json-1"]
    for path in left:
        path.write_bytes(b"half")
    assert scan_pool(str(images), store) == pool
    assert not any(path.exists() for path in left)


def test_a_pool_is_read_in_parts_and_knows_its_chunks_unread(images: Path, tmp_path: Path) -> None:
    shutil.copy(images / "image_00000.jpg", images / "copy.jpg")
    (images / "empty.jpg").write_bytes(b"")
    (images / "link.jpg").symlink_to(tmp_path / "nowhere")
    pool = scan_pool(str(images), Store(tmp_path / "store"), chunk_size=2)
    rows, chunks = list(pool.images()), list(pool.chunks())
    assert len(pool) == len(rows) == 11
    assert pool.counts == {"ok": 8, "unreadable": 2, "duplicate": 1, "removed": 0} and pool.lost == 1
    assert [i for c in chunks for i in c.images] == [i for i in rows if i.chunk >= 0]
    for chunk, facts in zip(chunks, pool.index, strict=True):
        hashes = "\n".join(image.sha256 for image in chunk.images)
        assert chunk.digest == facts.digest == hashlib.sha256(hashes.encode()).hexdigest()
        assert (len(chunk), sum(image.bytes for image in chunk.images)) == (facts.images, facts.bytes)
    assert list(pool.chunks(1, 3)) == list(pool.pick([1, 2])) == chunks[1:3]
    assert list(pool.chunks(4)) == chunks[4:] and list(pool.chunks(2, 2)) == []
    assert pool.formats == {("jpg", False), ("png", False)}
    assert pool.id == digest([[i.key, i.sha256, i.chunk, i.state] for i in rows])
    assert [row for table in pool.tables(["name"]) for row in table["name"].to_pylist()] == names(pool)


def test_many_chunks_lie_in_groups_that_hold_whole_ones(images: Path, tmp_path: Path) -> None:
    tar = tmp_path / "many.tar"
    data = (images / "image_00000.jpg").read_bytes()
    with tarfile.open(tar, "w") as file:
        for n in range(9001):
            member = tarfile.TarInfo(f"{n:05d}.jpg")
            member.size = len(marked := data[:2] + b"\xff\xfe\x00\x07%05d" % n + data[2:])
            file.addfile(member, io.BytesIO(marked))
    pool = scan_pool(str(tar), Store(tmp_path / "store"), chunk_size=500)
    assert pq.ParquetFile(pool.path).num_row_groups == 3
    assert [name[-9:-4] for name in names(pool)] == [f"{n:05d}" for n in range(9001)]
    for wanted in ([0], [8, 9], [3, 11, 17, 18], [18]):
        found = [(chunk.index, len(chunk), chunk.images[0].name[-9:-4]) for chunk in pool.pick(wanted)]
        assert found == [(n, 500 if n < 18 else 1, f"{500 * n:05d}") for n in wanted]


def test_a_scan_reads_only_what_changed(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(images / "image_00000.jpg", images / "copy.jpg")
    store, read = Store(tmp_path / "store"), []
    monkeypatch.setattr("builder.scan.scanner.read_entry", lambda entry: read.append(entry.name) or read_entry(entry))
    before = scan_pool(str(images), store)
    assert len(read) == 9
    stored = before.path.stat().st_mtime_ns
    read.clear()
    assert scan_pool(str(images), store) == before and read == [] and before.path.stat().st_mtime_ns == stored
    os.utime(images / "image_00003.jpg")
    write_images(images, 1, start=70)
    after = scan_pool(str(images), store)
    assert sorted(read) == ["image_00003.jpg", "image_00070.jpg"]
    assert after.counts == before.counts | {"ok": 9}
    read.clear()
    os.remove(images / "image_00000.jpg")  # the one that held the place of its copy
    last = scan_pool(str(images), store)
    assert read == [] and last.count("duplicate") == 0
    assert [image.chunk for image in last.images() if image.name == "copy.jpg"] == [0]
    assert last.index[0].digest == before.index[0].digest


def test_a_pool_of_an_older_version_keeps_its_chunks(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    scan_pool(str(images), store, chunk_size=3)
    write_images(images, 3, start=60)
    write_images(images / "deep", 3, start=60)
    pool = scan_pool(str(images), store, chunk_size=3)
    table = pq.read_table(pool.path, partitioning=None).drop_columns(["dhash"]).replace_schema_metadata({})
    pq.write_table(table, pool.path)
    (pool.path.parent / SUMS).unlink()
    with pytest.raises(BuildError, match=r"another version of Tutelage.*scan its source again"):
        find_pool(store, pool.id)
    assert scan_pool(str(images), store, chunk_size=3) == pool


def test_two_images_may_not_share_a_name_but_may_be_listed_twice(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    (tmp_path / "list.txt").write_text("pool/image_00001.jpg\npool/../pool/image_00001.jpg\npool/image_00000.jpg\n")
    assert len(scan_pool(str(tmp_path / "list.txt"), store)) == 2
    os.mkdir(images / "é")
    os.mkdir(images / unicodedata.normalize("NFD", "é"))
    for folder in ("é", unicodedata.normalize("NFD", "é")):
        shutil.copy(images / "image_00000.jpg", images / folder / "a.jpg")
    if len(os.listdir(images)) == 8:
        pytest.skip("this file system holds the two names to be one")
    with pytest.raises(BuildError, match=r"are named 'é/a.jpg': rename one of .*a.jpg and .*a.jpg"):
        scan_pool(str(images), store)


def test_what_someone_listed_is_scanned_and_found_again(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    everything = sorted(list_source(str(images)))
    key = {"truth": "labels.json"}
    pool = scan_entries(everything[:4], key, store, source="labels.json", chunk_size=3)
    assert names(pool) == [entry.name for entry in everything[:4]] and find_pool(store, pool.id[:8]) == pool
    grown = scan_entries(reversed(everything), key, store, source="labels.json", chunk_size=3)
    assert [facts.digest for facts in grown.index[:2]] == [facts.digest for facts in pool.index]
    with pytest.raises(BuildError, match="no images in labels"):
        scan_entries([], key, store, source="labels.json")
    with pytest.raises(BuildError, match="no pool"):
        find_pool(store, str(images))


def test_the_size_of_a_source_is_told_without_reading_it(images: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    pool = scan_pool(str(images), store)
    assert list_size(str(images), store) == (8, sum(image.bytes for image in pool.images()))
    assert list_size(str(images), store, limit=3)[0] == 3
