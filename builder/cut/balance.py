"""How often each image of a class is written, so that rare classes are seen as often as common ones; keys of copies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from builder.rules.objects import Decision
from builder.rules.overruling import Overruled
from builder.rules.reasons import DROPPED, KEPT, Reason

MOST = 1000
"""Samples that one image may become."""


def copies(
    label: np.ndarray, keys: Sequence[str], images: int, seed: int = 0, count: np.ndarray | None = None
) -> np.ndarray:
    """Noisy Student's balance (arXiv 1911.04252, section 3.1) of kept image classes: int64 (N,), 0 for an image that is
    thinned out.

    label: int (N,), at least 0; keys: of the N images; count: int (C,), the images of each class, where there are more
    of them than these. Each of a class with n images is written images / n times: the
    whole part for certain, and once more with the probability of the rest, so that a class has `images` in expectation.
    Chance is a hash of key and seed: it is the same in any order, and an image of one class does not depend on those of
    others. (The paper takes the most confident of a class with too many; here any may stay, as it also allows.)
    """
    count = np.bincount(label) if count is None else count
    share = images / np.maximum(count, 1)[label]
    whole = np.floor(share)
    return (whole + (_chances(keys, seed) < share - whole)).astype(np.int64)


def balanced(
    made: Overruled, keys: Sequence[str], wanted: int, count: Sequence[int]
) -> tuple[Overruled, dict[int, int]]:
    """Noisy Student's balance (`copies`): objects of classes with too many images thinned out, and, by
    position of the image, how many samples it becomes where that is not one. keys: of the images; count: images
    kept of each class. What people decided is never thinned."""
    decision = made.decision
    rows = np.flatnonzero(decision.outcome == KEPT)
    shown = [keys[n] for n in made.objects.image[rows]]
    number = copies(made.objects.label[rows], shown, wanted, count=np.maximum(count, 1)).clip(0, MOST)
    number = np.maximum(number, made.human[rows])
    outcome, reason = decision.outcome.copy(), decision.reason.copy()
    gone = rows[number == 0]
    outcome[gone], reason[gone] = DROPPED, Reason.THINNED
    places = made.objects.image[rows].tolist()
    repeats = {n: k for n, k in zip(places, number.tolist(), strict=True) if k > 1}
    return replace(made, decision=Decision(outcome, reason)), repeats


def _chances(keys: Sequence[str], seed: int) -> np.ndarray:
    """A number in [0, 1) for each key; float64 (N,)."""
    drawn = [hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8] for key in keys]
    return np.frombuffer(b"".join(drawn), ">u8").astype(np.float64) / 2**64
