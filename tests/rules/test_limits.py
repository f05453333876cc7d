"""From which score on a class is kept, and from which on ignored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from builder.errors import BuildError
from builder.rules.keep import Keep
from builder.rules.limits import limits
from builder.store.provenance import Group

NONE = np.inf


def group(*classes: str, threshold: float | None = 0.5, **fields: Any) -> Group:
    return Group(classes=list(classes), rule="score", threshold=threshold, **fields)


@pytest.mark.parametrize(
    ("groups", "ignore", "keep", "ignored", "kept_from", "ignored_from"),
    [
        ([group("a", "b")], 0.25, [0.5, 0.5], [0.25, 0.25], [0.5, 0.5], [0.25, 0.25]),
        ([group("a", "b")], None, [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [np.nan, np.nan]),
        ([group("a"), group("b", threshold=None)], 0.25, [0.5, NONE], [0.25, 0.25], [0.5, np.nan], [0.25, 0.25]),
        ([group("a"), group("b", threshold=None)], None, [0.5, NONE], [0.5, NONE], [0.5, np.nan], [np.nan, np.nan]),
        ([group("a", threshold=0.125), group("b")], {"b": 0.375, "*": 0.25}, [0.125, 0.5], [0.125, 0.375],
         [0.125, 0.5], [np.nan, 0.375]),
        ([group("a", ignore=0.0625), group("b")], 0.25, [0.5, 0.5], [0.0625, 0.25], [0.5, 0.5], [0.0625, 0.25]),
        ([], 0.25, [NONE, NONE], [0.25, 0.25], [np.nan, np.nan], [0.25, 0.25]),
    ],
)  # fmt: skip
def test_limits_by_hand(groups: Any, ignore: Any, keep: Any, ignored: Any, kept_from: Any, ignored_from: Any) -> None:
    solved = limits(groups, ["a", "b"], ignore)
    assert solved.keep.dtype == solved.ignore.dtype == np.float32 and solved.groups == tuple(groups)
    np.testing.assert_array_equal(solved.keep, keep)
    np.testing.assert_array_equal(solved.ignore, ignored)
    np.testing.assert_array_equal(solved.kept_from, kept_from)
    np.testing.assert_array_equal(solved.ignored_from, ignored_from)


def test_a_class_that_is_unknown_or_is_given_none_is_named() -> None:
    with pytest.raises(BuildError, match=r"keep\.ignore names class 'c'"):
        limits([], ["a"], {"c": 0.5})
    with pytest.raises(BuildError, match=r"keep\.ignore gives no number for class 'b'"):
        limits([], ["a", "b"], {"a": 0.5})


def test_keep_gives_its_own_band_and_rule() -> None:
    solved = Keep.model_validate({"top_box": 0.5, "ignore": 0.25}).limits([group("a")], ["a"])
    assert solved.top_box and solved.ignore.tolist() == [0.25]
