"""What several rows work on: samples in memory, photographs, a pool with replayed predictions and its recipe.

It imports nothing of ours, since the peers' environment imports it too.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from PIL import Image

Samples = Sequence[tuple[str, bytes, bytes]]
"""Key, image and label JSON of each."""
CLASSES = ("person", "car", "dog", "cat", "bird")
SIZE = (640, 480)
BOXES = 20
DISTINCT = 200


def make_samples(count: int, size: int) -> Samples:
    """`count` samples of `size` bytes, give or take 40 %, and labels of 20 boxes. The images overlap in one block of
    random bytes that no processor's cache holds."""
    rng = random.Random(0)
    block = rng.randbytes(256_000_000)
    samples = []
    for n in range(count):
        boxes = [[round(rng.uniform(0, 600), 3) for _ in range(4)] for _ in range(20)]
        label = {"objects": {"bbox": boxes, "category": [1] * 20, "score": [0.5] * 20}}
        start, length = rng.randrange(len(block) - 2 * size), int(size * rng.uniform(0.6, 1.4))
        samples.append((f"folder/image_{n:06d}-0123456789ab", block[start : start + length], orjson.dumps(label)))
    return samples


def bytes_of(samples: Samples) -> int:
    return sum(len(image) + len(label) for _, image, label in samples)


def jpeg(rng: np.random.Generator, size: int, sides: tuple[int, int] = SIZE) -> bytes:
    """A picture of soft shapes with noise on them, of about `size` bytes or of the least quality."""
    soft = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(sides, Image.Resampling.BICUBIC)
    noisy = np.asarray(soft, np.float32) + rng.normal(0, 12, (sides[1], sides[0], 1))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    data = b""
    for quality in range(50, 96, 5):
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality)
        data = out.getvalue()
        if len(data) >= size:
            break
    return data


def marked(data: bytes, number: int) -> bytes:
    """A JPEG made distinct by a comment (marker FE)."""
    comment = b"%08d" % number
    return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]


def write_inputs(folder: Path, images: int, size: int, sides: tuple[int, int] = SIZE) -> Path:
    """The pool of JPEGs, COCO results for it, their image list and a recipe, which is returned."""
    rng = np.random.default_rng(0)
    pictures = [jpeg(rng, size, sides) for _ in range(min(DISTINCT, images))]
    (folder / "pool").mkdir(parents=True)
    records: list[dict[str, Any]] = []
    for n in range(images):
        (folder / "pool" / f"{n:06d}.jpg").write_bytes(marked(pictures[n % len(pictures)], n))
        extent = np.array(sides)
        corners, lengths = rng.uniform(0, 0.8, (BOXES, 2)) * extent, rng.uniform(0.02, 0.2, (BOXES, 2)) * extent
        boxes = np.concatenate([corners, lengths], axis=1).round(2).tolist()
        labels, scores = rng.integers(0, len(CLASSES), BOXES).tolist(), rng.uniform(0.05, 1, BOXES).tolist()
        records += (
            {"image_id": n, "category_id": label, "bbox": box, "score": score}
            for box, label, score in zip(boxes, labels, scores, strict=True)
        )
    listing = {
        "images": [
            {"id": n, "file_name": f"{n:06d}.jpg", "width": sides[0], "height": sides[1]} for n in range(images)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES)],
    }
    (folder / "results.json").write_text(json.dumps(records))
    (folder / "listing.json").write_text(json.dumps(listing))
    teacher = {"spec": "replay:results.json", "images": "listing.json"}
    recipe = {"name": "bench", "pool": "pool", "teacher": teacher, "keep": {"score": 0.5, "ignore": 0.3}}
    (folder / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    return folder / "recipe.yaml"
