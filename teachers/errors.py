"""The error and the warning that all of Tutelage's own are."""

from __future__ import annotations

import warnings


class TutelageError(Exception):
    """Something a user can mend. The message is one sentence with the offending value and the next step."""


class TutelageWarning(UserWarning):
    """Something that a user should know and that stops nothing: one sentence with what to do about it."""


def warn(sentence: str) -> None:
    """Warn whoever called: as a TutelageWarning in Python; the command line prints it on stderr, each sentence once."""
    warnings.warn(sentence, TutelageWarning, stacklevel=3)
