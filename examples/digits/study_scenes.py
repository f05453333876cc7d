"""Draw the scenes of a study, others than the demo's: 300 labelled ones, of which each seed learns 60 as the demo does,
100 to choose settings on, a pool of 400, and 300 for the figures.

Writes runs/digits-study as examples/digits/scenes.py says; `truth.json` are those to choose on.
"""

from __future__ import annotations

from pathlib import Path

from scenes import Counts, make_scenes

ROOT = Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "runs" / "digits-study"
SEED = 100
"""Beyond those that the demo was tried with."""


def main() -> None:
    counts = Counts(labelled=300, truth=100, pool=400, test=300)
    make_scenes(OUT, counts, SEED)
    print(f"{counts}: {OUT.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
