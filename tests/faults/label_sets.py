"""Small valid labels, replays and review files, one set of every format that is read, and what is read of each."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml
from PIL import Image

from builder.review import cvat, label_studio
from builder.review.exchange import tasks
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from builder.truth.read import read_truth
from tests.faults.commands import Ran
from tests.helpers.pools import write_images, write_recipe, write_results
from tests.helpers.replayed import detection, region, sample, task

SIZE = (80, 60)
COUNT = 4
CLASSES = ("cat", "dog")
CORRECTIONS = "store/reviews/pets/overrides.json"


@dataclass(frozen=True)
class LabelSet:
    """A folder of valid files. files: those that are damaged; args: of the command that reads them, `{}` for the
    folder's name; seen: what a command that ended well has read, to be compared."""

    name: str
    files: Sequence[str]
    args: Sequence[str]
    seen: Callable[[Path, Ran], Any]


def write_sets(folder: Path) -> list[LabelSet]:
    """Write the valid sets into folders of their names below `folder`, with what they share in each."""
    shared = folder / "shared"
    names = write_images(shared / "pool", COUNT, size=SIZE)
    write_results(shared, names, size=SIZE)
    _write_other_replays(shared)
    sets = [
        *_truths(folder, names),
        *_replays(folder, names, scan_pool(str(shared / "pool"), Store(shared / "store")).id),
        *_reviews(folder),
    ]
    for each in sets:
        left = ["store"] if (folder / each.name / "store").exists() else []
        shutil.copytree(shared, folder / each.name, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*left))
    return sets


def _write_other_replays(shared: Path) -> None:
    """Replays of classes and of maps, that human labels of these kinds are measured with."""
    lines = ["name,cat,dog", *(f"image_{n:05d}.jpg,0.{9 - n},0.{n}" for n in range(COUNT))]
    (shared / "classes.csv").write_text("\n".join(lines) + "\n")
    lines[1:] = [f"{CLASSES[n % 2]}/{line}" for n, line in enumerate(lines[1:])]
    (shared / "named.csv").write_text("\n".join(lines) + "\n")
    _write_maps(shared / "maps")


def _write_maps(folder: Path, parts: Sequence[str] = ("labels", "confidence")) -> None:
    for part in parts:
        (folder / part).mkdir(parents=True)
        for n in range(COUNT):
            values = np.full(SIZE[::-1], 200 if part == "confidence" else n % 2, np.uint8)
            Image.fromarray(values).save(folder / part / f"image_{n:05d}.png")
    (folder / "classes.txt").write_text("cat\ndog\n")


def _truth(folder: Path, name: str, files: Sequence[str], source: str, replay: str = "", images: str = "") -> LabelSet:
    (folder / name).mkdir(exist_ok=True)
    teacher = replay or "results.json"
    args = ["evaluate", f"replay:{teacher}", "--truth", source, "--json"]
    args += [] if replay else ["--set", "images=listing.json"]
    args += ["--images", images] if images else []

    def seen(place: Path, ran: Ran) -> Any:
        truth = read_truth(place / source, place / images if images else None)
        columns = ("boxes", "labels", "crowd", "difficult", "area")
        return [truth.classes] + [
            (each.name, each.width, each.height, each.label, *(getattr(each, name).tolist() for name in columns))
            for each in truth.images
        ]

    return LabelSet(name, files, args, seen)


