"""What became of overrides in a version: from the records of its shards, as its manifest sums it up, and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from builder.rules.overrides import APPLIED, ELSEWHERE, ORPHANED, RECORDS, WAITING, Action, Override, overrides_digest
from builder.rules.reasons import BY_ACTION
from builder.store.provenance import OverrideSummary


def settled(overrides: Iterable[Override], rows: Sequence[tuple[Mapping[str, Any], str]]) -> dict[Override, str]:
    """What became of each override of a version. rows: what became of those on the images of its shards
    (builder.cut.results.ShardResult.overrides); all others are about images elsewhere."""
    fates = dict(zip(RECORDS.validate_python([row for row, _ in rows]), (state for _, state in rows), strict=True))
    return {override: fates.get(override, ELSEWHERE) for override in overrides}


def image_keys(rows: Sequence[tuple[Mapping[str, Any], str]]) -> dict[str, str]:
    """The keys of the images that the overrides in these rows (see `settled`) are about, by SHA-256."""
    return {row["sha256"]: row["key"] for row, _ in rows}


def summary(fates: Mapping[Override, str]) -> OverrideSummary:
    """What a version's provenance says of the overrides in force. fates: what became of each."""
    states = Counter(fates.values())
    applied = Counter(override.action for override, state in fates.items() if state == APPLIED)
    return OverrideSummary(
        digest=overrides_digest(fates),
        count=len(fates),
        applied=states[APPLIED],
        orphans=states[ORPHANED],
        waiting=states[WAITING],
        elsewhere=states[ELSEWHERE],
        **{action: applied[action] for action in get_args(Action)},
    )


def describe(overrides: OverrideSummary) -> str:
    """A `summary` in words."""
    by_action = [(getattr(overrides, action), BY_ACTION[action].words) for action in get_args(Action)]
    applied = ", ".join(f"{number} {words}" for number, words in by_action if number)
    text = f"{overrides.applied} of {overrides.count} overrides applied" + (f" ({applied})" if applied else "")
    others = [
        (overrides.orphans, "orphaned (no object to change: see overrides.json)"),
        (overrides.waiting, "wait for an object to reject"),
        (overrides.elsewhere, "on images that are not here"),
    ]
    return "; ".join([text, *(f"{number} {words}" for number, words in others if number)])
