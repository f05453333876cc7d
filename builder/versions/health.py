"""Whether a version is whole, and its repair where it is not."""

from __future__ import annotations

from dataclasses import dataclass

from builder.cut.version import held
from builder.engine import Track, silent
from builder.store.store import Store, check_store
from builder.store.version import Version, check_here, check_version
from builder.versions import repair as repairing
from builder.versions.verify import Problem, bad_shards, problems


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
    version: Version, store: Store, *, repair: bool = False, workers: int | None = None, track: Track = silent
) -> Verified:
    """Read every byte of a version, and build again what is bad if that is asked for.

    Args:
        version: the one to verify.
        store: holds, for a repair, the pool and the predictions that the version was made of.
        repair: build bad shards and files again; what is there is replaced only by the bytes that the manifest names.
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
    verified = Verified(version, tuple(problems(version, workers=workers, track=track)))
    if not repair:
        return verified
    if verified.only_strays:
        with held(version.folder):  # sweeps what a killed repair left
            return verified
    repairing.repair(version, store, bad_shards(verified.problems), workers, track)
    left = tuple(problems(version, workers=workers, track=track))
    return Verified(version, left, tuple(problem for problem in verified.problems if problem not in left))
