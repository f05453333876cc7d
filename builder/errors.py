"""Errors that a user can fix, each one sentence."""

from __future__ import annotations

from teachers.errors import LONGEST as LONGEST
from teachers.errors import TutelageError
from teachers.errors import brief as brief


class BuildError(TutelageError):
    """Something that a user can fix in a recipe, a source, labels or the store: one sentence, as any TutelageError."""
