"""Whether a version is whole, and its repair where it is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from builder.cut.version import held
from builder.engine import Track, silent
from builder.store.history import HISTORY, read_history
from builder.store.manifest import CLAIM, MANIFEST, read_manifest
from builder.store.store import Store, check_store
from builder.store.version import Version, check_here, check_version
from builder.versions import repair as repairing
from builder.versions.verify import Problem, problems


@dataclass(frozen=True)
class Verified:
    """The state of a version. problems: what is wrong with it now; repaired: what was wrong and is no more."""

    version: Version
    problems: tuple[Problem, ...]
    repaired: tuple[Problem, ...] = ()

    @property
    def is_whole(self) -> bool:
        return not self.problems

    @property
    def only_strays(self) -> bool:
        """Whether nothing is wrong but that files lie there which are no part of the version."""
        return all(problem.stray for problem in self.problems)


def verify(
    version: Version,
    store: Store,
    *,
    repair: bool = False,
    quick: bool = False,
    workers: int | None = None,
    track: Track = silent,
) -> Verified:
    """Read every byte of a version, and build again what is bad if that is asked for.

    Args:
        version: the one to verify.
        store: holds, for a repair, the pool and the predictions that the version was made of.
        repair: build bad shards and files again; what is there is replaced only by the bytes that the manifest names.
        quick: compare the hashes of its files with its manifest, and no more: no image is decoded, no label read.
        workers: threads; None for one a core.
        track: reports progress.

    Returns:
        What is wrong, and what was repaired.

    Raises:
        BuildError: what is bad cannot be built again.
    """
    check_version(version)
    check_store(store)
    check_here(version)
    pinned = tuple(other_pins(version, store))
    verified = Verified(version, (*problems(version, quick=quick, workers=workers, track=track), *pinned))
    if not repair:
        return verified
    if verified.only_strays:
        with held(version.folder):  # sweeps what a killed repair left
            return verified
    repairing.repair(version, store, bad_shards(verified.problems), workers, track)
    left = (*problems(version, quick=quick, workers=workers, track=track), *pinned)
    return Verified(version, left, tuple(problem for problem in verified.problems if problem not in left))


def bad_shards(faults: Sequence[Problem]) -> list[int]:
    """The numbers of the shards to build again, in order."""
    return sorted({int(problem.shard.removesuffix(".tar").rpartition("-")[2]) for problem in faults if problem.shard})


def other_pins(version: Version, store: Store) -> Iterator[Problem]:
    """Who knows another manifest of a version of this store: its history, its tags, or versions that were made from it.
    What nobody has pinned, such as a pulled version's numbers before it was pulled, is as good as where it came from.
    """
    manifest, ref, folder = version.manifest, version.ref, version.folder.resolve()
    if folder != (store.datasets / version.dataset / manifest.version).resolve():
        return
    known = {}
    if (event := read_history(store.root).get(ref)) and event.what != "removed":
        known[HISTORY] = event.id, event.manifest
    for tag in store.tags(version.dataset):
        if tag.version == manifest.version:
            known[f"tag {tag.name}"] = tag.id, tag.manifest
    for name in store.names():
        for path in store.versions(name):
            if (path / MANIFEST).is_file() and path.resolve() != folder:
                parent = read_manifest(path).provenance.parent
                built_here = (path / CLAIM).is_file()  # one that was pulled had its parent elsewhere
                if parent and (parent.id == manifest.id or (built_here and parent.version == ref)):
                    known[f"its child {name}@{path.name}"] = parent.id, parent.manifest
    for who, (id, pin) in known.items():
        if id != manifest.id or pin not in ("", manifest.pin):
            yield Problem(f"{MANIFEST}: it is not the one that {who} knows: restore it from a copy", stray=True)
