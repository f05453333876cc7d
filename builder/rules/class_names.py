"""Class names of two sides, say of a teacher and of labels, that are matched by name: which match, and which should."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

SYNONYMS = (
    ("aeroplane", "airplane", "plane"),
    ("bicycle", "bike", "cyclist"),
    ("car", "automobile"),
    ("cell phone", "mobile phone", "mobile", "phone"),
    ("couch", "sofa"),
    ("cow", "cattle"),
    ("dining table", "table"),
    ("donut", "doughnut"),
    ("hair drier", "hair dryer"),
    ("motorbike", "motorcycle", "motor"),
    ("person", "people", "pedestrian", "human"),
    ("potted plant", "plant", "houseplant"),
    ("refrigerator", "fridge"),
    ("remote", "remote control"),
    ("truck", "lorry"),
    ("tv", "tv monitor", "television", "monitor"),
)
"""Names of one thing in COCO, Pascal VOC, darknet, Open Images and the like."""
ALIKE = 0.85
"""difflib's ratio from which on two names may be one, misspelt."""
MANY = 4
"""Names of one sort that a sentence lists."""


@dataclass(frozen=True)
class ClassNames:
    """The names of two sides. shared: on both. partners: of ours, on one side alone -> a name of theirs, on the other
    alone, that may mean the same. ours, theirs: the other names of one side alone."""

    shared: tuple[str, ...]
    partners: tuple[tuple[str, str], ...]
    ours: tuple[str, ...]
    theirs: tuple[str, ...]

    @property
    def worth_a_word(self) -> bool:
        """Whether somebody may want to change a name: one has a likely partner, or something of theirs has none."""
        return bool(self.partners or self.theirs)

    def sentence(self, whose: str, nowhere: str, theirs: str, way_on: str) -> str:
        """One sentence; "" where it is not worth a word.

        Args:
            whose: our side, in the genitive: `the teacher's`.
            nowhere: where our names are not: `in no label`.
            theirs: what their names alone are: `labels that no prediction can match`.
            way_on: what to do about partners.
        """
        if not self.worth_a_word:
            return ""
        parts = []
        if self.partners:
            asked = [f"{ours!r} (did you mean {other!r}?)" for ours, other in self.partners]
            parts.append(f"{whose} {listed(asked, 2 * MANY)} {_be(asked)} {nowhere}: {way_on}")
        if self.theirs:
            parts.append(f"{theirs}: {listed(map(repr, self.theirs))}")
        if self.ours:
            parts.append(f"{whose} {listed(map(repr, self.ours))} {_be(self.ours)} {nowhere}{', too' * bool(parts)}")
        return "; ".join(parts)


def compare_names(ours: Sequence[str], theirs: Sequence[str], occurring: Iterable[str] | None = None) -> ClassNames:
    """Compare names as they are matched: to the letter. occurring: those of theirs that something has; all if None."""
    known, taken = set(theirs), set(ours)
    matter = known if occurring is None else set(occurring)
    left = [name for name in theirs if name not in taken]
    partners = {}
    for name in ours:
        if name not in known and (other := likely_partner(name, left)):
            partners[name] = other
    return ClassNames(
        tuple(name for name in ours if name in known),
        tuple(partners.items()),
        tuple(name for name in ours if name not in known and name not in partners),
        tuple(name for name in left if name in matter and name not in partners.values()),
    )


def likely_partner(name: str, others: Sequence[str]) -> str | None:
    """The name among these that may mean the same: spelt with other blanks, case or number, a synonym, or misspelt."""
    plain = {_plain(other): other for other in reversed(others)}
    for spelling in dict.fromkeys((_plain(name), *_synonyms(_plain(name)))):
        if spelling in plain:
            return plain[spelling]
    numbered = [other for other in plain if re.findall(r"\d+", other) == re.findall(r"\d+", _plain(name))]
    close = get_close_matches(_plain(name), numbered, n=1, cutoff=ALIKE)
    return plain[close[0]] if close else None


def listed(names: Iterable[str], most: int = MANY) -> str:
    """The first of these, and how many more there are."""
    names = list(names)
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _synonyms(plain: str) -> list[str]:
    groups = [[_plain(word) for word in group] for group in SYNONYMS]
    return [word for group in groups if plain in group for word in group]


def _plain(name: str) -> str:
    """Without case, blanks and signs, in the singular."""
    letters = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())
    plural = re.search(r"ies$|(?<=ch|sh|ss|us)es$|(?<=x)es$|(?<![sui])s$", letters)
    if plural is None or plural.start() < 2:
        return letters
    return letters[: plural.start()] + "y" * (plural[0] == "ies")
