"""The teacher's classes made ours: which become which, which are dropped, and which are ignore regions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from builder.errors import BuildError
from builder.sections import Section

ASIDE = -1
"""The label of an object whose class the version does not have."""
Names = Annotated[tuple[str, ...], AfterValidator(lambda names: tuple(sorted(names)))]


@dataclass(frozen=True)
class Mapped:
    """A class map over a teacher's T classes.

    classes: the version's, C names in the order in which the teacher's first become them. label: int16 (T,), positions
    in `classes`, ASIDE for classes that are dropped or ignored. ignored: bool (T,), which of those become ignore
    regions. unnamed: classes of the teacher that the map does not name.
    """

    teacher: tuple[str, ...]
    classes: tuple[str, ...]
    label: np.ndarray
    ignored: np.ndarray
    unnamed: tuple[str, ...] = ()

    @property
    def merges(self) -> bool:
        """Whether several of the teacher's classes become one."""
        return len(self.classes) < int((self.label != ASIDE).sum())

    def merged(self, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The likeliest class of each image once the probabilities (N, T) of classes that become one are added up:
        label int16 (N,), ASIDE where a class that is set aside is likelier; its probability float32 (N,); the likeliest
        of the teacher's classes in it, int16 (N,). Equal ones: the first."""
        count = len(self.classes)
        aside = self.label == ASIDE
        group = np.where(aside, count + np.cumsum(aside) - 1, self.label)
        total = np.zeros((count + int(aside.sum()), len(probabilities)))
        np.add.at(total, group, probabilities.T.astype(np.float64))  # one after the other: the same whatever N
        best = total.argmax(axis=0)
        likeliest = np.where(group[None] == best[:, None], probabilities, -1).argmax(axis=1)
        score = total.max(axis=0, initial=0).clip(0, 1).astype(np.float32)
        return np.where(best < count, best, ASIDE).astype(np.int16), score, likeliest.astype(np.int16)


class ClassMap(Section):
    """`keep.classes`: the first of the rules.

    map: class of the teacher → class of the version; several may become one. drop: as if the teacher did not know them.
    ignore: its objects become ignore regions. others: what becomes of classes named nowhere, not even as what another
    becomes; by default they are kept under their own names, and reported.
    """

    map: dict[str, str] = Field(default_factory=dict)
    drop: Names = ()
    ignore: Names = ()
    others: Literal["keep", "drop", "ignore"] | None = None

    @model_validator(mode="after")
    def _each_once(self) -> ClassMap:
        twice = [name for name, count in Counter([*self.map, *self.drop, *self.ignore]).items() if count > 1]
        if twice:
            raise ValueError(f"class {twice[0]!r} stands twice in map, drop and ignore: keep one")
        if nameless := [name for name, ours in self.map.items() if not ours.strip()]:
            raise ValueError(f"class {nameless[0]!r} becomes a class without a name: write one, or drop it")
        return self

    def over(self, teacher: Sequence[str]) -> Mapped:
        """The map over a teacher's classes. Raises BuildError for a name that the teacher does not have, and if no
        class is left."""
        named = {*self.map, *self.drop, *self.ignore}
        if unknown := sorted(named - {*teacher}):
            known = f"{', '.join(teacher[:12])}{', …' if len(teacher) > 12 else ''}"
            raise BuildError(
                f"keep.classes names {unknown[0]!r}, which is no class of the teacher: its classes are {known}"
            )
        named |= {*self.map.values()}  # one that others become is no other class
        unnamed = tuple(name for name in teacher if name not in named)
        lost = {*self.drop, *self.ignore, *(unnamed if self.others in ("drop", "ignore") else ())}
        ignored = {*self.ignore, *(unnamed if self.others == "ignore" else ())}
        place: dict[str, int] = {}
        label = [ASIDE if name in lost else place.setdefault(self.map.get(name, name), len(place)) for name in teacher]
        if not place:
            raise BuildError("keep.classes drops or ignores every class of the teacher: keep or map at least one")
        return Mapped(
            tuple(teacher),
            tuple(place),
            np.array(label, np.int16),
            np.array([name in ignored for name in teacher], bool),
            unnamed,
        )
