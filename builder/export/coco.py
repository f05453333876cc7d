"""A version as COCO JSON."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import orjson

from builder.export.items import Item, write_image
from builder.store.manifest import Manifest


def write_coco(folder: Path, manifest: Manifest, items: Iterable[Item], counts: Counter[str]) -> None:
    """Annotations wait in a file of their own until the images are through."""
    licences = manifest.provenance.licences.stored()
    info = {"description": f"{manifest.name}@{manifest.version}", "version": manifest.id, "licences": licences}
    categories = [{"id": number, "name": name} for number, name in enumerate(manifest.classes, 1)]
    rest = folder / "annotations.part"
    with ExitStack() as files:
        head = files.enter_context(open(folder / "annotations.json", "wb"))
        tail = files.enter_context(open(rest, "w+b"))
        head.write(b'{"info":%b,"categories":%b,"images":[' % (orjson.dumps(info), orjson.dumps(categories)))
        number = 0
        for image_id, item in enumerate(items, 1):
            write_image(folder / "images", item)
            record = {"id": image_id, "file_name": str(item.file), **item.label}
            head.write((b"\n" if image_id == 1 else b",\n") + orjson.dumps(record))
            codes = item.codes or [""] * len(item.source)
            size = [item.label["height"], item.label["width"]]
            for box, category, score, ignore, source, code in zip(
                item.xywh.tolist(), item.category, item.score, item.ignore, item.source, codes, strict=True
            ):
                if category < 0:
                    counts["left_out"] += 1  # of a class that the class map ignores: a region of no category
                    continue
                flag = int(ignore)
                note = {"id": number + 1, "image_id": image_id, "category_id": category + 1, "bbox": box}
                area = box[2] * box[3]
                if code:
                    note["segmentation"] = {"size": size, "counts": code}
                    area = _mask_area(code, size)
                note |= {"area": area, "score": score, "iscrowd": flag, "ignore": flag, "source": source}
                tail.write((b",\n" if number else b"\n") + orjson.dumps(note))
                number += 1
                counts["ignored" if ignore else "kept"] += 1
        head.write(b'],\n"annotations":[')
        tail.seek(0)
        shutil.copyfileobj(tail, head)
        head.write(b"]}\n")
    rest.unlink()


def _mask_area(code: str, size: Sequence[int]) -> float:
    from teachers.masks import area

    return float(area([code.encode()], *size)[0])
