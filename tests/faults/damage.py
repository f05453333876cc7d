"""Complete versions that were damaged, and every command that reads one: none may use what is damaged, or another
thing than what its manifest names, without a word."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from builder.store.shards import END, read_samples
from tests.faults.commands import Ran
from tests.faults.commands import run as run_command
from tests.faults.verdict import Verdict, judge
from tests.faults.workplace import NETWORK, SCHEDULE, SECONDS, TRAIN, Workplace, contents, differences, evenly
from tests.helpers.hub_server import WRITER, HubServer
from tests.helpers.pools import CLASSES
from tests.helpers.sealing import seal

ROW = "kinds of damage to a version x commands that read one"
SMALL = 0.01
REF = "pets@v2"
FIRST, SECOND = "data/train-000000.tar", "data/train-000001.tar"


@dataclass(frozen=True)
class Damage:
    """do: damages the version in a folder; its parent lies beside it. before: the commands that are tried, all if none
    is named: a version that was sealed anew is another one, which is honest of those that only name it."""

    name: str
    do: Callable[[Path], object]
    before: tuple[str, ...] = ()


def _swap(folder: Path) -> None:
    one, other = (folder / name for name in (FIRST, SECOND))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def _cut_at_member(folder: Path) -> None:
    samples = list(read_samples(folder / FIRST))
    last = samples[len(samples) // 2]
    start = min(member.offset for member in last.members.values()) - 512
    (folder / FIRST).write_bytes((folder / FIRST).read_bytes()[:start] + END)


def _same_size(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert len(old) == len(new) and old in data, (path, old)
    path.write_bytes(data.replace(old, new, 1))


def _edit_label(folder: Path) -> None:
    _same_size(folder / FIRST, b'"reencoded":"none"', b'"reencoded":"nine"')


def _nonsense(folder: Path) -> None:
    _edit_label(folder)
    seal(folder)


def _scores(folder: Path) -> None:
    table = pq.read_table(folder / "labels.parquet")
    column = pa.array([score / 2 for score in table["score"].to_pylist()], table.schema.field("score").type)
    place = table.schema.get_field_index("score")
    pq.write_table(table.set_column(place, table.schema.field("score"), column), folder / "labels.parquet")


def _in_place_of(make: Callable[[Path], object], name: str = FIRST) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return do


def _append(name: str, data: bytes = b" ") -> Callable[[Path], None]:
    return lambda folder: _write(folder / name, (folder / name).read_bytes() + data)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _manifest(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        manifest = orjson.loads((folder / "manifest.json").read_bytes())
        edit(manifest)
        (folder / "manifest.json").write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))

    return do


def _of_parent(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copyfile(folder.with_name("v1") / name, folder / name)


DAMAGES = (
    Damage("shards swapped", _swap),
    Damage("cut at a member with an end mark", _cut_at_member),
    Damage("cut", lambda folder: os.truncate(folder / FIRST, 2000)),
    Damage("shard of another version", _of_parent(FIRST)),
    Damage("label JSON edited", _edit_label),
    Damage("label JSON edited, hashes redone", _nonsense, ("verify", "repair", "train", "evaluate", "export coco")),
    Damage("shard too many", lambda folder: shutil.copyfile(folder / FIRST, folder / "data" / "train-000099.tar")),
    Damage("shard missing", lambda folder: (folder / SECOND).unlink()),
    Damage("labels missing", lambda folder: (folder / "labels.parquet").unlink()),
    Damage("labels edited", _scores),
    Damage("labels of another version", _of_parent("labels.parquet")),
    Damage("overrides edited", _append("overrides.json")),
    Damage("card edited", _append("README.md")),
    Damage("report edited", _append("report/index.html")),
    Damage("path outside", _manifest(lambda m: m["files"].update({"../../../../images.json": "0" * 64}))),
    Damage("another id", _manifest(lambda m: m.update(id="0" * 64))),
    Damage("counts", _manifest(lambda m: m["objects"].update(predicted=m["objects"]["predicted"] + 1))),
    Damage("thresholds", _manifest(lambda m: m["provenance"].update(thresholds=[]))),
    Damage("link in place of a shard", _in_place_of(lambda path: path.symlink_to("/etc/passwd"))),
    Damage("folder in place of a shard", _in_place_of(Path.mkdir)),
    Damage("pipe in place of the labels", _in_place_of(os.mkfifo, "labels.parquet")),
    Damage("shard empty", lambda folder: os.truncate(folder / FIRST, 0)),
)
EVALUATE = ("evaluate", "run", "--truth", REF)
COMMANDS: dict[str, tuple[str, ...]] = {
    "show": ("show", REF, "--json"),
    "log": ("log", "pets", "--json"),
    "diff": ("diff", "pets@v1", REF, "--json"),
    "explain": ("explain", REF, "image_00001.jpg", "--json"),
    "verify": ("verify", REF, "--json"),
    "repair": ("verify", REF, "--repair", "--json"),
    "report": ("report", REF),
    "export coco": ("export", REF, "out", "--format", "coco"),
    "export yolo": ("export", REF, "out", "--format", "yolo"),
    "train": ("train", "joint.yaml", "--out", "joint"),
    "evaluate": (*EVALUATE, "--json"),
    "queue": ("review", "queue", REF, "--budget", "4", "--json"),
    "recut": ("recut", REF, "--set", "keep.score=0.7"),
    "child": ("build", "child.yaml"),
    "publish": ("publish", REF, "org/pets", "--json", "--allow-private"),
}
CHANGED = ("repair",)
"""Of the commands, those that are to mend the damage."""


class _Place:
    """A workplace with a version that people corrected, its parent, a trained run, and a Hub; as it was before each
    command."""

    def __init__(self, folder: Path, hub: Path, url: str) -> None:
        self.folder, self._kept, self._hub = folder / "work", folder / "kept", hub
        self._env = {"HF_ENDPOINT": url, "HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(folder / "home")}
        place = Workplace(folder)
        place.enter("answered")
        self._must("review", "pull", "pets@v1", "--from", "answers.json", "--author", "ann")
        self._must(*TRAIN)
        recipe = yaml.safe_load((self.folder / "recipe.yaml").read_text())
        (self.folder / "child.yaml").write_text(yaml.safe_dump(recipe | {"name": "pets", "parent": REF}))
        truth = orjson.loads((self.folder / "truth.json").read_bytes())
        truth["categories"] = [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)]
        (self.folder / "all.json").write_bytes(orjson.dumps(truth))
        joint = {"labelled": {"path": "all.json", "images": "truth"}, "network": NETWORK, **SCHEDULE}
        (self.folder / "joint.yaml").write_text(yaml.safe_dump(joint | {"pseudo": [REF]}))
        shutil.copytree(self.folder, self._kept, symlinks=True)
        self.before = contents(self._kept)

    @property
    def version(self) -> Path:
        return self.folder / "store" / "datasets" / "pets" / "v2"

    def _must(self, *args: str) -> None:
        ran = self.run(args)
        if ran.code:
            raise RuntimeError(f"{args}: {ran.stderr}")

    def run(self, args: tuple[str, ...]) -> Ran:
        return run_command(*args, cwd=self.folder, seconds=SECONDS, env=self._env)

    def fresh(self) -> None:
        """All as it was, with a Hub that holds nothing."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder, symlinks=True)
        shutil.rmtree(self._hub)
        for name in ("repos", "blobs", "lfs"):
            (self._hub / name).mkdir(parents=True)

    def outcome(self, ran: Ran) -> tuple[str, dict[str, bytes]]:
        """What a command said, and the files that it made or changed."""
        after = contents(self.folder)
        return ran.stdout, {name: after[name] for name in differences(self.before, after) if name in after}


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Each command on each damaged version: refused, or the outcome is that of a version without damage."""
    (hub := folder / "hub").mkdir()
    with HubServer.running(hub) as server:
        place = _Place(folder, hub, server.url)
        expected: dict[str, tuple[str, dict[str, bytes]]] = {}
        pairs = [(damage, name) for damage in DAMAGES for name in damage.before or COMMANDS]
        for damage, name in evenly(pairs, share):
            if name not in expected:
                place.fresh()
                ran = place.run(COMMANDS[name])
                if ran.code:
                    raise RuntimeError(f"{name} without damage: {ran.stderr}")
                expected[name] = place.outcome(ran)
            place.fresh()
            damage.do(place.version)
            damaged = contents(place.folder)
            ran = place.run(COMMANDS[name])
            verdict = judge(ran, lambda: _is_right(place, name, ran, expected[name], damaged))  # noqa: B023
            yield f"{damage.name}: {name}", verdict, "" if verdict.good else f"{ran.stdout[-150:]} {ran.stderr[-300:]}"


def _is_right(
    place: _Place, name: str, ran: Ran, expected: tuple[str, dict[str, bytes]], damaged: dict[str, bytes]
) -> bool:
    """Whether a command that ended well made what it makes of a version without damage, and said the same; of a
    repair, whether the version is as it was."""
    after = contents(place.folder)
    if name in CHANGED:
        return all(after.get(file) == data for file, data in place.before.items())
    if name == "verify":
        return False
    told = ran.stderr + (ran.stdout if name == "log" else "")  # which goes on with the other versions
    if any(word in told for word in ("is damaged", "was edited", '"state": "damaged"')):
        return True
    made = {file: after[file] for file in differences(damaged, after) if file in after}
    said, made_before = expected
    return (_without_bytes(ran.stdout), made) == (_without_bytes(said), made_before)


def _without_bytes(said: str) -> str:
    """What `log` said, without the bytes that a version has on the disk, which are what they are now."""
    return re.sub(r'"bytes": ?\d+', "", said)
