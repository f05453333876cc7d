"""What a study set out to show, kept from before its first figure: contrasts chosen later are no evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from builder.store.files import canonical_json, write_file
from students.study.recipe import StudyRecipe
from students.study.worker import RECIPE

DECLARED = "declared.json"
KEYS = ("primary", "seeds")


def declare(study: StudyRecipe, out: Path, begun: bool) -> None:
    """Keep the recipe's primary contrasts and number of seeds in the study's folder, unless it is `begun` (has figures)
    and they are kept. Of a folder that is begun without them, they are those of its last recipe."""
    path, last = out / DECLARED, out / RECIPE
    if begun and path.is_file():
        return
    stated = orjson.loads(last.read_bytes()) if begun and last.is_file() else _stated(study)
    write_file(path, canonical_json({key: stated[key] for key in KEYS}))


def changed(study: StudyRecipe, out: Path) -> tuple[str, ...]:
    """Which of KEYS are others than those declared; none for a folder that has no declaration."""
    if not (out / DECLARED).is_file():
        return ()
    declared, ours = orjson.loads((out / DECLARED).read_bytes()), _stated(study)
    return tuple(key for key in KEYS if declared[key] != ours[key])


def _stated(study: StudyRecipe) -> dict[str, Any]:
    stated: dict[str, Any] = orjson.loads(study.model_dump_json())
    return stated
