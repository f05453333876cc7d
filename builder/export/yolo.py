"""A version as a YOLO data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import yaml

from builder.export.items import Item, new, write_image
from builder.export.polygons import polygon
from builder.store.manifest import Manifest


def write_yolo(folder: Path, manifest: Manifest, items: Iterable[Item], counts: Counter[str]) -> None:
    content = {"train": "images", "val": "images", "nc": len(manifest.classes), "names": manifest.classes}
    note = f"# {manifest.name}@{manifest.version}: pseudo-labels. Let val be images with human labels.\n"
    (folder / "data.yaml").write_text(note + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    for item in items:
        write_image(folder / "images", item)
        width, height = item.label["width"], item.label["height"]
        rows = []
        codes = item.codes or [""] * len(item.source)
        for (x, y, w, h), category, score, ignore, code in zip(
            item.xywh.tolist(), item.category, item.score, item.ignore, codes, strict=True
        ):
            counts["left_out" if ignore else "kept"] += 1
            if not ignore:
                shares = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
                if code:
                    shares = tuple((_outline(code, width, height) / (width, height)).ravel().tolist())
                rows.append((" ".join([str(category), *(f"{share:.8f}" for share in shares)]), score))
        name = item.file.with_suffix(".txt")
        with new(folder / "labels" / name) as file:
            file.write("".join(f"{row}\n" for row, _ in rows).encode())
        with new(folder / "predictions" / name) as file:
            file.write("".join(f"{row} {score:.6f}\n" for row, score in rows).encode())


def _outline(code: str, width: int, height: int) -> np.ndarray:
    """The corners of a mask's polygon, pixels, int64 (V, 2)."""
    from teachers.masks import bounds, decode

    codes = [code.encode()]
    (x1, y1, x2, y2), (mask,) = bounds(codes, height, width)[0].astype(int), decode(codes, height, width)
    corners: np.ndarray = polygon(mask[y1:y2, x1:x2]) + np.array([x1, y1])
    return corners
