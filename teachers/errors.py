"""The error and the warning that all of Tutelage's own are."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable

LONGEST = 100
"""Characters of a value that an error quotes."""


class TutelageError(Exception):
    """Something a user can mend. The message is one sentence with the offending value and the next step."""


class TutelageWarning(UserWarning):
    """Something that a user should know and that stops nothing: one sentence with what to do about it."""


def warn(sentence: str) -> None:
    """Warn whoever called: as a TutelageWarning in Python; the command line prints it on stderr, each sentence once."""
    warnings.warn(sentence, TutelageWarning, stacklevel=3)


def brief(value: object) -> str:
    """A value of a file, or a message about it, as an error may quote it: one line, cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is meant by a misspelt one, "" if none is alike."""
    words = {name.lower().replace("-", "_"): name for name in known}
    close = difflib.get_close_matches(word.lower().replace("-", "_"), words, n=1, cutoff=0.7)
    return words[close[0]] if close else ""
