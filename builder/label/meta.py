"""What made predictions: the teacher's meta.json, beside its chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from pydantic import ConfigDict, Field, ValidationError

from builder.errors import BuildError, brief
from builder.sections import Section, complaint
from builder.store.files import read_stored, seal, unseal, write_file
from teachers.base import Kind, fingerprint

META = "meta.json"


class Description(Section):
    """What every teacher's description says, whatever else it does: it decides the predictions."""

    model_config = ConfigDict(extra="allow")

    kind: Kind
    classes: list[str]
    floor: float


class Meta(Section):
    """What made predictions. spec: names the teacher, for people; description: see teachers.base.Teacher; runtime: what
    it ran on; license: of its weights."""

    spec: str
    license: str = "unknown"
    description: Description
    runtime: dict[str, Any] = Field(default_factory=dict)


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Say, once, what made the predictions below `folder`. Raises BuildError if what is there is damaged."""
    if (folder / META).exists():
        read_meta(folder)
        return
    write_file(folder / META, orjson.dumps(seal(meta), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def read_meta(folder: Path) -> dict[str, Any]:
    """spec, description (with kind, classes, floor), runtime, license (Meta). Raises BuildError if it is missing, or
    not what was written there: the folder's name is the digest of the description."""
    path, mend = folder / META, "remove it and label again, which writes it anew and labels nothing twice"
    try:
        meta = unseal(read_stored(path), path, mend)
        Meta.model_validate(meta)
        described = fingerprint(meta["description"])
    except ValidationError as error:
        raise BuildError(f"{path} is damaged ({brief(complaint(error))}): {mend}") from None
    except (OSError, ValueError) as error:
        raise BuildError(f"{path} cannot be read ({brief(error)}): {mend}") from None
    if described != folder.name:
        raise BuildError(f"{path} is damaged (it describes the teacher {described[:12]}): {mend}")
    return meta
