"""What a person sees of a version: the dataset card, and pictures with its boxes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import yaml
from PIL import Image, ImageDraw, ImageFont

from builder import BuildError
from builder.manifest import Manifest
from builder.shards import read_bytes, read_samples

COLOURS = {"kept": "#1a9850", "ignored": "#f0a30a", "dropped": "#d73027"}
CELL, MARGIN, CAPTION = 320, 8, 18


def features(manifest: Manifest) -> list[dict[str, Any]]:
    """`dataset_info.features` of the card, so that `datasets` infers nothing from the first samples.

    It would: empty lists in the first five break it, keys and floats it first sees later are lost.
    """
    names = {str(n): name for n, name in enumerate(manifest.classes)}
    objects = [
        {"name": "bbox", "list": {"list": "float32"}},
        {"name": "category", "list": {"class_label": {"names": names}}},
        {"name": "score", "list": "float32"},
        {"name": "ignore", "list": "bool"},
        {"name": "area", "list": "float32"},
    ]
    scalars = [("key", "string"), ("name", "string"), ("sha256", "string"), ("width", "int32"), ("height", "int32")]
    fields = [{"name": n, "dtype": d} for n, d in (*scalars, ("reencoded", "string"))]
    label = {"name": "json", "struct": [*fields, {"name": "objects", "struct": objects}]}
    ends = [{"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]
    return [{"name": manifest.features[0], "dtype": "image"}, label, *ends]


def card(manifest: Manifest) -> str:
    """The dataset card: YAML that `datasets.load_dataset` obeys, and what a reader should know before using it."""
    size = sum(shard.bytes for shard in manifest.shards)
    split = {"name": "train", "num_examples": manifest.samples, "num_bytes": size}
    head = {
        "pretty_name": f"{manifest.name} {manifest.version}",
        "task_categories": ["object-detection"],
        "annotations_creators": ["machine-generated"],
        "tags": ["pseudo-labels", "webdataset", "tutelage"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.tar"}]}],
        "dataset_info": {
            "features": features(manifest),
            "splits": [split],
            "download_size": size,
            "dataset_size": size,
        },
    }
    teacher = manifest.provenance["teacher"]
    keep = manifest.provenance["inputs"]["keep"]
    rules = "\n".join(f"- `{name}`: {value}" for name, value in keep.items() if value is not None)
    classes = "\n".join(
        f"| {_cell_text(c)} | {n['predicted']} | {n['kept']} | {n['ignored']} |" for c, n in manifest.per_class.items()
    )
    reasons = "\n".join(f"| {reason} | {n} |" for reason, n in manifest.objects.items() if n)
    images = "\n".join(f"| {state} | {n} |" for state, n in manifest.images.items() if n)
    image = manifest.features[0]
    predictions = manifest.provenance["inputs"]["predictions"][:12]
    body = f"""
# {manifest.name} {manifest.version}

{manifest.samples} images with pseudo-labels: boxes that a teacher model drew, not a person.
{manifest.kept} boxes are kept, {manifest.ignored} are ignore regions (likely objects, too uncertain to teach).
**Their precision is unknown**: the thresholds were set by hand, not solved on held-out human labels.

- version id: `{manifest.id}`
- teacher: `{teacher["spec"]}` (fingerprint `{predictions}`, licence: {teacher["license"]})

## Rules
{rules}

| class | predicted | kept | ignored |
|---|---|---|---|
{classes}

| why | objects |
|---|---|
{reasons}

| images | count |
|---|---|
{images}

## Use
```python
from datasets import load_dataset
rows = load_dataset("PATH_OR_ORG/NAME", split="train")  # rows[0]["{image}"], rows[0]["json"]["objects"]

import webdataset
samples = webdataset.WebDataset("data/train-000000.tar", shardshuffle=False).decode("pil")
```
`objects.bbox` is COCO `[x, y, width, height]` in pixels of the upright image, `category` a position in the class list,
`ignore: true` a region that is neither object nor background. `reencoded` says whether the image bytes are not those
whose SHA-256 is `sha256` (turned upright, or brought to one format).
"""
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n{body}"


def _cell_text(text: str) -> str:
    """A name as it may stand in a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


