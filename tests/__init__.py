"""Tests mirror the house: tests/<package>/test_<module>.py, `whole/` for what crosses rooms, `helpers/` for what tests share."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""
