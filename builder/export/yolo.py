"""A version as a YOLO data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import yaml

from builder.export.items import Item, new, write_image
from builder.export.polygons import polygon


def write_yolo(folder: Path, part: str, items: Iterable[Item], counts: Counter[str], scored: bool = True) -> None:
    """The images and labels of a part of the data set, which lie in its folders below `images`, `labels` and, where the
    objects have scores, `predictions`; "" for a set of one part."""
    for item in items:
        write_image(folder / "images" / part, item)
        width, height = item.size
        rows = []
        codes = item.codes or [""] * len(item.source)
        columns = (item.xywh.tolist(), item.category, item.score, codes)
        for (x, y, w, h), category, score, code in zip(*columns, strict=True):
            counts["kept" if scored else "human_objects"] += 1
            shares: tuple[float, ...] = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
            if code:
                shares = tuple((_outline(code, width, height) / (width, height)).ravel().tolist())
            rows.append((" ".join([str(category), *(f"{share:.8f}" for share in shares)]), score))
        name = item.file.with_suffix(".txt")
        with new(folder / "labels" / part / name) as file:
            file.write("".join(f"{row}\n" for row, _ in rows).encode())
        if scored:
            with new(folder / "predictions" / part / name) as file:
                file.write("".join(f"{row} {score:.6f}\n" for row, score in rows).encode())


def write_data_yaml(
    folder: Path, classes: Sequence[str], parts: Mapping[str, str | list[str]], notes: Sequence[str]
) -> None:
    """parts: train and val -> folders of images, relative to it; none where no images are there. notes: sentences, each
    a comment."""
    content = {**parts, "nc": len(classes), "names": list(classes)}
    comments = "".join(f"# {note}\n" for note in notes)
    text = comments + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, "utf-8")


def below_images(name: PurePosixPath) -> PurePosixPath:
    """A name without the folders above and with its last `images`, which YOLO's readers replace by `labels`."""
    parts = name.parts
    last = max((n for n, part in enumerate(parts[:-1]) if part == "images"), default=-1)
    return PurePosixPath(*parts[last + 1 :])


def _outline(code: str, width: int, height: int) -> np.ndarray:
    """The corners of a mask's polygon, pixels, int64 (V, 2)."""
    from teachers.masks import bounds, decode

    codes = [code.encode()]
    (x1, y1, x2, y2), (mask,) = bounds(codes, height, width)[0].astype(int), decode(codes, height, width)
    corners: np.ndarray = polygon(mask[y1:y2, x1:x2]) + np.array([x1, y1])
    return corners
