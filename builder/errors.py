"""Errors that a user can fix, each one sentence."""

from __future__ import annotations

from teachers.errors import TutelageError

LONGEST = 100
"""Characters of a value that an error quotes."""


class BuildError(TutelageError):
    """Something that a user can fix in a recipe, a source, labels or the store: one sentence, as any TutelageError."""


def brief(value: object) -> str:
    """A value of a file, or a message about it, as an error may quote it: one line, cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
