"""Tag samples in the App for people to look at."""

from __future__ import annotations

from collections.abc import Sequence

from builder.errors import BuildError
from builder.store.store import Store
from builder.store.version import Version


def tag_in_app(store: Store, version: Version, keys: Sequence[str], tag: str) -> int:
    """Give these images, and no others of the version, a tag in the App. Returns how many of them are there.

    They do not count as changed by a person. Raises BuildError if the version
    was never browsed.
    """
    from builder.browse.app import connected
    from builder.browse.documents import Names, reviewable
    from builder.browse.samples import INFO, Change, samples_of

    ref, manifest, tagged, browsed = version.ref, version.manifest, set[str](), False
    with connected(store) as fo:
        for name in fo.list_datasets("tutelage-*"):
            dataset = fo.load_dataset(name)
            versions = [v for v in (dataset.info.get(INFO) or {}).get("versions", []) if v["id"] == manifest.id]
            for shown in versions:
                browsed = True
                samples, there = samples_of(fo, dataset), reviewable(Names(shown["suffix"]))
                old = list(samples.find({**there, "tags": tag, "key": {"$nin": list(keys)}}, ("key",)))
                new = list(samples.find({**there, "key": {"$in": list(keys)}}, ("key",)))
                untag = {document["_id"]: Change({}, remove=[tag]) for document in old}
                samples.update(untag | {document["_id"]: Change({}, add=[tag]) for document in new})
                tagged |= {document["key"] for document in new}
    if not browsed:
        raise BuildError(f"{ref} was not browsed yet: run `tutelage browse {ref}`, then queue again")
    return len(tagged)
