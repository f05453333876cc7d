"""Images that look alike are found, all of them and no others; which one stays does not change as a pool grows."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from builder.scan.dhash import BITS, dhash
from builder.scan.duplicates import alike, near_duplicates, shared
from builder.scan.leaks import leaks
from builder.scan.pool import Pool
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from teachers.images import UPRIGHT


def encoded(image: Image.Image, format: str = "JPEG", quality: int = 90, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, format, exif=exif, **({"quality": quality} if format == "JPEG" else {}))
    return out.getvalue()


def picture(seed: int, size: tuple[int, int] = (320, 200)) -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 255, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


def between(one: Image.Image, other: Image.Image, share: float) -> Image.Image:
    return Image.blend(one, other, share)


def bits_apart(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


COPIES = {
    "quality 50": lambda image: encoded(image, quality=50),
    "lossless": lambda image: encoded(image, "PNG"),
    "half the size": lambda image: encoded(image.resize((image.width // 2, image.height // 2))),
    "a third, odd sizes": lambda image: encoded(image.resize((image.width // 3, image.height // 3))),
    "brighter": lambda image: encoded(ImageEnhance.Brightness(image).enhance(1.1)),
    "darker": lambda image: encoded(ImageEnhance.Brightness(image).enhance(0.8)),
    "grey": lambda image: encoded(image.convert("L")),
    "CMYK": lambda image: encoded(image.convert("CMYK")),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_an_image_differ_in_few_bits(copy: str, shared_data: Path) -> None:
    for path in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:12]:
        data = path.read_bytes()
        assert bits_apart(dhash(data), dhash(COPIES[copy](Image.open(path).convert("RGB")))) <= 6, path.name


def test_different_images_differ_in_many_bits(shared_data: Path) -> None:
    hashes = [dhash(path.read_bytes()) for path in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:60]]
    assert min(bits_apart(a, b) for n, a in enumerate(hashes) for b in hashes[:n]) > 16


def test_the_first_half_is_the_difference_hash_of_imagehash(shared_data: Path) -> None:
    import imagehash

    apart = []
    for path in sorted((shared_data / "coco" / "images").glob("*.jpg"))[:20]:
        cells = Image.open(path).convert("L").resize((9, 8), Image.Resampling.BOX)  # its own filter is another one
        theirs = str(imagehash.dhash(cells))
        apart.append(bits_apart(dhash(path.read_bytes())[: BITS // 8], theirs))
    assert max(apart) <= 6 and np.mean(apart) < 2, apart  # it decodes whole, and rounds the cells to grey levels


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_turned_image_has_the_hash_of_the_upright_one(format: str, orientation: int) -> None:
    upright = picture(1, (333, 205))
    back = {6: 8, 8: 6}.get(orientation, orientation)
    stored = upright.transpose(UPRIGHT[back])
    turned = dhash(encoded(stored, format, orientation=orientation))
    assert bits_apart(turned, dhash(encoded(upright, "PNG"))) <= 3
    assert bits_apart(turned, dhash(encoded(stored, format))) > 16


@pytest.mark.parametrize("value", [0, 90, 255])
def test_flat_images_have_no_hash_and_are_not_duplicates(value: int, tmp_path: Path) -> None:
    for n in range(3):
        flat = np.full((64, 80, 3), value, np.uint8)
        flat[10 * n + 10, 20 * n + 5] = 128  # a speck
        (tmp_path / f"{n}.jpg").write_bytes(encoded(Image.fromarray(flat)))
    pool = scan_pool(str(tmp_path), Store(tmp_path / "store"))
    assert [image.dhash for image in pool.images()] == [""] * 3
    assert near_duplicates(pool, 16) == {}


def test_what_cannot_be_decoded_has_no_hash() -> None:
    data = encoded(picture(0))
    assert dhash(data[: len(data) // 2]) == dhash(b"") == dhash(b"\xff\xd8\xff") == ""


HASHES = st.lists(st.tuples(st.integers(0, 2**20 - 1), st.integers(0, 2**20 - 1)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(ones=HASHES, others=HASHES, distance=st.integers(0, 32), data=st.data())
def test_all_pairs_within_a_distance_are_found_once(
    ones: list[tuple[int, int]], others: list[tuple[int, int]], distance: int, data: st.DataObject
) -> None:
    for _ in range(data.draw(st.integers(0, 10))):  # some within and some just outside
        hash, places = data.draw(st.sampled_from(ones)), data.draw(st.sets(st.integers(0, 127), max_size=distance + 2))
        low = sum(1 << place for place in places if place < 64)
        others.append((hash[0] ^ low, hash[1] ^ sum(1 << place - 64 for place in places if place >= 64)))
    a, b = (np.array(hashes, np.uint64) for hashes in (ones, others))

    def brute(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
        apart = {
            (i, j): (x[0] ^ y[0]).bit_count() + (x[1] ^ y[1]).bit_count()
            for i, x in enumerate(a)
            for j, y in enumerate(b)
        }
        return {pair: bits for pair, bits in apart.items() if bits <= distance}

    for found, expected in (
        (alike(a, b, distance), brute(ones, others)),
        (alike(b, None, distance), {p: bits for p, bits in brute(others, others).items() if p[0] < p[1]}),
    ):
        rows = list(zip(*(column.tolist() for column in found), strict=True))
        assert len(rows) == len(expected) and {(i, j): bits for i, j, bits in rows} == expected


def sequence_pool(folder: Path, frames: int = 40, **options: int) -> Pool:
    """Frames that turn from one picture into another, each close to the next; pictures beside them."""
    folder.mkdir(exist_ok=True)
    for n in range(frames):
        (folder / f"frame_{n:03d}.jpg").write_bytes(encoded(between(picture(1), picture(2), n / frames)))
    for n in range(5):
        (folder / f"other_{n}.jpg").write_bytes(encoded(picture(10 + n)))
    return scan_pool(str(folder), Store(folder.parent / "store"), **options)


@pytest.mark.parametrize("distance", [0, 4, 8])
def test_an_image_stays_unless_it_is_alike_one_that_stays_before_it(distance: int, tmp_path: Path) -> None:
    pool = sequence_pool(tmp_path / "pool", chunk_size=7)
    kept: list[str] = []
    expected: set[str] = set()
    for image in pool.images():
        if any(bits_apart(image.dhash, other) <= distance for other in kept):
            expected.add(image.sha256)
        else:
            kept.append(image.dhash)
    dropped = near_duplicates(pool, distance)
    assert set(dropped) == expected
    if distance == 4:
        assert all(text.startswith("frame_") and "looks like frame_" in text for text in dropped.values())
        assert len(kept) > 8 and len(dropped) > 10  # a sequence is thinned, not reduced to its first frame


def test_images_that_are_added_later_displace_none(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    before = sequence_pool(folder, chunk_size=7)
    dropped = near_duplicates(before, 4)
    for path in sorted(folder.glob("*.jpg"))[::3]:
        (folder / f"a_{path.name}").write_bytes(encoded(Image.open(path), quality=60))  # first by name, yet later
    after = scan_pool(str(folder), Store(tmp_path / "store"), chunk_size=7)
    old = {image.sha256 for image in before.images()}
    now = near_duplicates(after, 4)
    assert {sha256: text for sha256, text in now.items() if sha256 in old} == dropped
    assert len(after) > len(before) and len(now) == len(dropped) + len(after) - len(before)


def test_gone_images_hold_nobody_out(tmp_path: Path) -> None:
    folder = tmp_path / "pool"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(encoded(picture(1)))
    (folder / "b.jpg").write_bytes(encoded(picture(1), quality=60))
    pool = scan_pool(str(folder), Store(tmp_path / "store"))
    assert list(near_duplicates(pool, 4).values()) == ["b.jpg looks like a.jpg (0 of 128 bits differ)"]
    (folder / "a.jpg").unlink()
    assert near_duplicates(scan_pool(str(folder), Store(tmp_path / "store")), 4) == {}


def test_leaks_name_the_reference_and_images_in_two_references_are_told(tmp_path: Path) -> None:
    files = {
        "pool": {"same.jpg": picture(1), "resized.jpg": picture(2).resize((160, 100)), "free.jpg": picture(3)},
        "truth": {"one.jpg": picture(1), "two.jpg": picture(2), "both.jpg": picture(5)},
        "test": {"one_again.jpg": picture(1), "other.jpg": picture(6), "common.jpg": picture(5)},
    }
    pools: dict[str, Pool] = {}
    for name, images in files.items():
        (tmp_path / name).mkdir()
        for file, image in images.items():
            (tmp_path / name / file).write_bytes(encoded(image))
        pools[name] = scan_pool(str(tmp_path / name), Store(tmp_path / "store"))
    pool = pools.pop("pool")
    named = {image.sha256: image.name for image in pool.images()}
    exact = leaks(pool, pools, None).images
    assert {named[sha256]: text for sha256, text in exact.items()} == {"same.jpg": "same.jpg is one.jpg of truth"}
    found = {named[sha256]: text for sha256, text in leaks(pool, pools, 40).images.items()}
    assert found.pop("same.jpg") == "same.jpg is one.jpg of truth"
    assert list(found) == ["resized.jpg"] and found["resized.jpg"].startswith(
        "resized.jpg looks like two.jpg of truth ("
    )
    assert leaks(pool, {}, 40).images == {}
    assert shared(pools) == ["both.jpg of truth is common.jpg of test", "one.jpg of truth is one_again.jpg of test"]
    assert [len(shared({name: one, "itself": one})) for name, one in pools.items()] == [3, 3]


def test_frames_of_a_film_are_alike_where_little_moves(shared_data: Path) -> None:
    hashes = [dhash(path.read_bytes()) for path in sorted((shared_data / "camvid" / "images").glob("*.jpg"))]
    assert 1 <= sum(bits_apart(a, b) <= 8 for a, b in pairwise(hashes)) < len(hashes) / 4
