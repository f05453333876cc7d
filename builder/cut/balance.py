"""How often each image of a class is written, so that rare classes are seen as often as common ones; keys of copies."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


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


def _chances(keys: Sequence[str], seed: int) -> np.ndarray:
    """A number in [0, 1) for each key; float64 (N,)."""
    drawn = [hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8] for key in keys]
    return np.frombuffer(b"".join(drawn), ">u8").astype(np.float64) / 2**64
