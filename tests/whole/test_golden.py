"""Golden versions of every kind: whatever is moved or rewritten, the same inputs make the same bytes.

Small pools, labels and stored predictions are made here of nothing but `random.random` and SHA-256, and go through the
command line alone, so that this file survives any move of modules. `golden.json` holds what came of them:

- `bytes`: the id and the shards of each version, a promise to those who have such versions;
- `derived`: every other file (labels.parquet, card, report, manifest, …), which may change on purpose;
- `calibrated`: the first calibrated scores, so that another solver can be shown to move their last bit only.

`TUTELAGE_WRITE_GOLDEN=1 python -m pytest tests/whole` (one process) writes it anew.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import yaml
from click.testing import CliRunner

from builder.cli import main

GOLDEN = Path(__file__).with_name("golden.json")
WRITE = os.environ.get("TUTELAGE_WRITE_GOLDEN") == "1"
WORKERS = os.environ.get("TUTELAGE_GOLDEN_WORKERS", "2")
LIBRARIES = ("matplotlib", "numpy", "pillow", "pyarrow", "scipy")
"""Whose versions are told where files differ: they write them, or round their numbers."""

KINDS = ("detection", "instance", "semantic", "classification")
CLASSES = ("cat", "dog", "bird", "car")
COMMON = ("cat", "cat", "cat", "cat", "cat", "dog", "dog", "bird", "bird", "car")
WIDTH, HEIGHT, CELL = 64, 48, 8
VOID = 255

POOL = [f"image_{n:02d}.png" for n in range(24)]
TWIN, LEAK, COPY, BROKEN = "twin.png", "leak.png", "x_copy.png", "y_broken.png"
"""Of the pool as well: nearly another image, an image of the labels, the same file again, no image at all."""
LATE = [f"late_{n}.png" for n in range(6)]
GONE = POOL[7]
TRUTH = [f"truth_{n:03d}.png" for n in range(240)]
LABELLED = [*POOL, TWIN, LEAK, *LATE, *TRUTH]
"""What the teacher has looked at."""


# Inputs


def png(rows: Sequence[bytes], channels: int) -> bytes:
    """An 8-bit PNG, grey or RGB, whose bytes depend on no codec: it is stored, not compressed."""
    raw = b"".join(b"\0" + row for row in rows)
    data = b"\x78\x01"
    for start in range(0, len(raw), 65535):
        part = raw[start : start + 65535]
        last = start + 65535 >= len(raw)
        data += struct.pack("<BHH", last, len(part), len(part) ^ 0xFFFF) + part
    data += struct.pack(">I", zlib.adler32(raw))
    head = struct.pack(">IIBBBBB", len(rows[0]) // channels, len(rows), 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", head), (b"IDAT", data), (b"IEND", b"")):
        found += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return found


def in_cells(value: Callable[[int], bytes]) -> list[bytes]:
    """Rows of a picture of the size of all, with `value` of its number in each cell."""
    across = WIDTH // CELL
    lines = [b"".join(value(y * across + x) * CELL for x in range(across)) for y in range(HEIGHT // CELL)]
    return [line for line in lines for _ in range(CELL)]


def picture(name: str, brighter: int = 0) -> bytes:
    rng = Random(f"picture {name}")
    colours = [bytes(int(rng.random() * 250) + brighter for _ in range(3)) for _ in range(WIDTH * HEIGHT // CELL**2)]
    return png(in_cells(colours.__getitem__), 3)


def pick(rng: Random, among: Sequence[Any]) -> Any:
    return among[int(rng.random() * len(among))]


def high(rng: Random) -> float:
    """A score: most are high. Its square is how often it is right."""
    return round(max(rng.random(), rng.random()), 6)


def write_images(folder: Path) -> None:
    pool, truth = folder / "pool", folder / "truth" / "images"
    pool.mkdir()
    truth.mkdir(parents=True)
    for name in POOL:
        (pool / name).write_bytes(picture(name))
    (pool / TWIN).write_bytes(picture(POOL[4], brighter=5))
    (pool / LEAK).write_bytes(picture(TRUTH[9]))
    (pool / COPY).write_bytes(picture(POOL[3]))
    (pool / BROKEN).write_bytes(picture(BROKEN)[:70])
    for name in TRUTH:
        (truth / name).write_bytes(picture(name))


def write_objects(folder: Path, masks: bool) -> None:
    """COCO results and labels, boxes or outlines, on a grid; some of the teacher's objects are there twice."""
    results: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []

    def marked(image: int, category: int, x: int, y: int, w: int, h: int) -> dict[str, Any]:
        outline = [x, y, x + w, y, x + w, y + h // 2, x + w // 2, y + h, x, y + h]
        shape = {"segmentation": [outline]} if masks else {}
        return {"image_id": image, "category_id": category, "bbox": [x, y, w, h]} | shape

    for image, name in enumerate(LABELLED, 1):
        rng = Random(f"objects {name}")
        cells = sorted(range(12), key=lambda _: rng.random())
        for cell in cells[: int(rng.random() * 7)]:
            x, y = 1 + 16 * (cell % 4), 1 + 16 * (cell // 4)
            w, h = 5 + int(rng.random() * 9), 5 + int(rng.random() * 9)
            category, score = 10 + 3 * CLASSES.index(pick(rng, COMMON)), high(rng)
            results.append(marked(image, category, x, y, w, h) | {"score": score})
            if rng.random() < 0.25:
                results.append(marked(image, category, x + 1, y, w, h) | {"score": round(score * 0.9, 6)})
            if rng.random() < score * score:
                said = {"id": len(notes) + 1, "area": w * h, "iscrowd": 0, "ignore": int(rng.random() < 0.05)}
                notes.append(marked(image, category, x, y + 1, w, h) | said)
    images = [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(LABELLED, 1)]
    categories = [{"id": 10 + 3 * n, "name": name} for n, name in enumerate(CLASSES)]
    listing = {"images": images, "categories": categories, "annotations": []}
    held_out = {image["id"]: image for image in images if image["file_name"] in TRUTH}
    labels = [note for note in notes if note["image_id"] in held_out]
    truth = listing | {"images": list(held_out.values()), "annotations": labels}
    for path, content in (("results.json", results), ("listing.json", listing), ("truth.json", truth)):
        (folder / path).write_text(json.dumps(content))


def write_maps(folder: Path) -> None:
    """Pairs of PNGs, and masks for the labelled images."""
    folders = {part: folder / part for part in ("maps/labels", "maps/confidence", "truth/masks")}
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    for part in ("maps", "truth"):
        (folder / part / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    for name in LABELLED:
        rng = Random(f"map {name}")
        said, sure, right = bytearray(), bytearray(), bytearray()
        for _ in range(WIDTH * HEIGHT // CELL**2):
            label, score = CLASSES.index(pick(rng, COMMON)), int(high(rng) * 17) / 17
            said.append(label if rng.random() < 0.95 else VOID)
            sure.append(round(score * 255))
            other = (label + 1 + int(rng.random() * 3)) % 4
            right.append(VOID if rng.random() < 0.05 else label if rng.random() < score * score else other)
        planes = {"maps/labels": said, "maps/confidence": sure} | ({"truth/masks": right} if name in TRUTH else {})
        for part, plane in planes.items():
            (folders[part] / name).write_bytes(png(in_cells(lambda n: plane[n : n + 1]), 1))  # noqa: B023


def write_classes(folder: Path) -> None:
    """A table of probabilities, and one of labels."""
    said: list[list[str]] = [["name", *CLASSES]]
    right = [["file", "class"]]
    for name in LABELLED:
        rng = Random(f"class {name}")
        label, score = CLASSES.index(pick(rng, COMMON)), 0.4 + 0.6 * high(rng)
        rest = [share * (1 - score) for share in (0.5, 0.3, 0.2)]
        said.append([name, *(f"{p:.6f}" for p in [*rest[:label], score, *rest[label:]])])
        if name in TRUTH:
            right.append([name, CLASSES[label if rng.random() < score * score else (label + 1) % 4]])
    for path, rows in (("probabilities.csv", said), ("truth.csv", right)):
        with open(folder / path, "w", newline="") as file:
            csv.writer(file).writerows(rows)


# Recipes

Section = Mapping[str, Any]
IMAGES = {"images": "truth/images"}
COCO = {"spec": "replay:results.json", "images": "listing.json"}, {"source": "truth.json", **IMAGES}
SOURCES: dict[str, tuple[Section, Section]] = {
    "detection": COCO,
    "instance": COCO,
    "semantic": ({"spec": "replay:maps"}, {"source": "truth", "format": "masks"}),
    "classification": ({"spec": "replay:probabilities.csv"}, {"source": "truth.csv", **IMAGES}),
}
"""Kind -> teacher and truth."""
BY_CLASS = {"score": {"cat": 0.6, "*": 0.45}, "ignore": {"cat": 0.5, "*": 0.3}}
ON_BOXES = {"nms": 0.5, "max_per_image": 4, "min_size": 6}
RULES: dict[str, Section] = {
    "detection": {**BY_CLASS, **ON_BOXES, "where": "area >= 60", "refused": "drop"},
    "instance": {**BY_CLASS, **ON_BOXES, "where": "mask_area >= 50", "refused": "drop"},
    "semantic": {**BY_CLASS, "where": "pixels > 64", "refused": "drop"},
    "classification": {**BY_CLASS, "where": "class != 'cat' or score > 0.8"},
}
MAPPED = {"map": {"cat": "pet", "dog": "pet"}, "ignore": ["bird"], "others": "drop"}
CERTIFIED = {
    "calibration": "isotonic",
    "precision": {"target": 0.55, "delta": 0.2, "on_low_support": "fallback", "fallback": 0.6},
}
DENSE = {"calibration": "temperature", "density": {"share": 0.5}}
OTHERS: dict[str, Section] = {
    "detection": {"top_box": 0.7, "max_per_image": 2},
    "instance": {"mixture": {}, "min_size": 7},
    "semantic": {"mixture": {}},
    "classification": {"balance": {"images": 6, "min": 0.5}},
}


@dataclass
class World:
    """What has been built of a kind. bytes, derived, calibrated: as in golden.json; manifests: by version."""

    folder: Path
    kind: str
    bytes: dict[str, Any] = field(default_factory=dict)
    derived: dict[str, Any] = field(default_factory=dict)
    calibrated: dict[str, list[float]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, *arguments: object) -> Any:
        given = [*map(str, arguments), "--store", str(self.folder / "store"), "--json"]
        result = CliRunner().invoke(main, given)
        assert result.exit_code == 0, f"{' '.join(given)}\n{result.output}"
        return json.loads(result.stdout)

    def build(self, name: str, keep: Section, *, truth: bool = False, **sections: Any) -> None:
        teacher, labels = SOURCES[self.kind]
        recipe = {
            "name": "golden",
            "pool": {"source": "pool", "chunk": 5, "license": "CC0-1.0"},
            "teacher": teacher,
            "keep": dict(keep),
            "shards": {"max_images": 10},
            "max_failure_rate": 0.1,
        }
        sections |= {"truth": labels} if truth else {}
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(recipe | sections))))
        self.note(name, self.run("build", self.folder / "recipe.yaml", "--workers", WORKERS)["path"])

    def note(self, name: str, path: str) -> None:
        files = {one.relative_to(path).as_posix(): one for one in sorted(Path(path).rglob("*")) if one.is_file()}
        hashes = {at: hashlib.sha256(one.read_bytes()).hexdigest() for at, one in files.items()}
        manifest = json.loads(files["manifest.json"].read_bytes())
        self.manifests[name] = manifest
        self.bytes[name] = {"id": manifest["id"]} | {at: one for at, one in hashes.items() if at.endswith(".tar")}
        self.derived[name] = {at: one for at, one in hashes.items() if not at.endswith(".tar")}
        if manifest["provenance"]["calibration"]:
            scores = (score for _, said in self.labels(name) for score in calibrated_of(said))
            if self.kind == "semantic":  # a map's label JSON has pixels alone
                scores = iter(pq.read_table(files["labels.parquet"], columns=["calibrated"])["calibrated"].to_pylist())
            self.calibrated[name] = list(islice(scores, 36))

    def ref(self, name: str) -> str:
        return f"golden@{self.manifests[name]['version']}"

    def labels(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Key and label JSON of each sample."""
        for path in sorted((self.folder / "store/datasets/golden" / self.manifests[name]["version"]).rglob("*.tar")):
            with tarfile.open(path) as shard:
                for member in shard:
                    if member.name.endswith(".json") and (file := shard.extractfile(member)):
                        yield member.name.removesuffix(".json"), json.load(file)

    def review(self, name: str, of: str) -> None:
        """A version with what a person said in Label Studio of a queue of another one."""
        out = self.folder / "queue.json"
        self.run(
            "review", "queue", self.ref(of), "--budget", 9, "--to", "labelstudio", "--out", out, "--url-prefix", "x"
        )
        tasks = json.loads(out.read_bytes())
        for number, task in enumerate(tasks, 1):
            regions = edit(task.pop("predictions")[0]["result"], number)
            task["annotations"] = [{"id": number, "was_cancelled": False, "completed_by": 1, "result": regions}]
        out.write_text(json.dumps(tasks))
        pulled = self.run("review", "pull", self.ref(of), "--from", out, "--author", "ann", "--workers", WORKERS)
        self.note(name, pulled["path"])


def calibrated_of(said: Mapping[str, Any]) -> list[float]:
    """Of a label JSON."""
    return said["objects"]["calibrated"] if "objects" in said else [said["calibrated"]]


def edit(regions: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """What a person makes of the regions of the task of this number: one of five changes of the first one."""
    if not regions:
        return regions
    first, rest = regions[0], regions[1:]
    classes = "choices" if first["type"] == "choices" else "rectanglelabels"
    other = CLASSES[(CLASSES.index(first["value"][classes][0]) + 1) % 4]
    match ("relabel", "reject", "move", "accept", "add")[number % (2 if classes == "choices" else 5)]:
        case "reject":
            return rest
        case "relabel":
            return [first | {"value": first["value"] | {classes: [other]}}, *rest]
        case "move":
            return [first | {"value": first["value"] | {"x": first["value"]["x"] + 3.125}}, *rest]
        case "accept":
            verdict = {"id": first["id"], "type": "choices", "from_name": "verdict", "to_name": "image"}
            return [*regions, verdict | {"value": {"choices": ["accept"]}}]
        case _:
            box = {"x": 75, "y": 50, "width": 12.5, "height": 25, "rotation": 0, "rectanglelabels": [other]}
            return [*regions, {name: first[name] for name in first if name != "meta"} | {"id": "new", "value": box}]


def make(folder: Path, kind: str) -> World:
    """All versions of a kind, one after another in one store."""
    world = World(folder, kind)
    write_images(folder)
    match kind:
        case "semantic":
            write_maps(folder)
        case "classification":
            write_classes(folder)
        case _:
            write_objects(folder, masks=kind == "instance")
    first = {"score": 0.5, "ignore": 0.3}
    world.build("first", first)
    world.build("rules", RULES[kind], images={"near_duplicates": 4, "drop_empty": True})
    world.build("classes", {"score": 0.55, "ignore": 0.3, "classes": MAPPED})
    world.build("isotonic", CERTIFIED, truth=True)
    world.build("temperature", DENSE, truth=True)
    world.build("others", OTHERS[kind])
    (folder / "pool" / GONE).unlink()
    for name in LATE:
        (folder / "pool" / name).write_bytes(picture(name))
    world.build("grown", first, parent=world.ref("first"))
    world.build("grown-isotonic", CERTIFIED, truth=True, parent=world.ref("isotonic"))
    if kind != "semantic":  # maps cannot be reviewed
        world.review("reviewed", of="grown")
        world.build("reviewed-rules", RULES[kind], parent=world.ref("reviewed"), resolve=True)
    return world
