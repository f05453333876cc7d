"""Copies of labelled images are found in a pool; other images are not taken for copies, however alike a set's are."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builder.scan.leaks import leaks
from builder.scan.likeness import THUMB, misfit
from builder.scan.pool import Pool
from builder.scan.scanner import scan_pool
from builder.store.store import Store


def encoded(image: Image.Image, format: str = "JPEG", quality: int = 85) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **({"quality": quality} if format == "JPEG" else {}))
    return out.getvalue()


def cropped(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 40": lambda image: encoded(image, quality=40),
    "PNG": lambda image: encoded(image, "PNG"),
    "half": lambda image: encoded(image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)),
    "double": lambda image: encoded(image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC)),
    "crop .01": lambda image: encoded(cropped(image, 0.01)),
    "crop .03": lambda image: encoded(cropped(image, 0.03)),
}


class Sets:
    """Pools of images in memory, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.store = folder, Store(folder / "store")

    def pool(self, name: str, images: list[bytes]) -> Pool:
        (self.folder / name).mkdir()
        for n, data in enumerate(images):
            (self.folder / name / f"{n:04d}.jpg").write_bytes(data)
        return scan_pool(self.folder / name, self.store)


def taken_for(found: dict[str, str], pool: Pool) -> dict[str, str]:
    """Name of an image -> name of the labelled image that it looks like."""
    names = {image.sha256: image.name for image in pool.images()}
    return {names[sha256]: text.split(" looks like ")[1].split(" ")[0] for sha256, text in found.items()}


def frames(count: int, seed: int = 3) -> list[Image.Image]:
    """Frames of a fixed camera: one scene, noise, and another small object in each."""
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    scene = np.asarray(rough.resize((240, 180), Image.Resampling.BICUBIC)).astype(float)
    images = []
    for _ in range(count):
        frame = scene + rng.normal(0, 2, (180, 240, 1))
        x, y = rng.integers(0, 220), rng.integers(0, 160)
        frame[y : y + 18, x : x + 18] = (255, 0, 0) if rng.random() < 0.5 else (0, 0, 255)
        images.append(Image.fromarray(frame.clip(0, 255).astype(np.uint8)))
    return images


def test_frames_of_a_fixed_camera_are_not_the_labelled_ones_and_copies_are(tmp_path: Path) -> None:
    sets, images = Sets(tmp_path), frames(120)
    truth = {"truth": sets.pool("truth", [encoded(image, quality=92) for image in images[:60]])}
    others = leaks(sets.pool("others", [encoded(image, quality=92) for image in images[60:]]), truth, 40)
    assert len(others.images) <= 4 and "share their scene" in others.note
    for kind in ("JPEG 40", "PNG", "half", "double"):
        pool = sets.pool(kind, [COPIES[kind](image) for image in images[:60]])
        copies = taken_for(dict(leaks(pool, truth, 40).images), pool)
        assert len(copies) >= 59 and all(image == labelled for image, labelled in copies.items()), kind


def test_digits_are_told_apart_and_their_copies_are_found(tmp_path: Path) -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits().images
    images = [Image.fromarray((digit * 15.9).astype(np.uint8)).resize((32, 32)) for digit in digits[:600]]
    sets = Sets(tmp_path)
    truth = {"truth": sets.pool("truth", [encoded(image, "PNG") for image in images[:300]])}
    others = leaks(sets.pool("others", [encoded(image, "PNG") for image in images[300:]]), truth, 40)
    assert len(others.images) <= 6
    for kind in ("JPEG 40", "double", "crop .01"):
        pool = sets.pool(kind, [COPIES[kind](image) for image in images[:300]])
        assert len(leaks(pool, truth, 40).images) >= 294, kind


def test_copies_of_photographs_are_found_and_others_are_not(tmp_path: Path, shared_data: Path) -> None:
    paths = sorted((shared_data / "bccd" / "images").glob("*.jpg"))[:80]
    images = [Image.open(path).convert("RGB") for path in paths]
    sets = Sets(tmp_path)
    truth = {"truth": sets.pool("truth", [path.read_bytes() for path in paths[:40]])}
    assert len(leaks(sets.pool("others", [path.read_bytes() for path in paths[40:]]), truth, 40).images) <= 1
    for kind, copy in COPIES.items():
        pool = sets.pool(kind, [copy(image) for image in images[:40]])
        copies = taken_for(dict(leaks(pool, truth, 40).images), pool)
        assert len(copies) >= 39, kind
        assert sum(image != labelled for image, labelled in copies.items()) <= 1, kind


def test_a_labelled_set_that_holds_every_image_twice_still_finds_copies(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    rough = [Image.fromarray(rng.integers(0, 255, (9, 11, 3), dtype=np.uint8)) for _ in range(12)]
    images = [image.resize((160, 120), Image.Resampling.BICUBIC) for image in rough]
    twice = [encoded(image) for image in images] + [encoded(image, quality=60) for image in images]
    sets = Sets(tmp_path)
    truth = {"truth": sets.pool("truth", twice)}
    for kind, copy in COPIES.items():
        assert len(leaks(sets.pool(kind, [copy(image) for image in images]), truth, 40).images) == 12, kind


def test_the_distance_and_a_single_labelled_image(tmp_path: Path) -> None:
    sets, image = Sets(tmp_path), frames(1)[0]
    truth = {"truth": sets.pool("truth", [encoded(image, quality=92)])}
    pool = sets.pool("pool", [COPIES["crop .03"](image), encoded(frames(1, seed=8)[0])])
    (text,) = leaks(pool, truth, 64).images.values()
    bits = int(text.partition("(")[2].partition(" of")[0])
    assert len(leaks(pool, truth, bits).images) == 1
    assert not leaks(pool, truth, bits - 1).images and not leaks(pool, truth, None).images


def test_misfit_is_nothing_for_the_same_and_small_for_a_crop() -> None:
    rng = np.random.default_rng(1)
    rough = [Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)) for _ in range(20)]
    large = [image.resize((320, 320), Image.Resampling.BICUBIC) for image in rough]
    thumbs = np.stack([np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BOX)) for image in large])
    crops = np.stack([np.asarray(cropped(i, 0.04).resize((THUMB, THUMB), Image.Resampling.BOX)) for i in large])
    same = misfit(thumbs, thumbs)
    assert same.whole.max() < 1e-6 and same.local.max() < 1e-6
    assert misfit(crops, thumbs).whole.max() < 0.1
    assert misfit(np.roll(thumbs, 1, axis=0), thumbs).whole.min() > 0.3
