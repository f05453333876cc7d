"""What is taken for an image, what is passed over and said, and which tars are refused."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from builder.errors import BuildError
from builder.scan.entries import Listing, passed_over_text
from builder.scan.pool import Pool
from builder.scan.scanner import scan_pool
from builder.scan.sources import list_source
from builder.store.shards import write_shard
from builder.store.store import Store
from tests.helpers.pools import tree, write_images


def image(seed: int, format: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.effect_noise((24, 16), 10 + seed).save(out, format)
    return out.getvalue()


def pack(path: Path, names: Sequence[str], format: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of these members, images where the name says so."""
    with tarfile.open(path, "w", format=format) as tar:
        for n, name in enumerate(names):
            member = tarfile.TarInfo(name)
            data = image(n, "PNG" if name.endswith("png") else "JPEG")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def listed(source: Path, member: str | None = None) -> tuple[list[str], dict[str, int]]:
    listing = Listing(member)
    names = sorted(entry.name for entry in list_source(str(source), listing=listing))
    return [name.removeprefix("t/") for name in names], dict(listing.passed_over)


@pytest.mark.parametrize(
    ("names", "member", "images", "passed_over"),
    [
        (["0.jpg", "0.seg.png", "0.json"], None, ["0.jpg"], {".json": 1, ".seg.png": 1}),  # Tutelage's maps
        (["0.seg.png", "0.json", "0.jpg"], None, ["0.jpg"], {".json": 1, ".seg.png": 1}),  # in any order
        (["0.image.png", "0.cls"], None, ["0.image.png"], {".cls": 1}),  # alone
        (["0.image.png", "0.mask.png"], "image.png", ["0.image.png"], {".mask.png": 1}),
        (["0.jpg", "0.png", "1.jpg", "1.png"], "jpg", ["0.jpg", "1.jpg"], {".png": 2}),
        (["0.jpg", "0.png"], ".PNG", ["0.png"], {".jpg": 1}),
        (["0.jpg", "0.png"], "all", ["0.jpg", "0.png"], {}),
        (["a/0.jpg", "b/0.jpg"], None, ["a/0.jpg", "b/0.jpg"], {}),  # not one sample
        (["IMG.2024-05-01.jpg", "IMG.2024-05-02.jpg"], None, ["IMG.2024-05-01.jpg", "IMG.2024-05-02.jpg"], {}),
        (["x.jpg", "x.1.jpg", "x.depth.png"], None, ["x.1.jpg", "x.jpg"], {".depth.png": 1}),  # copies of a browser
        (["./0.jpg", "./0.seg.png"], None, ["0.jpg"], {".seg.png": 1}),
        (["0.jpg", "1.jpg", "0.seg.png"], "jpg", ["0.jpg", "1.jpg"], {".seg.png": 1}),  # not side by side
        (["x.1.jpg", "y.jpg", "x.2.jpg"], None, ["x.1.jpg", "x.2.jpg", "y.jpg"], {}),
        (["0.jpg", "._0.jpg"], None, ["0.jpg"], {}),  # what macOS packs beside each file
    ],
)
def test_which_members_of_a_sample_are_images(
    tmp_path: Path, names: list[str], member: str | None, images: list[str], passed_over: dict[str, int]
) -> None:
    path = pack(tmp_path / "t.tar", names)
    assert listed(path, member) == (images, passed_over)
    assert listed(tmp_path, member) == (images, passed_over)  # below a folder


@pytest.mark.parametrize(
    ("names", "member", "says"),
    [
        (["0.jpg", "0.png"], None, r"sample 0 of .*t.tar has the images .jpg and .png: say which .*`member: jpg`"),
        (
            ["k/0.in.png", "k/0.out.png"],
            None,
            r"sample k/0 .*\.in\.png and \.out\.png.*--member in\.png.*`member: all`",
        ),
        (["0.jpg", "0.png"], "webp", r"no image of .*t.tar is a member .webp, but some are .png: correct `member`"),
        (
            ["0.jpg", "1.jpg", "0.seg.png"],
            None,
            r"0\.seg\.png of .*t.tar does not stand beside .* sample 0, .*--sort=name",
        ),
        (
            ["0.seg.png", "1.jpg", "0.jpg"],
            None,
            r"0\.jpg of .*t.tar does not stand beside the other members of sample 0",
        ),
    ],
)
def test_a_tar_in_which_nobody_can_tell_asks(tmp_path: Path, names: list[str], member: str | None, says: str) -> None:
    with pytest.raises(BuildError, match=says):
        scan_pool(pack(tmp_path / "t.tar", names), Store(tmp_path / "store"), member=member)


