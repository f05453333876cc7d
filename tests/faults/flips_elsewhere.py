"""Bits flipped in pools, predictions, reviews and all else of a store that is no version: `fsck` finds each, and the
next build, cut or look is refused or gives what it gave before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.faults.stores import FEW, KINDS, World, flipped, kind_of_file, places, worlds
from tests.faults.verdict import Verdict, judge

ROW = "bit flips elsewhere in the store, then the next build"
COUNT = 500
SMALL = 0.007


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Flips spread evenly over the kinds of files, with the files' times set back after all was looked at once."""
    made = 0
    for seed, world in enumerate(worlds(folder, share)):
        for name, bit in places(world, False, round(COUNT * share / (len(KINDS) if share > FEW else 1)), 10 + seed):
            made += 1
            with flipped(world, name, bit):
                yield (f"{world.name} {kind_of_file(name)} bit {bit}", *_verdict(world, name, made))


def _verdict(world: World, name: str, made: int) -> tuple[Verdict, str]:
    ran = world.run("fsck")
    found = judge(ran, lambda: False)
    if found is Verdict.SILENT and ran.code == 0 and world.is_harmless(name):
        found = Verdict.HARMLESS
    if not found.good:
        return found, f"fsck: {ran.stdout[-200:]} {ran.stderr[-400:]}"
    return world.goes_on([*world.next][made % len(world.next)])
