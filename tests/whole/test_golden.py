"""Golden versions of every kind: whatever is moved or rewritten, the same inputs make the same bytes.

Small pools, labels and stored predictions are made here of `random.random` alone, and go through the command line, so
that this file survives any move of modules. `golden.json` holds what came of them: `bytes`, the id and shards of each
version, and the digests of what shards are made of, by which a child takes them over: a promise to those who have such
versions; `derived`, its other files (labels.parquet, card, report, …), which may change on purpose; `calibrated`, some
calibrated scores, of which another solver may move the last bit.

`TUTELAGE_WRITE_GOLDEN=1 OMP_NUM_THREADS=1 python -m pytest tests/whole` (one process) writes it anew. Nothing may
depend on `TUTELAGE_GOLDEN_WORKERS`, the threads that build.
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
from functools import partial
from importlib.metadata import version as installed
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from builder.cli.main import main

FILE = Path(__file__).with_name("golden.json")
GROUPS = ("bytes", "derived", "calibrated")
GOLDEN: dict[str, Any] = json.loads(FILE.read_bytes()) if FILE.exists() else {group: {} for group in GROUPS}
WRITE = os.environ.get("TUTELAGE_WRITE_GOLDEN") == "1"
WORKERS = os.environ.get("TUTELAGE_GOLDEN_WORKERS", "2")
HERE = {name: installed(name) for name in ("duckdb", "matplotlib", "numpy", "pillow", "pyarrow", "scipy")}

CLASSES, OFTEN = ("cat", "dog", "bird", "car"), (0, 0, 0, 0, 0, 1, 1, 2, 2, 3)
WIDTH, HEIGHT, CELL, VOID = 64, 48, 8, 255
CELLS = WIDTH * HEIGHT // CELL**2

POOL = [f"image_{n:02d}.png" for n in range(24)]
TWIN, LEAK, COPY, BROKEN = "twin.png", "leak.png", "x_copy.png", "y_broken.png"
"""Of the pool as well: nearly another image, an image of the labels, the same file again, no image at all."""
LATE, GONE = [f"late_{n}.png" for n in range(6)], POOL[7]
TRUTH = [f"truth_{n:03d}.png" for n in range(240)]
LABELLED = [*POOL, TWIN, LEAK, *LATE, *TRUTH]
"""What the teacher has looked at."""


# Inputs


def png(rows: Sequence[bytes], channels: int) -> bytes:
    """An 8-bit PNG, grey or RGB, in one stored block: its bytes depend on no codec."""
    raw = b"".join(b"\0" + row for row in rows)
    stored = b"\x78\x01" + struct.pack("<BHH", 1, len(raw), len(raw) ^ 0xFFFF) + raw
    head = struct.pack(">IIBBBBB", len(rows[0]) // channels, len(rows), 8, channels - 1, 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", head), (b"IDAT", stored + struct.pack(">I", zlib.adler32(raw))), (b"IEND", b"")):
        found += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return found


def in_cells(values: Sequence[bytes]) -> list[bytes]:
    """Rows of a picture with these values, one for each cell."""
    across = WIDTH // CELL
    starts = [n for n in range(0, CELLS, across) for _ in range(CELL)]
    return [b"".join(value * CELL for value in values[n : n + across]) for n in starts]


def picture(name: str, brighter: int = 0) -> bytes:
    rng = Random(f"picture {name}")
    return png(in_cells([bytes(int(rng.random() * 250) + brighter for _ in "rgb") for _ in range(CELLS)]), 3)


def pick(rng: Random) -> int:
    """A class; some are rare."""
    return OFTEN[int(rng.random() * len(OFTEN))]


def high(rng: Random) -> float:
    """A score: most are high. Its square is how often it is right."""
    return round(max(rng.random(), rng.random()), 6)


def write_images(folder: Path) -> None:
    pool, truth = folder / "pool", folder / "truth" / "images"
    pool.mkdir()
    truth.mkdir(parents=True)
    files = {name: picture(name) for name in POOL} | {TWIN: picture(POOL[4], brighter=5), LEAK: picture(TRUTH[9])}
    for name, data in (files | {COPY: files[POOL[3]], BROKEN: files[POOL[0]][:70]}).items():
        (pool / name).write_bytes(data)
    for name in TRUTH:
        (truth / name).write_bytes(picture(name))


def write_objects(folder: Path, masks: bool = False) -> None:
    """COCO results and labels, boxes or outlines, on a grid; some of the teacher's objects are there twice."""
    results, notes = list[dict[str, Any]](), list[dict[str, Any]]()

    def marked(image: int, category: int, x: int, y: int, w: int, h: int) -> dict[str, Any]:
        outline = {"segmentation": [[x, y, x + w, y, x + w, y + h // 2, x + w // 2, y + h, x, y + h]]}
        return {"image_id": image, "category_id": category, "bbox": [x, y, w, h]} | (outline if masks else {})

    for image, name in enumerate(LABELLED, 1):
        rng = Random(f"objects {name}")
        order = [rng.random() for _ in range(12)]
        for cell in sorted(range(12), key=order.__getitem__)[: int(rng.random() * 7)]:
            x, y = 1 + 16 * (cell % 4), 1 + 16 * (cell // 4)
            w, h = 5 + int(rng.random() * 9), 5 + int(rng.random() * 9)
            category, score = 10 + 3 * pick(rng), high(rng)
            results.append(marked(image, category, x, y, w, h) | {"score": score})
            if rng.random() < 0.25:
                results.append(marked(image, category, x + 1, y, w, h) | {"score": round(score * 0.9, 6)})
            if rng.random() < score * score:
                said = {"id": len(notes) + 1, "area": w * h, "iscrowd": 0, "ignore": int(rng.random() < 0.05)}
                notes.append(marked(image, category, x, y + 1, w, h) | said)
    images = [{"id": n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(LABELLED, 1)]
    listing = {"images": images, "categories": [{"id": 10 + 3 * n, "name": name} for n, name in enumerate(CLASSES)]}
    first = LABELLED.index(TRUTH[0])
    truth = listing | {"images": images[first:], "annotations": [one for one in notes if one["image_id"] > first]}
    for path, content in (("results", results), ("listing", listing | {"annotations": []}), ("truth", truth)):
        (folder / f"{path}.json").write_text(json.dumps(content))


def write_maps(folder: Path) -> None:
    """Pairs of PNGs, and masks for the labelled images."""
    parts = [folder / part for part in ("maps/labels", "maps/confidence", "truth/masks")]
    for part in parts:
        part.mkdir(parents=True, exist_ok=True)
        (part.parent / "classes.txt").write_text("\n".join(CLASSES))
    for name in LABELLED:
        rng, cells = Random(f"map {name}"), []
        for _ in range(CELLS):
            label, score = pick(rng), int(high(rng) * 17) / 17
            right = label if rng.random() < score * score else (label + 1 + int(rng.random() * 3)) % 4
            said, told = (VOID if rng.random() < 0.05 else one for one in (label, right))
            cells.append((said, round(score * 255), told))
        for part, plane in list(zip(parts, zip(*cells, strict=True), strict=True))[: 2 + (name in TRUTH)]:
            (part / name).write_bytes(png(in_cells([bytes([value]) for value in plane]), 1))


def write_classes(folder: Path) -> None:
    """A table of probabilities, and one of labels."""
    said, right = [["name", *CLASSES]], [["file", "class"]]
    for name in LABELLED:
        rng = Random(f"class {name}")
        label, score = pick(rng), round(50 * (0.3 + 0.7 * high(rng))) / 50
        rest = [share * (1 - score) for share in (0.4, 0.35, 0.25)]
        said.append([name, *(f"{p:.6f}" for p in [*rest[:label], score, *rest[label:]])])
        if name in TRUTH:
            right.append([name, CLASSES[label if rng.random() < score * score else (label + 1) % 4]])
    for path, rows in (("probabilities.csv", said), ("truth.csv", right)):
        with open(folder / path, "w", newline="") as file:
            csv.writer(file).writerows(rows)


# Versions

Section = Mapping[str, Any]
FIRST = {"score": 0.6, "ignore": 0.5}
RULES = {"score": {"cat": 0.6, "*": 0.5}, "ignore": {"cat": 0.5, "*": 0.3}, "refused": "drop"}
ON_BOXES = RULES | {"nms": 0.5, "max_per_image": 4, "min_size": 6}
MAPPED = {"score": 0.55, "classes": {"map": {"cat": "pet", "dog": "pet"}, "ignore": ["bird"], "others": "drop"}}
SURE = {"target": 0.55, "delta": 0.2, "on_low_support": "fallback", "fallback": 0.6}
ISOTONIC = {"calibration": "isotonic", "precision": SURE}
TEMPERATURE = {"calibration": "temperature", "density": {"share": 0.5}}

COCO = {"spec": "replay:results.json", "images": "listing.json"}, {"source": "truth.json", "images": "truth/images"}
MAPS = {"spec": "replay:maps"}, {"source": "truth", "format": "masks"}
TABLES = {"spec": "replay:probabilities.csv"}, {"source": "truth.csv", "images": "truth/images"}
OF_BOXES = ON_BOXES | {"where": "area >= 60"}, {"top_box": 0.7, "max_per_image": 2}
OF_MASKS = ON_BOXES | {"where": "mask_area >= 50"}, {"mixture": {}, "min_size": 7}
OF_MAPS: tuple[Section, Section] = RULES | {"where": "pixels > 64"}, {"mixture": {}}
OF_CLASSES = RULES | {"where": "class = 'cat' or score > 0.8"}, {"balance": {"images": 3, "min": 0.8}}
KINDS: dict[str, tuple[Callable[[Path], None], Section, Section, Section, Section]] = {
    "detection": (write_objects, *COCO, *OF_BOXES),
    "instance": (partial(write_objects, masks=True), *COCO, *OF_MASKS),
    "semantic": (write_maps, *MAPS, *OF_MAPS),
    "classification": (write_classes, *TABLES, *OF_CLASSES),
}
"""Kind -> what writes its inputs, the recipe's teacher and truth, and two `keep` of its own."""


class World:
    """The versions of a kind, built one after another in one store. found: by group as in golden.json, then by name;
    manifests: by name."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind
        self.found: dict[str, dict[str, Any]] = {group: {} for group in GROUPS}
        self.manifests: dict[str, dict[str, Any]] = {}
        write, self.teacher, truth, rules, others = KINDS[kind]
        write_images(folder)
        write(folder)
        self.build("first", FIRST)
        self.build("rules", rules, "--no-report", images={"near_duplicates": 4, "drop_empty": True})
        self.build("classes", MAPPED, "--no-report")
        self.build("isotonic", ISOTONIC, truth=truth)
        self.build("temperature", TEMPERATURE, "--no-report", truth=truth)
        self.build("others", others, "--no-report")
        (folder / "pool" / GONE).unlink()
        for name in LATE:
            (folder / "pool" / name).write_bytes(picture(name))
        self.build("grown", FIRST, parent=self.ref("first"))
        self.build("grown-isotonic", ISOTONIC, "--no-report", truth=truth, parent=self.ref("isotonic"))
        if kind != "semantic":  # maps cannot be reviewed
            self.review("reviewed", self.ref("grown"))
            self.build("reviewed-rules", rules, "--no-report", parent=self.ref("reviewed"), resolve=True)

    def run(self, *arguments: object) -> Any:
        given = [*map(str, arguments), "--store", str(self.folder / "store"), "--json"]
        result = CliRunner().invoke(main, given)
        assert result.exit_code == 0, f"{' '.join(given)}\n{result.output}{result.exception!r}"
        return json.loads(result.stdout)

    def build(self, name: str, keep: Section, *options: str, **sections: Any) -> None:
        path, pool = self.folder / "recipe.yaml", {"source": "pool", "chunk": 5, "license": "CC0-1.0"}
        recipe = {"name": "golden", "pool": pool, "teacher": self.teacher, "keep": keep, "max_failure_rate": 0.1}
        path.write_text(json.dumps(recipe | {"shards": {"max_images": 10}} | sections))  # JSON is YAML
        self.note(name, Path(self.run("build", path, "--workers", WORKERS, *options)["path"]))

    def review(self, name: str, of: str) -> None:
        """A version with what a person made in Label Studio of a queue of another one."""
        out = self.folder / "queue.json"
        self.run("review", "queue", of, "--budget", 9, "--to", "labelstudio", "--out", out, "--url-prefix", "x")
        tasks = json.loads(out.read_bytes())
        for n, task in enumerate(tasks):
            regions = edited(task.pop("predictions")[0]["result"], n)
            task["annotations"] = [{"id": n, "was_cancelled": False, "completed_by": 1, "result": regions}]
        out.write_text(json.dumps(tasks))
        pulled = self.run("review", "pull", of, "--from", out, "--author", "ann", "--workers", WORKERS)
        self.note(name, Path(pulled["path"]))

    def note(self, name: str, folder: Path) -> None:
        files = {one.relative_to(folder).as_posix(): one for one in sorted(folder.rglob("*")) if one.is_file()}
        hashes = {at: hashlib.sha256(one.read_bytes()).hexdigest() for at, one in files.items()}
        self.manifests[name] = manifest = json.loads(files["manifest.json"].read_bytes())
        shards = {at: one for at, one in hashes.items() if at.endswith(".tar")}
        made_of = {f"{shard['name']} is made of": shard["inputs"] for shard in manifest["shards"]}
        self.found["bytes"][name] = {"id": manifest["id"]} | shards | made_of
        self.found["derived"][name] = {at: one for at, one in hashes.items() if at not in shards}
        if manifest["provenance"]["calibration"]:
            scores: Iterator[float] = (one for said in self.labels(name) for one in each(said, "calibrated"))
            if self.kind == "semantic":  # a map's label JSON has pixels alone
                scores = iter(pq.read_table(files["labels.parquet"])["calibrated"].to_pylist())
            self.found["calibrated"][name] = list(islice(scores, 36))

    def ref(self, name: str) -> str:
        return f"golden@{self.manifests[name]['version']}"

    def labels(self, name: str) -> Iterator[dict[str, Any]]:
        """The label JSON of each sample."""
        for path in sorted((self.folder / "store/datasets/golden" / self.manifests[name]["version"]).rglob("*.tar")):
            with tarfile.open(path) as shard:
                members = (shard.extractfile(member) for member in shard if member.name.endswith(".json"))
                yield from (json.load(file) for file in members if file)


def each(said: Mapping[str, Any], what: str) -> list[Any]:
    """Of the objects of a label JSON, or of its one class."""
    return said["objects"][what] if "objects" in said else [said[what]]


def edited(regions: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """What a person makes of the regions of the nth task: one change of the first one; boxes have more of them."""
    first, rest, value = regions[0], regions[1:], regions[0]["value"]
    classes = "choices" if "choices" in value else "rectanglelabels"
    other = {classes: [CLASSES[(CLASSES.index(value[classes][0]) + 1) % 4]]}
    verdict = {"id": first["id"], "type": "choices", "from_name": "verdict", "value": {"choices": ["accept"]}}
    drawn = {"x": 75, "y": 50, "width": 12.5, "height": 25, "rotation": 0}
    changes: list[list[dict[str, Any]]] = [rest, [first | {"value": value | other}, *rest]]
    if classes != "choices":
        changes += [first | {"value": value | {"x": value["x"] + 3.125}}, *rest], [*regions, verdict]
        changes += [[*regions, first | {"id": "new", "meta": {}, "value": drawn | other}]]
    return changes[n % len(changes)]


# Tests

SHOWN = {
    "first": "ignore_band below_threshold duplicate unreadable",
    "rules": "nms cap where_false near_duplicate empty",
    "classes": "class_ignored class_dropped",
    "isotonic": "below_threshold leak",
    "temperature": "ignore_band below_threshold leak",
    "others": "ignore_band",
    "grown": "ignore_band tombstone",
    "grown-isotonic": "below_threshold tombstone leak",
    "reviewed": "accepted relabelled moved added rejected",
    "reviewed-rules": "accepted moved added rejected nms cap where_false",
}
"""Version -> states of images and reasons of objects that must occur in it, beside `kept`."""
ELSE = {"detection": "cap", "instance": "size", "classification": "thinned"}
NEVER = {"semantic": "nms cap empty", "classification": "nms cap accepted moved added"}


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp(request.param), request.param)
    if WRITE:
        GOLDEN["written with"] = HERE
        for group in GROUPS:
            GOLDEN[group][made.kind] = made.found[group]
        FILE.write_text(json.dumps(GOLDEN, indent=1, sort_keys=True) + "\n")
    return made


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*was, *now}):
        before, after = was.get(name, {}), now.get(name, {})
        for file in sorted({*before, *after}):
            if before.get(file) != after.get(file):
                yield f"{name}: {file} {'differs' if file in before and file in after else 'is new or gone'}"


@pytest.mark.parametrize("group", ["bytes", "derived"])
def test_every_file_is_what_it_was(world: World, group: str) -> None:
    found = [*differences(GOLDEN[group][world.kind], world.found[group])]
    assert not found, "\n".join([world.kind, *found, f"written with {GOLDEN['written with']}, here {HERE}"])


def test_calibrated_scores_differ_by_their_last_bit_at_most(world: World) -> None:
    found = world.found["calibrated"]
    assert found.keys() == {"isotonic", "temperature", "grown-isotonic"} == GOLDEN["calibrated"][world.kind].keys()
    for name, was in GOLDEN["calibrated"][world.kind].items():
        assert len(set(was)) > 4 and found[name] == pytest.approx(was, rel=2**-23, abs=0), name


def test_versions_hold_what_they_are_there_to_show(world: World) -> None:
    for name, manifest in world.manifests.items():
        counts = manifest["objects"] | manifest["images"]
        wanted = f"kept {SHOWN[name]} {ELSE.get(world.kind, '') if name == 'others' else ''}".split()
        assert not [one for one in wanted if not counts[one] and one not in NEVER.get(world.kind, "")], (name, counts)
        assert len(manifest["shards"]) == 3 + name.startswith(("grown", "reviewed"))
    first, grown = (world.found["bytes"][name] for name in ("first", "grown"))
    assert all(grown[shard] == first[shard] for shard in first if shard.endswith(".tar")) and grown["id"] != first["id"]
    assert [key.partition("-")[0] for key in world.manifests["grown"]["tombstones"]] == [GONE.removesuffix(".png")]
    assert any(group["certified"] for group in world.manifests["isotonic"]["provenance"]["thresholds"])
    if world.kind == "classification":
        assert any(said["copy"] for said in world.labels("others"))
    elif world.kind != "semantic":
        assert {flag for said in world.labels("first") for flag in each(said, "ignore")} == {True, False}
    if world.kind != "semantic":
        assert {who for said in world.labels("reviewed") for who in each(said, "source")} == {"teacher", "human"}
