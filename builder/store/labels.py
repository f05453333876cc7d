"""The labels of a version, read as strictly as they are written: the JSON of each sample, and labels.parquet.

What a hash covers may still be nonsense, where a version comes from elsewhere: whoever made it computed the hash, too.
So every type, range and length is checked here, of JSON in one pass of pydantic's parser, of the table column by
column, and readers need not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # of Python 3.12 on, which pydantic asks for

from builder.errors import BuildError, brief
from builder.kinds import kind_of
from builder.sections import complaint
from builder.store.manifest import Manifest
from builder.store.shards import KEY, Sample
from builder.store.version import Version
from teachers.base import RANGES

LONGEST_LABEL = 64 << 20
"""Bytes of a label JSON, some 500,000 objects; what claims more is not read."""
LONGEST_NAME = 1 << 20
"""Characters of an image's name: a header of a tar, which may hold nothing else, has as many bytes."""
LARGEST = 2**31 - 1
"""Of a side, a number of pixels, a number of a copy."""

SIDES = ("x1", "y1", "x2", "y2")
LABELS = pa.schema(
    [("key", pa.string()), ("label", pa.int16()), ("score", pa.float32()), ("calibrated", pa.float32())]
    + [(side, pa.float32()) for side in SIDES]
    + [("outcome", pa.string()), ("reason", pa.string()), ("source", pa.string())]
)
"""Columns of labels.parquet, of every kind. After them come a kind's own (builder.kinds) and those of SOMETIMES."""
SOMETIMES = {
    "quality": pa.float32(),
    "agree": pa.int16(),
    "uncertainty": pa.float32(),
    "teacher_label": pa.int16(),
}
"""Columns where there are any: the quality of a mask, how many teachers of an ensemble found the object, how uncertain
its box is, and, with a class map, a position in the teacher's classes. What people added has none of the first three.
"""
BOX_BEFORE = tuple(f"{side}_before" for side in SIDES)
BEFORE = {"label_before": pa.int16(), **dict.fromkeys(BOX_BEFORE, pa.float32()), "reason_before": pa.string()}
"""Columns where people decided on any of these objects: the teacher's label and box of each of those, and what rules
made of it, so that the next corrections can be taken over where the teacher's predictions are not. Null elsewhere."""
RLE_BEFORE, SOFT_BEFORE = "rle_before", "probabilities_before"
"""In the same way the teacher's mask, where people drew a box in its place, and its probabilities of the version's
classes, where people named the class."""

_Side = Annotated[int, Field(ge=1, le=LARGEST)]
_Number = Annotated[int, Field(ge=0, le=LARGEST)]
_Place = Annotated[int, Field(ge=0, lt=2**15)]
_OwnOrNone = Annotated[int, Field(ge=-1, lt=2**15)]
_Score = Annotated[float, Field(ge=0, le=1)]
_Finite = Annotated[float, Field(ge=-1e9, le=1e9)]
_Source = Literal["teacher", "human"]


