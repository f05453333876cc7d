"""The uses of the certify half: each set of tests on it is counted, since only the first can be believed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from builder.errors import BuildError
from builder.rules.calibrator import Calibrator
from builder.rules.keep import Keep
from builder.rules.scores import PoolScores
from builder.store.files import canonical_json, digest, locked, read_stored, sync_folder, write_file
from builder.store.store import Store

IMAGES = "images.json"
TESTED = ("target", "iou", "delta", "over", "family", "bound")
"""Keys of `keep.precision` that say what is tested; what becomes of classes that fail is no part of it."""


def use_of(
    certify: str, predictions: str, pool: str, scores: PoolScores, keep: Keep, calibration: Calibrator | None
) -> str:
    """The digest of all that fixes the tests that `keep.precision` makes: the same again is the same use, whatever is
    done with its outcome.

    certify: digest of the certify half's images and labels (Halves.digest); predictions: the teacher's fingerprint;
    pool: digest of its usable images, on which bets look image by image.
    """
    tested = keep.precision.model_dump(include=set(TESTED)) if keep.precision else {}
    prefix = keep.model_dump(include={"classes", "nms", "max_per_image"})
    exact = pool if tested.get("bound") == "exact" else ""
    fitted = calibration.model_dump() if calibration else None
    return digest([certify, predictions, scores.digest, exact, prefix, fitted, tested])


def count_use(store: Store, images: Collection[str], use: str) -> int:
    """Note, durably, that a use looks at the labelled images of these SHA-256, and return how many uses so far, this
    one included, looked at any of them. use: 64 hex digits; the same ones again are the same use.

    `certify/DIGEST/` holds the list of images that DIGEST is of, and an empty file for each use of just those. A use is
    written before others are counted, so that of two at a time that overlap at least one sees both.
    """
    mine = sorted(set(images))
    root = store.root / "certify"
    half = root / digest(mine)
    with locked(half / ".lock", "the uses of the certify half", sweep=[half], wait=True):
        if not (half / IMAGES).exists():
            write_file(half / IMAGES, canonical_json(mine))
        if not (half / use).exists():
            write_file(half / use, b"")
        sync_folder(root)
    seen = [path.parent for path in root.glob(f"*/{IMAGES}") if not _listed(path).isdisjoint(mine)]
    return len({other for folder in seen for other in store.ids(folder)})


def _listed(path: Path) -> set[str]:
    """The images of a half. Raises BuildError if the list is not the one that its folder is named after."""
    try:
        listed = read_stored(path)
        if digest(listed) == path.parent.name:
            return set(listed)
    except (OSError, ValueError):
        pass
    raise BuildError(
        f"{path} is damaged, and uses of the labels are counted by it: run `tutelage fsck --repair`, or restore it"
    )