def test_tutelages_own_shards_are_a_pool_of_their_images(tmp_path: Path) -> None:
    samples = [(f"k{n}", [("jpg", image(n)), ("json", b"{}"), ("seg.png", image(9, "PNG"))]) for n in range(4)]
    write_shard(tmp_path / "data" / "train-000000.tar", samples)
    pool = scan_pool(tmp_path / "data", Store(tmp_path / "store"))
    assert [i.name for i in pool.images()] == [f"train-000000/k{n}.jpg" for n in range(4)]
    assert pool.passed_over == {".json": 4, ".seg.png": 4}


def whole(path: Path) -> tuple[bytes, int]:
    """A tar's bytes, and where its third member begins."""
    with tarfile.open(path) as tar:
        return path.read_bytes(), tar.getmembers()[2].offset


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda raw, cut: raw[:cut], "without the mark of an archive's end and may be cut"),
        (lambda raw, cut: raw[: cut + 700], "cannot be read as an uncompressed tar"),
        (lambda raw, cut: raw[: cut + 100], "cannot be read as an uncompressed tar"),
        (lambda raw, cut: raw + raw, "more follows behind its end .* two archives"),
        (lambda raw, cut: raw[:cut] + bytes(1024) + raw[cut:], "more follows behind its end"),
        (lambda raw, cut: raw[:cut] + raw[cut : cut + 124] + b"77777777777\0" + raw[cut + 136 :], "uncompressed tar"),
    ],
)
def test_a_tar_that_is_not_whole_is_refused(tmp_path: Path, harm: object, says: str) -> None:
    path = pack(tmp_path / "t.tar", [f"{n}.jpg" for n in range(5)])
    path.write_bytes(harm(*whole(path)))  # type: ignore[operator]
    with pytest.raises(BuildError, match=says):
        scan_pool(tmp_path, Store(tmp_path / "store"))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_whole_tars_of_every_dialect_are_read(tmp_path: Path, format: int) -> None:
    names = [f"{'long' * 40}/{n}.jpg" for n in range(3)] + ["ä.jpg"]
    if format == tarfile.USTAR_FORMAT:
        names = [f"{'long' * 20}/{n}.jpg" for n in range(4)]
    assert len(listed(pack(tmp_path / "t.tar", names, format))[0]) == 4
    raw = (tmp_path / "t.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "t.tar").write_bytes(raw + bytes(-len(raw) % 512 + 1024))  # without tarfile's padding
    assert len(listed(tmp_path / "t.tar")[0]) == 4


def test_a_versions_shard_that_lost_samples_is_refused(tmp_path: Path) -> None:
    shard = tmp_path / "data" / "train-000000.tar"
    samples = [(f"k{n}", [("jpg", image(n)), ("json", b"{}")]) for n in range(4)]
    size = write_shard(shard, samples).bytes
    (tmp_path / "manifest.json").write_text(f'{{"shards": [{{"name": "train-000000.tar", "bytes": {size}}}]}}')
    assert len(scan_pool(tmp_path / "data", Store(tmp_path / "store"))) == 4
    cut = shard.read_bytes()[: size // 2 // 512 * 512]
    with tarfile.open(shard) as tar:
        ends = [m.offset for m in tar.getmembers()][4]
    shard.write_bytes(cut[:ends] + bytes(1024))  # between two samples, with an end mark behind
    with pytest.raises(BuildError, match=r"not the \d+ that .*manifest.json states: check that version"):
        scan_pool(tmp_path / "data", Store(tmp_path / "store"))


def test_what_is_passed_over_is_counted_and_said(tmp_path: Path) -> None:
    folder, store = tmp_path / "pool", Store(tmp_path / "store")
    write_images(folder, 2)
    for name in ("a.dng", "b.DNG", "c.txt", "d.tar.gz", "README", "x.heic.part", ".hidden.dng"):
        (folder / name).write_bytes(b"?")
    os.mkfifo(folder / "pipe.jpg")
    os.mkfifo(folder / "pipe.tar")
    pool = scan_pool(folder, store)
    expected = {".dng": 2, ".part": 1, ".tar.gz": 1, ".txt": 1, "other names": 1, "pipes and devices": 2}
    assert len(pool) == 2 and pool.passed_over == expected
    text = passed_over_text(pool.passed_over)
    assert text.startswith("8 files of other kinds: .dng 2, pipes and devices 2, .part 1, ")
    assert text.endswith("(unpack the archives; nothing that is no file is opened; convert the images among them)")
    kept = tree(store.root)
    assert scan_pool(folder, store) == pool and tree(store.root) == kept
    (folder / "c.txt").unlink()
    again = scan_pool(folder, store)  # the same images, so the same pool, which says what holds now
    assert again.id == pool.id and ".txt" not in again.passed_over


def test_a_source_without_images_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.dng").write_bytes(b"?")
    with pytest.raises(BuildError, match=r"no images in .*, but 1 file of other kinds: .dng 1 \(convert the images"):
        scan_pool(tmp_path, Store(tmp_path / "store"))
    (tmp_path / "a.tar.gz").write_bytes(b"?")
    with pytest.raises(BuildError, match=r"a.tar.gz is compressed, .*: unpack it first"):
        scan_pool(tmp_path / "a.tar.gz", Store(tmp_path / "store"))


def sizes(pool: Pool) -> dict[str, tuple[str, int]]:
    return {i.name: (i.state, i.width) for i in pool.images() if i.state != "removed"}


def bomb(format: str, side: int) -> bytes:
    """A small file that says it is large."""
    if format == "JPEG":
        data = bytearray(image(0))
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = side.to_bytes(2, "big") * 2
        return bytes(data)
    out = io.BytesIO()
    Image.new("1", (side, side)).save(out, format, **({"compression": "group4"} if format == "TIFF" else {}))
    return out.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "GIF"])
