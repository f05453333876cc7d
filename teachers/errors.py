"""The error that all of Tutelage's own errors are."""

from __future__ import annotations


class TutelageError(Exception):
    """Something a user can mend. The message is one sentence with the offending value and the next step."""
