"""Label JSON: what is written is read, and nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from builder.errors import BuildError
from builder.scan.tars import MAX_HEADER
from builder.store.labels import LONGEST_LABEL, checked_table, parse_label, read_label
from builder.store.shards import Member, Sample, read_samples
from builder.store.version import Version
from tests.helpers.corrected import SAYS, built

WHERE = Path("data/train-000000.tar")
IMAGE = {"key": "a-0", "name": "a.jpg", "sha256": "0" * 64, "width": 64, "height": 48, "reencoded": "none"}
OBJECTS = {"bbox": [[1, 2, 3, 4.5]], "category": [1], "score": [0.5], "ignore": [False], "area": [13.5]}
BOXES = IMAGE | {"objects": OBJECTS | {"source": ["human"]}}
MASKS = IMAGE | {"objects": OBJECTS | {"segmentation": ["a13]100000_h2"]}}
MAPS = IMAGE | {"pixels": {"category": [-1, 1], "kept": [3, 0], "ignored": [0, 0], "dropped": [0, 9]}}
CLASSES = IMAGE | {"label": 1, "score": 0.9, "source": "teacher", "copy": 0, "probabilities": [0.1, 0.9]}
LIKELIEST = IMAGE | {"label": 1, "score": 0.9, "top_label": [1], "top_probability": [0.9]}
VALID = [("detection", BOXES), ("instance", MASKS), ("semantic", MAPS), ("classification", CLASSES)]
VALID += [("classification", LIKELIEST)]


def parse(kind: str, label: object, key: str = "a-0") -> dict[str, Any]:
    data = label if isinstance(label, bytes) else orjson.dumps(label)
    return parse_label(data, WHERE, key, SimpleNamespace(kind=kind, classes=["cat", "dog"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", SAYS)
def test_what_is_written_is_read(kind: str, tmp_path: Path) -> None:
    version = Version.open(built(tmp_path, kind).folder)
    for record in version.manifest.shards:
        path = version.shard(record)
        for sample in read_samples(path):
            label = read_label(sample, version.manifest)
            assert orjson.dumps(label, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
                orjson.loads(sample.members["json"].read()), option=orjson.OPT_SORT_KEYS
            )


def test_a_name_may_be_as_long_as_tars_have_them() -> None:
    name = "d/" * (MAX_HEADER // 2 - 3) + "x.jpg"
    assert parse("detection", BOXES | {"name": name})["name"] == name


@pytest.mark.parametrize(("kind", "label"), VALID)
def test_every_nonsense_at_every_key_is_refused(kind: str, label: dict[str, Any]) -> None:
    """500 labels, each with one value in another's place, or without one."""
    assert parse(kind, label)
    nonsense = [None, True, -2, 2**31, 1e300, "", "x", [], [None], {}, {"a": []}, [[1]], "no such thing"]
    tried = 0
    parts = [(label, ())] + [(label[name], (name,)) for name in ("objects", "pixels") if name in label]
    for part, place in parts:
        for key, good in part.items():
            values = [*nonsense, *([[value] for value in nonsense] if isinstance(good, list) else ())]
            for value in values:
                if (key, str(value)) in (("ignore", "[True]"), ("segmentation", "['']"), ("area", "[2147483648]")):
                    continue  # is one
                if key == "name" and isinstance(value, str):
                    continue
                changed = part | {key: value}
                with pytest.raises(BuildError, match=r"the label JSON of image a-0 is damaged \(") as told:
                    parse(kind, label | {place[0]: changed} if place else changed)
                assert "\n" not in str(told.value) and len(str(told.value)) < 400
                tried += 1
            if key in ("source", "copy", "calibrated"):
                continue  # older versions lack it
            less = {name: value for name, value in part.items() if name != key}
            with pytest.raises(BuildError):
                parse(kind, label | {place[0]: less} if place else less)
        with pytest.raises(BuildError, match="extra"):
            parse(kind, label | {place[0]: part | {"more": 1}} if place else part | {"more": 1})
    assert tried > 90


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (orjson.dumps(BOXES).replace(b"0.5]", b"NaN]"), "objects.score.0"),
        (orjson.dumps(BOXES).replace(b"4.5]", b"1e400]"), "objects.bbox.0.3"),
        (orjson.dumps(BOXES).replace(b"64,", b"9" * 6000 + b","), "out of range"),
        (orjson.dumps(BOXES).replace(b'"a.jpg"', b"[" * 9999), "recursion"),
        (orjson.dumps(BOXES)[:-9], "EOF"),
        (b"", "EOF"),
        (b"null", "it: "),
        (b"\xff", "it: "),
        (orjson.dumps(BOXES | {"objects": BOXES["objects"] | {"category": [2]}}), "2 is no position in 2 classes"),
        (orjson.dumps(MASKS | {"width": 63}), "a mask is not of the image's size"),
    ],
)
def test_what_is_no_json_or_no_number(data: bytes, words: str) -> None:
    with pytest.raises(BuildError) as told:
        parse("instance" if b"segmentation" in data else "detection", data)
    assert words in str(told.value) and str(WHERE) in str(told.value) and "\n" not in str(told.value)


def test_the_label_of_another_sample_none_and_one_too_long() -> None:
    with pytest.raises(BuildError, match="it is that of 'a-0'"):
        parse("detection", BOXES, "b-0")
    for members, words in (
        ({}, "has no label JSON"),
        ({"json": Member(WHERE, "a-0.json", 0, LONGEST_LABEL + 1)}, "more than"),
    ):
        with pytest.raises(BuildError, match=words):
            read_label(Sample("a-0", members), SimpleNamespace(kind="detection", classes=["cat"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", SAYS)
def test_a_table_that_no_version_can_have(kind: str, tmp_path: Path) -> None:
    """Each column gone, of another type, and of values that it cannot hold."""
    version = built(tmp_path, kind)
    version = Version(version.folder, version.manifest)  # unhashed: whoever made such a table made its hash, too
    path, table = checked_table(version), pq.read_table(version.labels)
    nonsense: dict[str, list[Any]] = {"key": ["a b", ""], "label": [-2, 30_000, None], "score": [1.5, -1.0, math.nan]}
    nonsense |= {"x1": [math.inf, 1e30, None], "outcome": ["lost", None], "reason": ["\x1b[2J", "x" * 99]}
    cases = [table.drop_columns([name]) for name in nonsense] + [table.append_column("key", table["key"])]
    for name, values in nonsense.items():
        place, field = table.schema.get_field_index(name), table.schema.field(name)
        cases.append(table.set_column(place, name, pa.nulls(len(table), pa.list_(pa.int8()))))
        cases += [table.set_column(place, field, pa.array([value] * len(table), field.type)) for value in values]
    for case in cases:
        pq.write_table(case, path)
        with pytest.raises(
            BuildError, match=r"labels\.parquet is damaged \(its column|damaged \(it has no column"
        ) as told:
            checked_table(version)
        assert "\n" not in str(told.value)
    path.write_bytes(b"PAR1")
    with pytest.raises(BuildError, match="cannot be read"):
        checked_table(version)
