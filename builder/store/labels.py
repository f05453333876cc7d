"""The label JSON of a sample, read as strictly as it is written: the one way from its bytes to its fields.

What its shard's hash covers may still be nonsense, where a version comes from elsewhere: whoever made it computed the
hash, too. So every type, range and length is checked here, in one pass of pydantic's parser, and readers need not.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # of Python 3.12 on, which pydantic asks for

from builder.errors import BuildError, brief
from builder.kinds import kind_of
from builder.store.manifest import Manifest
from builder.store.shards import MAX_MEMBER, Sample, read_bytes

LONGEST_LABEL = 64 << 20
"""Bytes of a label JSON, some 500,000 objects; what claims more is not read."""
LARGEST = 2**31 - 1
"""Of a side, a number of pixels, a number of a copy."""

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
    name: Annotated[str, Field(max_length=4096)]
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


def read_label(path: Path, sample: Sample, manifest: Manifest) -> dict[str, Any]:
    """The label JSON of a sample of a version. path: of its shard. Raises BuildError as `parse_label`, and for a sample
    without one; ShardError if the file ends before it."""
    member = sample.members.get("json")
    if member is None:
        raise BuildError(f"{path}: image {sample.key} has no label JSON: {_NEXT}")
    if member.size > LONGEST_LABEL:
        raise BuildError(
            f"{path}: the label JSON of image {sample.key} has {member.size} bytes, more than {LONGEST_LABEL}: {_NEXT}"
        )
    return parse_label(read_bytes(path, member), path, sample.key, manifest)


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
    kind = kind_of(manifest.kind)
    try:
        label: dict[str, Any] = _form(kind.name).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "it"
        wrong = f"{place}: {brief(first['msg'][:1].lower() + first['msg'][1:])}"
    else:
        wrong = _wrong(label, key, len(manifest.classes))
    if wrong:
        raise BuildError(f"{path}: the label JSON of image {key or '(unnamed)'} is damaged ({wrong}): {_NEXT}")
    return label


_NEXT = "run `tutelage verify` on the version, and get it again from where it came"


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


assert LONGEST_LABEL < MAX_MEMBER
