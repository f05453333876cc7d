"""A training that cannot be done."""

from __future__ import annotations

from builder.errors import BuildError


class TrainError(BuildError):
    """A training that cannot start or go on. The message is one sentence for the user."""