def contact_sheet(version: Path, manifest: Manifest, path: Path, *, images: int = 12, columns: int = 4) -> None:
    """A PNG of evenly spread images of a version with their kept (green), ignored (amber) and dropped (red) boxes.

    Dropped boxes are drawn thin, the 6 best-scored of an image. Raises BuildError if the version has no images.
    """
    total = manifest.samples
    wanted = {n * total // min(images, total) for n in range(min(images, total))}
    cells: list[tuple[Image.Image, dict[str, Any]]] = []
    position = 0
    for shard in manifest.shards:
        tar = version / "data" / shard.name
        for sample in read_samples(tar):
            if position in wanted:
                picture = Image.open(io.BytesIO(read_bytes(tar, sample.members[manifest.features[0]]))).convert("RGB")
                cells.append((picture, orjson.loads(read_bytes(tar, sample.members["json"]))))
            position += 1
    if not cells:
        raise BuildError(f"{manifest.name}@{manifest.version} has no images to draw")
    keys = [label["key"] for _, label in cells]
    rows = pq.read_table(version / "labels.parquet", filters=[("key", "in", keys)]).to_pylist()
    drawn = [_cell(picture, label, [r for r in rows if r["key"] == label["key"]], manifest) for picture, label in cells]
    depth = [MARGIN] * min(columns, len(drawn))
    places = []
    for cell in drawn:  # each into the column that is shortest so far
        column = depth.index(min(depth))
        places.append((MARGIN + column * (CELL + MARGIN), depth[column]))
        depth[column] += cell.height + MARGIN
    sheet = Image.new("RGB", (len(depth) * (CELL + MARGIN) + MARGIN, max(depth) + 28), "white")
    for cell, place in zip(drawn, places, strict=True):
        sheet.paste(cell, place)
    _legend(sheet, manifest)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


def _cell(picture: Image.Image, label: dict[str, Any], rows: list[dict[str, Any]], manifest: Manifest) -> Image.Image:
    """One image, CELL pixels wide, with its boxes (kept on top) and a caption."""
    scale = min(CELL / picture.width, 3 * CELL / picture.height)
    sides = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    shown = picture.resize(sides, Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (CELL, shown.height + CAPTION), "white")
    cell.paste(shown, (0, 0))
    draw = ImageDraw.Draw(cell)
    font = ImageFont.load_default(11)
    dropped = sorted((r for r in rows if r["outcome"] == "dropped"), key=lambda r: -r["score"])[:6]
    for outcome, layer in (("dropped", dropped), ("ignored", rows), ("kept", rows)):
        for row in (r for r in layer if r["outcome"] == outcome):
            box = [row[side] * scale for side in ("x1", "y1", "x2", "y2")]
            limits = (shown.width - 2, shown.height - 2, shown.width - 1, shown.height - 1)
            box = [max(0, min(side, limit)) for side, limit in zip(box, limits, strict=True)]
            draw.rectangle(box, outline=COLOURS[outcome], width=1 if outcome == "dropped" else 2)
            if outcome != "dropped":
                text = f"{manifest.classes[row['label']]} {row['score']:.2f}"
                place = (box[0] + 2, max(0.0, box[1] - 13))
                draw.rectangle(draw.textbbox(place, text, font=font), fill=COLOURS[outcome])
                draw.text(place, text, fill="white", font=font)
    counts = {outcome: sum(r["outcome"] == outcome for r in rows) for outcome in COLOURS}
    caption = f"{label['name'][-24:]}   " + " · ".join(f"{n} {outcome}" for outcome, n in counts.items())
    draw.text((2, shown.height + 2), caption, fill="black", font=font)
    return cell


def _legend(sheet: Image.Image, manifest: Manifest) -> None:
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    x, y = MARGIN, sheet.height - 22
    for outcome, colour in COLOURS.items():
        draw.rectangle([x, y + 2, x + 14, y + 14], outline=colour, width=3)
        draw.text((x + 20, y), outcome, fill="black", font=font)
        x += 100
    draw.text((x, y), f"{manifest.name}@{manifest.version}", fill="black", font=font)
