"""Ids of COCO files, as numbers and as text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.truth.ids import as_numbers, read_id


@given(st.integers(-(10**12), 10**12))
def test_a_number_and_its_text_are_one_id(number: int) -> None:
    assert read_id(number) == read_id(str(number)) == read_id(float(number)) == number


@given(st.lists(st.text(min_size=1), unique=True))
def test_different_texts_are_different_ids(texts: list[str]) -> None:
    assert len({read_id(text) for text in texts}) == len(texts)


@pytest.mark.parametrize("value", ["frame_0007", "007", "1.0", "٣", "9" * 30, "-"])
def test_other_text_stays_text(value: str) -> None:
    assert read_id(value) == value


@pytest.mark.parametrize("value", [None, True, 1.5, float("nan"), float("inf"), 2**80, 2.0**80, "", [1], {}])
def test_what_is_no_id_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="neither a whole number below"):
        read_id(value)


def test_text_ids_are_numbered() -> None:
    assert as_numbers([7, 3]) == [7, 3]
    assert as_numbers(["a", 3]) == [1, 2]
