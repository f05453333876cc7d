"""Which image of a pool each stored prediction is of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from builder.errors import BuildError, brief
from builder.label.replay.stored import Stored
from builder.scan.pool import PoolImage
from builder.store.names import canonical

BY_NAME, BY_STEM, BELOW, GUESS = range(4)
"""How a listed name can be an image's: it is its name or path, that without its extension, that below the one folder of
all listed names, or one that the image may have been given. The surest first."""


@dataclass(frozen=True)
class Match:
    """The image of a pool that a listed name is of."""

    how: int
    image: str
    identity: str


class Matcher:
    """Names of a pool's images -> those of a listing, by the rule of builder.label.replay.replay.Replay."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored
        self._prefix = common_folder(stored.sizes)

    def match(self, images: Iterable[PoolImage]) -> dict[str, str]:
        """`identity` of each image that is listed -> its name in the listing; a copy may be listed in its place.

        Raises BuildError if a listed name may be that of two different images, or an image may be two listed ones.
        """
        matches: dict[str, Match] = {}
        shared: dict[str, tuple[Match, Match]] = {}
        for image in images:
            how, listed = self._find(image.name, "" if image.offset else canonical(image.uri))
            if listed is None:
                continue
            match, before = Match(how, image.name, identity(image)), matches.get(listed)
            if before is None or how < before.how:
                matches[listed] = match
            if before and before.identity != match.identity and (before.how == how or GUESS in (before.how, how)):
                shared[listed] = before, match
        if any(match.how < BELOW for match in matches.values()):  # so listed names are not relative to a folder below
            matches = {listed: match for listed, match in matches.items() if match.how != BELOW}
        for listed, (one, other) in shared.items():
            if GUESS in (one.how, other.how) or (listed in matches and one.how == matches[listed].how):
                raise self._shared(listed, one.image, other.image)
        by_image: dict[str, str] = {}
        for listed, match in matches.items():
            by_image.setdefault(match.identity, listed)
        return by_image

    def _find(self, name: str, uri: str) -> tuple[int, str | None]:
        """How an image is listed, and as what; uri: its file, "" inside a tar."""
        stored = self._stored
        names = [(BY_NAME, name), (BY_NAME, uri)]
        if stored.stems:
            names += [(BY_STEM, os.path.splitext(known)[0]) for known in (name, uri)]
        names.append((BELOW, self._prefix + name))
        if stored.stems:
            names.append((BELOW, self._prefix + os.path.splitext(name)[0]))
        for how, known in names:
            if known in stored.sizes:
                return how, known
        guesses = stored.guesses(name) if stored.guesses else ()
        if len(guesses) > 1:
            raise BuildError(
                f"{brief(name)} may be {brief(repr(guesses[0]))} or {brief(repr(guesses[1]))} of {stored.listing}: "
                f"{stored.remedy}"
            )
        return GUESS, next(iter(guesses), None)

    def _shared(self, listed: str, *images: str) -> BuildError:
        what = f"a label file, {brief(listed)}" if self._stored.stems else brief(repr(listed))
        two = " and ".join(brief(image) for image in images)
        return BuildError(f"{two} would share {what} of {self._stored.listing}: {self._stored.remedy}")


def identity(image: PoolImage) -> str:
    """What is the same for an image and its copies: its SHA-256; of one that was not scanned its name."""
    return image.sha256 or image.name


def common_folder(names: Iterable[str]) -> str:
    """The deepest folder that holds all that is named, with a `/` behind it, "" if there is none."""
    folders = [os.path.dirname(name) for name in names]
    if len({folder.startswith("/") for folder in folders}) != 1:
        return ""  # no names, or relative and absolute ones
    folder = os.path.commonpath(folders)
    return f"{folder.rstrip('/')}/" if folder else ""
