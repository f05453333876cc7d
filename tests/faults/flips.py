"""Bits flipped in the files of versions: `verify` finds each, and the next command makes nothing else of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.faults.stores import FEW, KINDS, World, flipped, kind_of_file, places, worlds
from tests.faults.verdict import Verdict, judge

ROW = "bit flips in a version, then `verify`"
COUNT = 600
SMALL = 0.007


def inject(folder: Path, share: float) -> Iterator[tuple[str, Verdict, str]]:
    """Flips spread evenly over manifest, claim, shards, labels.parquet, card, report and whatever else versions hold,
    with the files' times set back after all was looked at once."""
    made = 0
    for seed, world in enumerate(worlds(folder, share)):
        for name, bit in places(world, True, round(COUNT * share / (len(KINDS) if share > FEW else 1)), seed):
            made += 1
            with flipped(world, name, bit):
                yield (f"{world.name} {kind_of_file(name)} bit {bit}", *_verdict(world, name, made))


def _verdict(world: World, name: str, made: int) -> tuple[Verdict, str]:
    ref = f"{world.name}@{name.split('/')[2]}"
    ran = world.run("verify", ref)
    verdict = judge(ran, lambda: False)
    if verdict is Verdict.SILENT and ran.code == 0 and world.is_harmless(name):
        verdict = Verdict.HARMLESS
    if not verdict.good:
        return verdict, f"verify {ref}: {ran.stdout[-200:]} {ran.stderr[-400:]}"
    later, detail = world.goes_on([*world.next][made % len(world.next)])
    return (verdict, "") if later.good else (later, detail)