def test_too_large_an_image_is_a_row_in_every_format(
    tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import teachers.images

    folder, store = tmp_path / "pool", Store(tmp_path / "store")
    write_images(folder, 3)
    (folder / f"large.{format.lower()}").write_bytes(bomb(format, 14_000))  # 196 megapixels
    monkeypatch.setattr(teachers.images, "_to_rgb", None)  # whoever decodes it fails
    pool = scan_pool(folder, store, chunk_size=2)
    (error,) = (i.error for i in pool.images() if i.state == "unreadable")
    assert error == "has 14000 x 14000 pixels, more than pool.max_pixels: 89478485"
    for large in (teachers.images.decode_rgb, lambda data: teachers.images.encode_upright(data, "png")):
        with pytest.raises(teachers.images.ImageError, match="has 14000 x 14000 pixels"):
            large(bomb(format, 14_000))


def test_a_side_or_a_file_above_its_limit_is_a_row(tmp_path: Path) -> None:
    folder, store = tmp_path / "pool", Store(tmp_path / "store")
    write_images(folder, 3)
    Image.new("1", (65_501, 1)).save(folder / "strip.png")
    with open(folder / "sparse.jpg", "wb") as file:
        file.truncate(6 << 30)
    os.utime(folder / "strip.png", ns=(0, 2**63 + 5))  # in 2262
    pool = scan_pool(folder, store, chunk_size=2)
    assert [i.error for i in pool.images() if i.state == "unreadable"] == [
        "has 6442450944 bytes, more than 1073741824",
        "has 65501 x 1 pixels, and no side may have more than 65500",
    ]
    assert scan_pool(folder, store, chunk_size=2) == pool


def test_the_limit_of_pixels_can_be_moved_and_keeps_chunks(tmp_path: Path) -> None:
    folder, store = tmp_path / "pool", Store(tmp_path / "store")
    write_images(folder, 5, size=(64, 48))
    write_images(folder, 1, start=90, size=(80, 48))
    before = scan_pool(folder, store, chunk_size=2, max_pixels=64 * 48)
    assert (before.count("ok"), before.count("unreadable")) == (5, 1)
    raised = scan_pool(folder, store, chunk_size=2, max_pixels=80 * 48)
    assert [c.digest for c in raised.index[: len(before.index)]] == [c.digest for c in before.index]
    assert sizes(raised)["image_00090.jpg"] == ("ok", 80)
    lowered = scan_pool(folder, store, chunk_size=2, max_pixels=64 * 48)
    assert sizes(lowered)["image_00090.jpg"] == ("unreadable", 0) and lowered.count("ok") == 5
    assert [c.digest for c in lowered.index] == [c.digest for c in raised.index]


def test_a_member_without_tars_and_images_without_a_coco_json_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "pool", 2)
    with pytest.raises(BuildError, match=r"member jpg is about images in tars, and .*pool has none: leave it out"):
        scan_pool(str(tmp_path / "pool"), Store(tmp_path / "store"), member="jpg")
    with pytest.raises(BuildError, match=r"images is the folder of a COCO JSON's files, and .*pool is no COCO JSON"):
        scan_pool(str(tmp_path / "pool"), Store(tmp_path / "store"), images=tmp_path)
