"""Places and persons in what is written: versions, exports and runs made below a folder that is called after somebody,
by a user of a name of their own, are searched byte by byte."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from builder.store.shards import read_samples
from builder.store.version import Version
from tests.faults.commands import run
from tests.faults.verdict import Verdict
from tests.helpers.coloured import write_labelled
from tests.helpers.corrected import SAYS, built
from tests.helpers.pools import write_world
from tests.helpers.training import NETWORK

ROW = "places and persons in what is written"
SMALL = 0.3
USER, HOME = "zquillfeather", "quillfeather-home"
"""Words that nothing else has."""
FORMATS = {
    "detection": ("coco", "yolo", "voc"),
    "instance": ("coco", "yolo"),
    "semantic": ("masks",),
    "classification": ("classes",),
}


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Every kind of version with its exports, a version with a truth by absolute paths, and two runs."""
    home = folder / HOME
    words = [USER.encode(), HOME.encode(), str(folder).encode()]
    host = socket.gethostname()
    words += [host.encode()] if len(host) > 3 else []
    jobs = [(f"version of {kind}", kind) for kind in SAYS] + [("version with truth", ""), ("runs", "run")]
    for name, kind in jobs[: max(1, round(share * len(jobs)))]:
        place = home / name.replace(" ", "-")
        made = _runs(place) if kind == "run" else _version(place, kind) if kind else _with_truth(place)
        for title, path in made:
            for file in sorted(each for each in path.rglob("*") if each.is_file()):
                told = sorted({word.decode() for word in words for data in _contents(file) if word in data})
                said = f"{title} says {told}" if told else ""
                yield f"{name}: {title} {file.relative_to(path)}", Verdict.SILENT if told else Verdict.HARMLESS, said


def _environment(place: Path) -> dict[str, str]:
    home = next(folder for folder in place.parents if folder.name == HOME)
    return {"HOME": str(home), "USER": USER, "LOGNAME": USER, "USERNAME": USER}


def _tutelage(place: Path, *args: str) -> None:
    ran = run(*args, cwd=place, env=_environment(place))
    assert ran.code == 0, f"{args}: {ran.stderr}"


def _version(place: Path, kind: str) -> Iterator[tuple[str, Path]]:
    """Built over a pool, and told of it, by absolute paths."""
    version = Version.open(built(place, kind).folder)
    yield from _shown(place, kind, version.folder)


def _with_truth(place: Path) -> Iterator[tuple[str, Path]]:
    path = write_world(place, pool=6, truth=40)
    recipe = yaml.safe_load(path.read_text())
    recipe["pool"] = str(place / "pool")
    recipe["truth"] = {"source": str(place / "truth.json"), "images": str(place / "truth")}
    recipe["teacher"] = {"spec": f"replay:{place / 'results.json'}", "images": str(place / "listing.json")}
    recipe |= {"keep": {"score": 0.5}, "images": {"near_duplicates": 16}}
    path.write_text(yaml.safe_dump(recipe))
    (place / "pool/broken.jpg").write_bytes(b"\xff\xd8\xff no image")  # is a row with its reason
    _tutelage(place, "build", str(path), "--store", str(place / "store"), "--set", "max_failure_rate=1")
    yield from _shown(place, "detection", place / "store/datasets/pets/v1")


def _shown(place: Path, kind: str, version: Path) -> Iterator[tuple[str, Path]]:
    store = ("--store", str(place / "store"))
    _tutelage(place, "report", str(version), *store)
    yield "version", version
    for format in FORMATS[kind]:
        out = place / f"export-{format}"
        _tutelage(place, "export", "pets", str(out), "--format", format, *store)
        yield f"export to {format}", out


def _runs(place: Path) -> Iterator[tuple[str, Path]]:
    labelled = write_labelled(place / "labelled", "instance")
    network = NETWORK | {"arch": "fcos", "size": 32, "levels": [4, 8]}
    recipe = {"labelled": str(labelled), "network": network, "steps": 2, "batch": 4, "workers": 0, "save_every": 1}
    (place / "student.yaml").write_text(yaml.safe_dump(recipe))
    _tutelage(place, "train", str(place / "student.yaml"), "--out", str(place / "run"))
    yield "run", place / "run"
    evaluation = ("--truth", str(labelled), "--out", str(place / "evaluation"))
    _tutelage(place, "evaluate", str(place / "run"), *evaluation)
    yield "evaluation", place / "evaluation"


def _contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what is packed in it: the columns of a Parquet, the members of a tar."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        out = io.BytesIO()
        with pa.ipc.new_stream(out, (table := pq.read_table(path)).schema) as writer:
            writer.write_table(table)
        yield out.getvalue()
    if path.suffix == ".tar":
        yield from (member.read() for sample in read_samples(path) for member in sample.members.values())