def _truths(folder: Path, names: Sequence[str]) -> list[LabelSet]:
    sets = [
        _truth(folder, "coco", ["truth.json"], "truth.json", images="pool"),
        _truth(folder, "yolo", ["data.yaml", "labels/image_00001.txt"], "data.yaml#val", images="images"),
        _truth(
            folder, "darknet", ["obj.data", "obj.names", "val.txt", "pool/image_00001.txt"], "obj.data", images="pool"
        ),
        _truth(folder, "yolo-list", ["set/classes.txt", "set/labels/image_00001.txt"], "set", images="pool"),
        _truth(folder, "voc", ["set/Annotations/image_00001.xml"], "set", images="pool"),
        _truth(
            folder,
            "masks",
            ["truth/masks/image_00001.png", "truth/classes.txt", "truth/val.txt"],
            "truth/val.txt",
            "maps",
        ),
        _truth(folder, "table", ["truth.csv"], "truth.csv", "classes.csv", images="pool"),
        _truth(folder, "folders", ["named/dog/image_00001.jpg"], "named", "named.csv"),
    ]
    images = [{"id": n + 1, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for n, name in enumerate(names)]
    notes = [
        {"id": n, "image_id": n % COUNT + 1, "category_id": 3, "bbox": [10 + n, 8, 20, 30 - n], "area": 600.0}
        | {"iscrowd": 0, "segmentation": [[10, 8, 30, 8, 30, 38]]}
        for n in range(8)
    ]
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    _json(folder / "coco" / "truth.json", {"images": images, "annotations": notes, "categories": categories})
    rows = "0 0.5 0.5 0.25 0.5\n1 0.25 0.25 0.2 0.3\n"
    _text(
        folder / "yolo" / "data.yaml", yaml.safe_dump({"path": ".", "val": "images", "names": dict(enumerate(CLASSES))})
    )
    write_images(folder / "yolo" / "images", COUNT, size=SIZE)
    write_images(folder / "darknet" / "pool", COUNT, size=SIZE)
    for n in range(COUNT):
        _text(folder / "yolo" / "labels" / f"image_{n:05d}.txt", rows)
        _text(folder / "darknet" / "pool" / f"image_{n:05d}.txt", rows)
        _text(folder / "yolo-list" / "set" / "labels" / f"image_{n:05d}.txt", rows)
        box = f"<bndbox><xmin>{10 + n}</xmin><ymin>8</ymin><xmax>40</xmax><ymax>30</ymax></bndbox>"
        item = f"<object><name>cat</name><difficult>0</difficult>{box}</object>"
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        xml = f"<annotation><filename>{names[n]}</filename>{size}{item}</annotation>"
        _text(folder / "voc" / "set" / "Annotations" / f"image_{n:05d}.xml", xml)
    _text(folder / "yolo-list" / "set" / "classes.txt", "cat\ndog\n")
    _text(folder / "darknet" / "obj.data", "classes = 2\nnames = obj.names\nvalid = val.txt\n")
    _text(folder / "darknet" / "obj.names", "cat\ndog\n")
    _text(folder / "darknet" / "val.txt", "".join(f"pool/{name}\n" for name in names))
    _write_maps(folder / "masks" / "truth", ("masks",))
    write_images(folder / "masks" / "truth" / "images", COUNT, size=SIZE)
    _text(folder / "masks" / "truth" / "val.txt", "".join(f"image_{n:05d}\n" for n in range(COUNT)))
    _text(
        folder / "table" / "truth.csv",
        "file,class\n" + "".join(f"{name},{CLASSES[n % 2]}\n" for n, name in enumerate(names)),
    )
    for n in range(COUNT):
        write_images(folder / "folders" / "named" / CLASSES[n % 2], 1, start=n, size=SIZE)
    return sets


def _stored(place: Path, ran: Ran) -> Any:
    """Rows of the predictions that `label` stored, of each image, without those that failed with a reason."""
    read = []
    for chunk in sorted((place / "store" / "predictions").glob("*/*/images.parquet")):
        images = {row["sha256"]: row for row in pq.read_table(chunk).to_pylist()}
        objects = chunk.with_name("objects.parquet")
        rows = pq.read_table(objects).to_pylist() if objects.exists() else []
        maps = chunk.with_name("maps.tar")
        for sha256, row in images.items():
            of_it = sorted(str(each) for each in rows if each["sha256"] == sha256)
            read.append((sha256, row["status"], row.get("probabilities"), of_it))
        read.append(maps.read_bytes() if maps.exists() else b"")
    return read


def _replay(folder: Path, pool: str, name: str, files: Sequence[str], results: str, *options: str) -> LabelSet:
    (folder / name).mkdir(exist_ok=True)
    args = ["label", pool, "--teacher", f"replay:{results}", "--max-failure-rate", "0", *options, "--json"]
    return LabelSet(name, files, args, _stored)


def _replays(folder: Path, names: Sequence[str], pool: str) -> list[LabelSet]:
    sets = [
        _replay(
            folder,
            pool,
            "coco-results",
            ["results.json", "listing.json"],
            "results.json",
            "--set",
            "images=listing.json",
        ),
        _replay(folder, pool, "coco-masks", ["masked.json"], "masked.json", "--set", "images=listing.json"),
        _replay(folder, pool, "tasks", ["export.json"], "export.json"),
        _replay(folder, pool, "fiftyone", ["export/samples.json"], "export"),
        _replay(
            folder,
            pool,
            "yolo-conf",
            ["predicted/image_00001.txt", "predicted/data.yaml", "list.txt"],
            "predicted",
            "--set",
            "images=list.txt",
        ),
        _replay(folder, pool, "csv", ["classes.csv"], "classes.csv"),
        _replay(
            folder,
            pool,
            "maps",
            ["maps/labels/image_00001.png", "maps/confidence/image_00001.png", "maps/classes.txt"],
            "maps",
        ),
    ]
    results, listing = write_results(folder / "coco-results", list(names), size=SIZE)
    shutil.copy(listing, folder / "coco-masks" / "listing.json")
    outline = {"size": [SIZE[1], SIZE[0]], "counts": [100, 20, SIZE[0] * SIZE[1] - 120]}
    masked = [
        {k: v for k, v in record.items() if k != "bbox"} | {"segmentation": outline}
        for record in json.loads(results.read_text())
    ]
    _json(folder / "coco-masks" / "masked.json", masked[:6])
    _json(
        folder / "tasks" / "export.json", [task(name, region(original_width=80, original_height=60)) for name in names]
    )
    facts = {"metadata": {"width": SIZE[0], "height": SIZE[1]}}
    (folder / "fiftyone" / "export").mkdir()
    _json(
        folder / "fiftyone" / "export" / "samples.json",
        {"samples": [sample(name, detection(), **facts) for name in names]},
    )
    for n in range(COUNT):
        _text(folder / "yolo-conf" / "predicted" / f"image_{n:05d}.txt", f"0 0.5 0.5 0.25 0.5 0.{n + 3}\n")
    _text(folder / "yolo-conf" / "predicted" / "data.yaml", "names: [cat, dog]\n")
    _text(folder / "yolo-conf" / "list.txt", "".join(f"{name}\n" for name in names))
    return sets


def _reviews(folder: Path) -> list[LabelSet]:
    """Files that come back from tools, for a version of the shared pool; and the corrections that a store holds."""
    made = folder / "made"
    names = write_images(made / "pool", COUNT, size=SIZE)
    write_results(made, names, size=SIZE)
    write_recipe(made, keep={"score": 0.3})
    from click.testing import CliRunner

    from builder.cli.main import main

    done = CliRunner().invoke(main, ["build", str(made / "recipe.yaml"), "--store", str(made / "store")])
    assert done.exit_code == 0, done.output
    version = Store(made / "store").version("pets")
    queued = list(tasks(version, list(_keys(version)), ("kept",)))
    written = io.BytesIO()
    label_studio.writer(version.manifest, str)(written, queued)
    exported = json.loads(written.getvalue())
    for number, each in enumerate(exported, 1):
        result = each["predictions"][0]["result"]
        if result and number % 2:
            result[0]["value"] = result[0]["value"] | {"rectanglelabels": ["cat"]}
        each |= {"id": number, "annotations": [{"id": number, "was_cancelled": False, "result": result}]}
        each["annotations"][0] |= {"updated_at": "2026-01-02T03:04:05.678901Z", "completed_by": {"email": "a@b.c"}}
    written = io.BytesIO()
    cvat.writer(version.manifest, len(queued))(written, queued)
    xml = (
        written.getvalue()
        .decode()
        .replace("  </image>", '    <tag label="reviewed" source="manual"></tag>\n  </image>')
    )
    xml = xml.replace('<box label="bird"', '<box label="cat"', 1)
    files = {"labelstudio": "export.json", "cvat": "annotations.xml", "cvat-zip": "export.zip", "overrides": ""}
    for name in files:
        shutil.copytree(made, folder / name)
    _json(folder / "labelstudio" / "export.json", exported)
    _text(folder / "cvat" / "annotations.xml", xml)
    with zipfile.ZipFile(folder / "cvat-zip" / "export.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations.xml", xml)
    there = ("--from", str(folder / "labelstudio" / "export.json"), "--store", str(folder / "overrides" / "store"))
    pulled = CliRunner().invoke(main, ["review", "pull", "pets", *there])
    assert pulled.exit_code == 0, pulled.output
    kept = folder / "overrides" / CORRECTIONS
    kept.write_text(json.dumps({k: v for k, v in json.loads(kept.read_text()).items() if k != "digest"}))

    def seen(place: Path, ran: Ran) -> Any:
        there = place / CORRECTIONS
        return json.loads(there.read_text())["overrides"] if there.exists() else None

    def built(place: Path, ran: Ran) -> Any:
        return json.loads(ran.stdout)["id"] if ran.stdout.startswith("{") else None

    pull = ["review", "pull", "pets", "--no-build", "--author", "ann", "--json", "--from"]
    return [
        *(LabelSet(name, [file], [*pull, file], seen) for name, file in files.items() if file),
        LabelSet("overrides", [CORRECTIONS], ["build", "recipe.yaml", "--json"], built),
    ]


def _keys(version: Any) -> list[str]:
    from builder.versions.media import images_of

    return [image.key for image in images_of(version)]


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _json(path: Path, content: Any) -> None:
    _text(path, json.dumps(content))
