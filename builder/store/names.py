"""When two names are the same: Unicode writes an é as one character (NFC) or as two (NFD, as macOS does), and tools
disagree. Names are compared as NFC, and files are found by either form."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath


def canonical(name: str) -> str:
    """The form of a name, or of a path, in which it is compared with others."""
    return unicodedata.normalize("NFC", name)


def first_repeated(names: Iterable[str]) -> str | None:
    """The first name that stands twice, in whatever forms."""
    seen: set[str] = set()
    for name in names:
        if canonical(name) in seen:
            return name
        seen.add(canonical(name))
    return None


class Folder:
    """The files below a folder, by the names that labels and lists have for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._inside: dict[str, dict[str, str]] = {}

    def find(self, name: str | PurePath) -> Path | None:
        """The file of this relative path: as written, else in another Unicode form; None if there is none.

        Of two files whose names differ only in their form, only the one that is named as written is found.
        """
        path = self.root / name
        if os.path.isfile(path):
            return path
        if str(path).isascii():
            return None
        place = str(self.root)
        for part in PurePath(name).parts:
            actual = part if os.path.lexists(os.path.join(place, part)) else self._listed(place).get(canonical(part))
            if not actual:
                return None
            place = os.path.join(place, actual)
        return Path(place) if os.path.isfile(place) else None

    def _listed(self, place: str) -> dict[str, str]:
        """What lies in a folder, by its canonical name; "" where two have it."""
        if place not in self._inside:
            try:
                names = os.listdir(place)
            except OSError:
                names = []
            inside: dict[str, str] = {}
            for name in names:
                inside[canonical(name)] = "" if canonical(name) in inside else name
            self._inside[place] = inside
        return self._inside[place]
