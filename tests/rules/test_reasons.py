"""The one table of reasons."""

from __future__ import annotations

import re
import string
from pathlib import Path

import pytest

from builder.rules.reasons import BY_ACTION, OUTCOMES, REASONS, Reason
from builder.versions.reasons import Explained

STORED = (
    "kept below_threshold ignore_band no_threshold class_ignored class_dropped nms cap where_false where_null "
    "where_nan size uncertain thinned accepted relabelled moved added rejected superseded"
).split()
"""As they stand in labels.parquet and manifests of versions that people have."""
ROOT = Path(__file__).parents[2]


def test_keys_and_codes_are_what_versions_hold() -> None:
    assert list(REASONS) == STORED and [int(reason) for reason in Reason] == list(range(len(STORED)))
    assert set(BY_ACTION) == {"accept", "relabel", "move", "add", "reject"}
    assert [reason.key for reason in Reason if reason.by_people] == STORED[14:]
    refused = [reason.key for reason in Reason if reason.outcome is None]
    assert refused == "cap where_false where_null where_nan size uncertain".split()


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_has_words_that_explain_can_fill_in(reason: Reason) -> None:
    assert reason.words and reason.sentence and reason.outcome in (None, *range(len(OUTCOMES)))
    for text in (reason.sentence, reason.of_pixels):
        fields = [field for _, field, _, _ in string.Formatter().parse(text) if field]
        assert all(re.fullmatch(r"it\.\w+(\[\w+\])?", field) for field in fields)
        assert all(hasattr(Explained, re.split(r"[.\[]", field)[1]) for field in fields)


def test_no_other_module_lists_reasons() -> None:
    """Three or more of their keys as texts in one expression are a second list."""
    keys = "|".join(key for key in STORED if key not in ("kept", "size", "moved", "added", "rejected"))
    second = re.compile(rf"""(["']({keys})["'][^\n]*){{3}}""")
    sources = [path for folder in ("builder", "students") for path in (ROOT / folder).rglob("*.py")]
    assert [path for path in sources if second.search(path.read_text())] == [] and len(sources) > 100
