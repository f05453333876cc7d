"""The keys that a recipe's sections have, and the likeliest one where another was written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from builder.sections import fields_of, parts_of
from teachers.errors import nearest

FLAT = "options"
"""The field whose own keys stand beside it in a recipe (builder.label.section)."""


ELSEWHERE = {
    **dict.fromkeys(("threshold", "conf", "confidence", "min_score", "score_threshold"), "score"),
    **dict.fromkeys(("model", "weights_file"), "teacher"),
    **dict.fromkeys(("epochs", "iterations", "max_steps"), "steps"),
    **dict.fromkeys(("learning_rate", "lr0"), "lr"),
    **dict.fromkeys(("imgsz", "image_size", "img_size"), "size"),
    "batch_size": "batch",
}
"""What other tools call a key -> its name here."""


def likeliest(path: str, model: type) -> str:
    """The key of a section that is meant by an unknown one, `keep.scor` or, at the wrong place, `score`; both as they
    are written from the top. "" if none is alike."""
    section, _, name = path.rpartition(".")
    known = sorted(dict.fromkeys(keys(model)), key=lambda key: key.count("."))
    here = {key.rpartition(".")[2]: key for key in known if key.rpartition(".")[0] == section}
    if beside := nearest(name, here):
        return here[beside]
    names = (name, ELSEWHERE.get(name))
    return next((key for wanted in names for key in known if key.rpartition(".")[2] == wanted), "")


def keys(model: type, above: str = "") -> Iterator[str]:
    """The dotted keys of a model's fields, and of theirs; items of a list count as their list."""
    for name, type in fields_of(model):
        inside = [part for part in parts_of(type) if _is_section(part)]
        if name != FLAT:
            yield f"{above}{name}"
        for section in inside:
            yield from keys(section, above if name == FLAT else f"{above}{name}.")


def _is_section(part: Any) -> bool:
    return isinstance(part, type) and (issubclass(part, BaseModel) or dataclasses.is_dataclass(part))