class _Image(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    key: Annotated[str, Field(max_length=100)]
    name: Annotated[str, Field(max_length=LONGEST_NAME)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    width: _Side
    height: _Side
    reencoded: Literal["none", "format", "upright", "stripped"]


class _Objects(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    bbox: list[tuple[_Finite, _Finite, _Finite, _Finite]]
    category: list[_OwnOrNone]
    score: list[_Score]
    calibrated: NotRequired[list[_Score]]
    ignore: list[bool]
    area: list[Annotated[float, Field(ge=0, le=1e12)]]
    source: NotRequired[list[_Source]]  # not in versions from before there were overrides


class _Masks(_Objects):
    segmentation: list[Annotated[str, Field(pattern="^[0-o]*$")]]  # COCO's run-length code: characters from 0 to o


class _Pixels(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    category: list[_OwnOrNone]
    kept: list[_Number]
    ignored: list[_Number]
    dropped: list[_Number]


class _OfBoxes(_Image):
    objects: _Objects


class _OfMasks(_Image):
    objects: _Masks


class _OfMaps(_Image):
    pixels: _Pixels


class _OfClasses(_Image):
    label: _Place
    score: _Score
    calibrated: NotRequired[_Score]
    source: NotRequired[_Source]
    copy: NotRequired[_Number]
    probabilities: NotRequired[list[_Score]]
    top_label: NotRequired[list[_Place]]
    top_probability: NotRequired[list[_Score]]


_FORMS: dict[str, Any] = {
    "detection": _OfBoxes,
    "instance": _OfMasks,
    "semantic": _OfMaps,
    "classification": _OfClasses,
}


def read_label(sample: Sample, manifest: Manifest) -> dict[str, Any]:
    """The label JSON of a sample of a version. Raises BuildError as `parse_label`, and for a sample without one;
    ShardError if the file ends before it."""
    member = sample.members.get("json")
    if member is None:
        where = next((f"{other.file}: " for other in sample.members.values()), "")
        raise BuildError(f"{where}image {sample.key} has no label JSON: {_NEXT}")
    if member.size > LONGEST_LABEL:
        raise BuildError(
            f"{member.file}: the label JSON of image {sample.key} has {member.size} bytes, more than {LONGEST_LABEL}: "
            f"{_NEXT}"
        )
    return parse_label(member.read(), member.file, sample.key, manifest)


def parse_label(data: bytes, path: Path, key: str, manifest: Manifest) -> dict[str, Any]:
    """The fields of a label JSON, as builder.cut.kinds writes them: all that its kind needs, lists of one length,
    numbers finite, positions among the version's classes.

    Args:
        data: its bytes.
        path: of its shard, for the message.
        key: of its sample, which it must name; "" where that is not known.
        manifest: of its version: its kind and its classes.

    Returns:
        The fields.

    Raises:
        BuildError: it is of another form, or of another sample.
    """
    label = fields_of(data, key, manifest)
    if isinstance(label, str):
        raise BuildError(f"{path}: the label JSON of image {key or '(unnamed)'} is damaged ({label}): {_NEXT}")
    return label


def fields_of(data: bytes, key: str, manifest: Manifest) -> dict[str, Any] | str:
    """The fields of a label JSON, as `parse_label`, or what is wrong with it, in words."""
    try:
        label: dict[str, Any] = _form(kind_of(manifest.kind).name).validate_json(data, strict=True)
    except ValidationError as error:
        return complaint(error)
    return _wrong(label, key, len(manifest.classes)) or label


_NEXT = "run `tutelage verify --repair` on the version, or get it again from where it came"


@cache
def _form(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_FORMS[kind])


def _wrong(label: Mapping[str, Any], key: str, classes: int) -> str:
    """What is wrong with the fields of a label that is of the right form, "" for nothing."""
    if key and label["key"] != key:
        return f"it is that of {label['key']!r}"
    for name in ("objects", "pixels"):
        if name in label:
            lengths = {field: len(column) for field, column in label[name].items()}
            if len(set(lengths.values())) > 1:
                return f"the lists of {name} differ in length"
            if not _are_masks(label):
                return "objects.segmentation: a mask is not of the image's size"
            highest = max(label[name]["category"], default=0)
            return "" if highest < classes else f"{name}.category: {highest} is no position in {classes} classes"
    if "probabilities" not in label and "top_label" not in label:
        return "probabilities: field required"
    if len(label.get("top_label", ())) != len(label.get("top_probability", ())):
        return "top_label and top_probability differ in length"
    if len(label.get("probabilities", label.get("top_label"))) == 0:
        return "probabilities: there are none"
    if "probabilities" in label and len(label["probabilities"]) != classes:
        return f"probabilities: {len(label['probabilities'])} of them for {classes} classes"
    highest = max([label["label"], *label.get("top_label", ())])
    return "" if highest < classes else f"label: {highest} is no position in {classes} classes"


def _are_masks(label: Mapping[str, Any]) -> bool:
    """Whether the masks of a label, if any, are of its image; "" is none."""
    from teachers.runs import covers

    codes = label.get("objects", {}).get("segmentation", ())
    return all(covers(code.encode(), label["height"], label["width"]) for code in codes if code)


# ---- labels.parquet


def checked_table(version: Version) -> Path:
    """The path of a version's labels.parquet, after its columns and all that stands in them were checked, once in a
    process. Raises BuildError for a table that no version can have."""
    path = version.labels
    try:
        status = path.stat()
        known = (str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ino)
        if known not in _CHECKED:
            with pq.ParquetFile(path, pre_buffer=False) as file:  # buffered, what was read stays to the end
                wrong = _wrong_columns(file, version.manifest) or _wrong_values(file, version.manifest)
            if wrong:
                raise BuildError(f"{path} is damaged ({wrong}): {_NEXT}")
            _CHECKED.add(known)
    except (OSError, pa.ArrowException) as error:
        reason = brief(getattr(error, "strerror", None) or str(error))
        raise BuildError(f"{path} cannot be read ({reason}): {_NEXT}") from None
    return path


_CHECKED: set[tuple[str, int, int, int]] = set()


def _wrong_columns(file: pq.ParquetFile, manifest: Manifest) -> str:
    """What is wrong with the columns of a table, "" for nothing. Versions of older tools lack some."""
    column = kind_of(manifest.kind).column
    known: dict[str, pa.DataType] = {field.name: field.type for field in LABELS} | SOMETIMES | BEFORE
    known |= {RLE_BEFORE: pa.binary(), SOFT_BEFORE: pa.list_(pa.float32())}
    known |= {column.name: column.type} if column is not None else {}
    needed = [field.name for field in LABELS if field.name not in OLDER] + ([column.name] if column is not None else [])
    schema = file.schema_arrow
    if missing := [name for name in needed if name not in schema.names]:
        return f"it has no column {missing[0]}"
    for field in schema:
        if field.name in known and field.type != known[field.name]:
            return f"its column {field.name} is {brief(field.type)}, not {known[field.name]}"
    twice = [name for name in schema.names if schema.names.count(name) > 1]
    return f"its column {brief(repr(twice[0]))} stands twice" if twice else ""


OLDER = ("calibrated", "source")
"""Columns that versions of older tools lack."""
_RANGES: dict[str, tuple[float, float]] = {
    "score": (0, 1),
    "calibrated": (0, 1),
    **RANGES,
}
_RANGES |= {"pixels": (0, LARGEST), "teacher_label": (-1, 2**15)}
_RANGES |= dict.fromkeys((*SIDES, *BOX_BEFORE), (-1e9, 1e9))


def rows_of(version: Version, key: str) -> list[dict[str, Any]]:
    """The rows of an image in a version's labels.parquet. Only the row groups that may hold it are read, and checked.
    Raises BuildError as `checked_table`."""
    path, rows = version.labels, list[dict[str, Any]]()
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            wrong = _wrong_columns(file, version.manifest)
            for group in range(0 if wrong else file.num_row_groups):
                if _may_hold(file, group, key):
                    wrong = wrong or _wrong_values(file, version.manifest, [group])
                    table = file.read_row_group(group)
                    rows += table.filter(pc.equal(table["key"].cast(pa.string()), key)).to_pylist()
        if wrong:
            raise BuildError(f"{path} is damaged ({wrong}): {_NEXT}")
    except (OSError, pa.ArrowException) as error:
        reason = brief(getattr(error, "strerror", None) or str(error))
        raise BuildError(f"{path} cannot be read ({reason}): {_NEXT}") from None
    return rows


def _may_hold(file: pq.ParquetFile, group: int, key: str) -> bool:
    """Whether a row group's own summary allows for a key."""
    column = file.metadata.row_group(group).column(file.schema.names.index("key"))
    there = column.statistics
    return there is None or not there.has_min_max or there.min <= key <= there.max


def _wrong_values(file: pq.ParquetFile, manifest: Manifest, groups: Sequence[int] | None = None) -> str:
    """What is wrong with the values of a table whose columns are right, "" for nothing. groups: only of these."""
    classes = len(manifest.classes)
    ranges = _RANGES | {"label": (-1, classes - 1), "label_before": (-1, classes - 1)}
    needed = {field.name for field in LABELS} - {"calibrated"}
    names = [name for name in file.schema_arrow.names if name in ranges or name in WORDS or name == "key"]
    for batch in file.iter_batches(1 << 17, groups, names):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if column.null_count and name in needed:
                return f"its column {name} has rows without a value"
            if name in ranges:
                wrong = _out_of_range(column, *ranges[name])
            else:
                wrong = _no_word(pc.unique(column).drop_null(), WORDS.get(name, KEYS))
            if wrong:
                return f"its column {name} holds {wrong}"
        for low, high in (("x1", "x2"), ("y1", "y2")):
            if pc.any(pc.less(batch[high], batch[low])).as_py():
                return f"its column {high} holds what is less than {low} beside it"
    return ""


KEYS = rf"^(?:{KEY.pattern})$"
WORDS = {"outcome": "^(kept|ignored|dropped)$", "source": "^(teacher|human)$"}
WORDS |= dict.fromkeys(("reason", "reason_before"), "^[a-z_]{1,40}$")
"""Columns of words -> what they may be."""


def _out_of_range(column: pa.Array, low: float, high: float) -> str:
    there = column.drop_null()
    if pa.types.is_floating(there.type) and not pc.all(pc.is_finite(there)).as_py() and len(there):
        return "what is no finite number"
    least, most = (pc.min_max(there)[end].as_py() for end in ("min", "max"))
    if least is None or (low <= least and most <= high):
        return ""
    return f"{least if least < low else most:g}, which is not between {low:g} and {high:g}"


def _no_word(there: pa.Array, pattern: str) -> str:
    fits = pc.match_substring_regex(there, pattern)
    return "" if pc.all(fits).as_py() is not False else brief(repr(there.filter(pc.invert(fits))[0].as_py()))
