"""`meta.json` beside a network's weights: what they are, read and checked whole."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from teachers.base import TeacherError, fingerprint
from teachers.errors import brief
from teachers.files import open_regular
from teachers.text import read_json

META = "meta.json"
FORMAT = 1
DIGEST = "digest"
"""The key of the SHA-256 over the rest of it, as builder.store.files.seal gives it; older runs have none."""
AGAIN = "remove it and run the training again, which saves it anew"
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Weights(BaseModel):
    """The file with the weights, beside meta.json: its name, SHA-256 and size."""

    model_config = ConfigDict(frozen=True, strict=True)
    file: str
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class Meta(BaseModel):
    """What meta.json says. step: of the training. trained_on: SHA-256 of the images that the weights depend on.
    network: the options of a NetworkConfig; of a backbone without those of what stands on one."""

    model_config = ConfigDict(frozen=True, strict=True)
    format: Literal[1]
    step: Annotated[int, Field(ge=0)] = 0
    trained_on: list[str]
    weights: Weights
    network: dict[str, Any]


def read_meta(folder: Path) -> Meta:
    """What `meta.json` of a run says. Raises TeacherError, in one sentence, if there is none to read, if it is of
    another format, or other than it was written."""
    if not (folder / META).exists():
        raise TeacherError(f"{folder} has no {META}: it is no run, or it has not reached its first save")
    try:
        content = read_json(folder / META)
    except TeacherError as error:
        raise TeacherError(f"{folder / META} cannot be read ({brief(error)}): {AGAIN}") from None
    stated = content.get("format") if isinstance(content, dict) else None
    if type(stated) is not int or stated != FORMAT:  # true is no 1
        raise TeacherError(f"{folder / META} is not of format {FORMAT}: it was written by another version or program")
    rest = {key: value for key, value in content.items() if key != DIGEST}
    if DIGEST in content and content[DIGEST] != fingerprint(rest):
        raise TeacherError(f"{folder / META} is damaged (it is not what its digest says): {AGAIN}")
    try:
        return Meta.model_validate(rest)
    except ValidationError as error:
        raise wrong_meta(folder, error) from None


def check_file(folder: Path, weights: Weights) -> None:
    """Raise TeacherError if a file of weights is missing, or not the one that meta.json beside it describes."""
    read_file(folder, weights, whole=False)


def read_file(folder: Path, weights: Weights, *, whole: bool = True) -> bytes:
    """The bytes of a file of weights, or, unless `whole`, none of them once they are checked. Raises TeacherError as
    `check_file`."""
    path, again = folder / weights.file, f"remove {META} and run the training again, which saves both anew"
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            if size == weights.bytes:  # else not a byte of what may be very large is read
                data = file.read() if whole else b""
                found = hashlib.sha256(data) if whole else hashlib.file_digest(file, "sha256")
                if found.hexdigest() == weights.sha256:
                    return data
    except OSError as error:
        raise TeacherError(f"{path} cannot be read ({error.strerror}): {again}") from None
    raise TeacherError(f"{path} is not what {META} describes: {again}")


def wrong_meta(folder: Path, error: ValidationError, above: str = "") -> TeacherError:
    """The first thing that is wrong in the meta.json of a folder. above: what stands before the key."""
    first = error.errors(include_url=False)[0]
    key = brief(above + ".".join(map(str, first["loc"])))
    match first["type"]:
        case "missing":
            what = f"lacks the key {key}"
        case "extra_forbidden" | "unexpected_keyword_argument":
            what = f"has the unknown key {key}"
        case _:
            what = f"has {key} = {brief(repr(first['input']))}, but {first['msg'][0].lower()}{first['msg'][1:]}"
    return TeacherError(f"{folder / META} {what}: it is damaged, or of another version: {AGAIN}")
