"""What hypothesis makes of a valid file: other bytes, a few of its bytes changed, or another value somewhere in its JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=8),
        st.sampled_from(["../../etc/passwd", "/etc", "a\0b", "\x1b", "1" * 5000, 1e308, -1, 2**63]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=4,
)


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """A file that was `content`."""
    kind = draw(st.sampled_from(("bytes", "edits", "cut", "json" if content[:1] in b"[{" else "edits")))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if kind == "edits":
        data = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            data[draw(st.integers(0, len(data) - 1))] = draw(
                st.one_of(st.integers(0, 255), st.sampled_from(b"0129.-,:[]{}<>\"' \n"))
            )
        return bytes(data)
    return json.dumps(draw(changed(content))).encode()


@st.composite
def changed(draw: st.DrawFn, content: bytes) -> Any:
    """What a JSON file holds, with another value somewhere, or without a key."""
    whole = {"": json.loads(content)}
    inside, key = draw(st.sampled_from(list(_places(whole))))
    if draw(st.booleans()) or not isinstance(inside, dict):
        inside[key] = draw(VALUES)
    else:
        del inside[key]
    return whole.get("")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in a JSON value, with each of its keys or positions."""
    inside = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, each in inside:
        yield value, key
        yield from _places(each)
