"""How often few images of pixels certify what is not so: Korn and Graubard's test by itself, and with the least number
of units that a step must weigh (builder.evidence.bounds.effective_units).

    python benchmarks/pixels.py [--draws 1500] [--target 0.8] [--delta 0.1] [--seed 0]

Each image has a lognormal number of pixels of a class and, independently, a precision of its own: most images are
nearly right, a few are mostly wrong (Beta), .01 below the target on average. Printed is the share of draws that certify
it.
"""

from __future__ import annotations

import argparse

import numpy as np

from builder.evidence.bounds import effective_units, fewest_units, korn_graubard

IMAGES = (3, 5, 8, 13, 25, 50, 200)
SPREADS = (1.0, 3.0, 10.0)
"""Sums of the Beta distribution's two parameters: the smaller, the more images differ."""


def draw(rng: np.random.Generator, images: int, precision: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Kept and correct pixels of each image, int64 (images,)."""
    kept = np.maximum(1, rng.lognormal(8, 1, images)).astype(np.int64)
    share = rng.beta(precision * spread, (1 - precision) * spread, images)
    return kept, rng.binomial(kept, share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=1500)
    parser.add_argument("--target", type=float, default=0.8)
    parser.add_argument("--delta", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    least = fewest_units(args.target, args.delta)
    print(f"precision {args.target - 0.01:.2f}, target {args.target}, delta {args.delta}, at least {least} units")
    print("images   " + "   ".join(f"spread {s:<4g} plain / ours" for s in SPREADS))
    for images in IMAGES:
        cells = []
        for spread in SPREADS:
            rng = np.random.default_rng([args.seed, images, int(spread * 10)])
            plain = ours = 0
            for _ in range(args.draws):
                kept, correct = draw(rng, images, args.target - 0.01, spread)
                certified = korn_graubard(kept, correct, args.target, args.delta).p_value <= args.delta
                plain += certified
                ours += certified and effective_units(kept) >= least
            cells.append(f"{plain / args.draws:11.3f} / {ours / args.draws:.3f}   ")
        print(f"{images:6d}   " + "   ".join(cells))


if __name__ == "__main__":
    main()
