"""What a user can mend, as a sentence."""

from __future__ import annotations

LONGEST = 100
"""Characters of a value that an error quotes."""


class BuildError(Exception):
    """Something a user can mend. The message is one sentence with the offending value and the next step."""


def brief(value: object) -> str:
    """A value of a file, or a message about it, as an error may quote it: one line, cut where it is long."""
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"
