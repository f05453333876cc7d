"""Keys of whatever images are called, and of their copies: no two images share one, and what is made of a key says which."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from builder.store.keys import copy_key, is_copy, make_key, original
from builder.store.shards import KEY, NAMED
from builder.versions.media import file_name

PARTS = st.one_of(
    st.sampled_from(
        (".", "..", "a", "A", "a.b", "__a__", "-r1", "a-r1", "%2e", "a b", "é", "e\u0301", "日本", "CON", " ", "_-")
    ),
    st.text(st.characters(codec="utf-8"), max_size=200),
)
NAMES = (
    st.lists(PARTS, min_size=1, max_size=6)
    .map("/".join)
    .flatmap(lambda stem: st.sampled_from(("", ".", ".jpg", ".tar.gz", ".JPG")).map(lambda end: stem + end))
)
"""Paths of images, dotted, deep, long and in either form of Unicode."""


@given(st.lists(NAMES, max_size=12), st.integers(1, 999))
@example(["a/b.jpg", "a_b.jpg", "a//b.jpg", "a.b.jpg", "/a/b.jpg", "a/b.jpg/", "a/b-r1.jpg", "A/b.jpg", "a/b", ""], 1)
@example(["x" * 500 + end for end in ("/1.jpg", "/2.jpg", ".jpg", "")], 999)
def test_no_two_images_or_copies_share_a_key(names: list[str], number: int) -> None:
    """100 lists of at most 12 names a run, by hypothesis."""
    images = {unicodedata.normalize("NFC", name) for name in names}
    keys = [make_key(name) for name in images]
    copies = [copy_key(key, number) for key in keys]
    assert len({*keys, *copies}) == 2 * len(images)
    assert len({file_name(key, "jpg") for key in (*keys, *copies)}) == 2 * len(images)
    for name, key, copy in zip(images, keys, copies, strict=True):
        assert key == make_key(name) == make_key(unicodedata.normalize("NFD", name))
        assert re.fullmatch(r"[A-Za-z0-9_/-]{1,90}", key) and KEY.fullmatch(key) and KEY.fullmatch(copy)
        assert "__" not in key and "//" not in key and key[0] not in "/_-"
        assert original(key) == key == original(copy) == copy_key(key, 0) and is_copy(copy) and not is_copy(key)
        for each in (key, copy):
            named = NAMED.fullmatch(f"{each}.seg.png")
            assert named and (named["key"], named["extension"]) == (each, "seg.png")
            assert file_name(each, "jpg").removesuffix(".jpg").replace(".", "/") == each  # as builder.review.cvat does
