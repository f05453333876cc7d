"""Class probabilities in a CSV file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builder.errors import BuildError, brief
from builder.label.replay.stored import HIGHEST, Stored
from builder.store.files import sha256_file
from builder.store.names import canonical
from builder.store.text import read_rows
from teachers.base import ClassProbabilities, TeacherOptions

NAME = "name"


def read_probabilities(path: Path, options: TeacherOptions) -> Stored:
    """A CSV whose first line is `name` and the classes, and each other an image's name and the probability of each
    class, 0 to 1, which need not sum to 1. Raises BuildError, naming the line, for anything else."""
    options.refuse("class probabilities, which are stored whole", "floor", "max_detections", "classes")
    places: dict[str, int] = {}
    rows: list[np.ndarray] = []
    table = read_rows(path)
    header = [column.strip() for column in next(table, (0, []))[1]]
    classes = tuple(header[1:])
    if header[:1] != [NAME] or not classes or len(set(header)) < len(header) or "" in header:
        raise BuildError(
            f"{path} begins with {brief(repr(','.join(header)))}: begin with name and the classes, all different"
        )
    for number, line in table:
        name = canonical(line[0])
        if not name:
            raise BuildError(f"{path}: line {number} names no image: correct it")
        if name in places:
            raise BuildError(f"{path}: line {number} has {brief(repr(name))} again: keep one")
        places[name] = len(rows)
        rows.append(_values(line[1:], len(classes), f"{path}: line {number}"))
    return Stored(
        "classification",
        classes,
        dict.fromkeys(places),
        lambda name, width, height: ClassProbabilities(rows[places[name]]),
        path.name,
        {"results": sha256_file(path), "images": None},
    )


def _values(cells: list[str], count: int, where: str) -> np.ndarray:
    """float32 (count,)."""
    if len(cells) != count:
        raise BuildError(f"{where} has {len(cells)} probabilities for {count} classes: correct it")
    try:
        values = np.array([float(cell) for cell in cells])
    except ValueError as error:
        raise BuildError(f"{where} holds no number ({brief(error)}): correct it") from None
    wrong = np.flatnonzero(~((values >= 0) & (values <= HIGHEST)))
    if len(wrong):
        raise BuildError(f"{where} has the probability {values[wrong[0]]:g}, outside 0..1: correct it")
    return values.clip(0, 1).astype(np.float32)
