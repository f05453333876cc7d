"""Sealed JSON: what is other than it was sealed is not read."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import BuildError
from builder.store.files import is_sealed, seal, unseal

PATH = Path("store/some.json")
VALUE = {"name": "cells", "floor": 0.05, "classes": ["a", "b"], "size": 640, "nested": {"x": None, "y": True}}
LEAF = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        LEAF | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=5,
).map(lambda value: {key: kept for key, kept in value.items() if key != "digest"})


@given(JSON)
def test_what_is_sealed_is_read_again_whatever_the_spaces_and_the_order(value: dict[str, Any]) -> None:
    sealed = seal(value)
    assert is_sealed(sealed) and seal(sealed) == sealed
    backwards = dict(reversed(sealed.items()))
    for text in (json.dumps(sealed), json.dumps(backwards, indent=3), orjson.dumps(sealed)):
        assert unseal(orjson.loads(text), PATH) == value


@pytest.mark.parametrize(
    "damage",
    [
        {"name": "bells"},
        {"floor": 0.06},
        {"size": 640.0},
        {"classes": ["b", "a"]},
        {"classes": ["a"]},
        {"nested": {"x": None, "y": True, "z": 1}},
        {"nested": {"x": None}},
        {"nested": {"x": None, "y": 1}},
        {"added": 1},
        {"name": None},
        {"digest": "0" * 64},
        {"digest": None},
        {"digest": ""},
        {"name": float("nan")},
    ],
)
def test_any_other_value_or_key_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(BuildError, match=r"store/some\.json is damaged \(it is not what its digest says\): .*copy"):
        unseal(seal(VALUE) | damage, PATH)


@pytest.mark.parametrize("key", [*VALUE, "digest"])
def test_a_key_that_is_gone_or_has_another_name_is_refused(key: str) -> None:
    sealed = seal(VALUE)
    renamed = {("eigest" if name == key else name): value for name, value in sealed.items()}
    with pytest.raises(BuildError, match="damaged"):
        unseal(renamed, PATH)
    if key != "digest":
        with pytest.raises(BuildError, match="label again"):
            unseal({name: value for name, value in sealed.items() if name != key}, PATH, "label again")


def test_what_was_written_before_there_were_digests_is_read() -> None:
    assert unseal(VALUE, PATH) == VALUE and not is_sealed(VALUE)


@pytest.mark.parametrize("value", [[], None, "x", 3, [seal(VALUE)]])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(BuildError, match="holds no object"):
        unseal(value, PATH)


@given(st.data())
def test_a_flipped_bit_is_found_or_changes_nothing(data: st.DataObject) -> None:
    value = data.draw(JSON)
    text = bytearray(orjson.dumps(seal(value), option=orjson.OPT_INDENT_2))
    place = data.draw(st.integers(0, len(text) * 8 - 1))
    text[place // 8] ^= 1 << place % 8
    with suppress(orjson.JSONDecodeError, BuildError):
        assert unseal(orjson.loads(text), PATH) == value
