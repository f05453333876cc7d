"""`build-pseudo --dry-run`: whether a recipe would run, and what it would take; nothing is written."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.cut.parent import find_parent
from builder.errors import BuildError
from builder.evidence.matching import shared_classes
from builder.evidence.on_truth import check_split
from builder.label.labeller import Labeller
from builder.label.labelling import count_pending
from builder.label.load import load_labeller
from builder.label.model import ModelLabeller
from builder.recipe.recipe import Recipe
from builder.rules.keep import version_classes
from builder.rules.limits import per_class
from builder.scan.entries import Entry, read_entry
from builder.store.store import Store, check_store
from builder.truth.read import read_section
from builder.truth.records import Truth
from teachers.base import Kind
from teachers.images import ImageError, decode_rgb

PROBE = 8
"""Images that the teacher labels to see how long it takes."""


@dataclass(frozen=True)
class Foresight:
    """What a build would find and take.

    kind, classes: what the version would hold. images, bytes: of the pool; new: those of them that no scan has seen.
    unlabelled: images of the pool that the teacher would label; seconds: about how long that takes here.
    labels: labelled images of each set of human labels. free: bytes on the store's disk; needed: of a new version.
    """

    kind: str
    classes: tuple[str, ...]
    images: int
    bytes: int
    new: int
    unlabelled: int
    seconds: float
    labels: Mapping[str, int]
    free: int
    needed: int


def foresee(
    recipe: Recipe,
    store: Store,
    *,
    root: Path | str = Path(),
    workers: int | None = None,
    allow_code: bool = False,
) -> Foresight:
    """Look whether a recipe would run, and what it would take, without writing anything.

    The pool is listed, not read; the human labels are read, the teacher is loaded, and labels a few images where some
    need it. Labels' own images, which it would label too, are not counted.

    Args:
        recipe: as written.
        store: looked into; it need not exist.
        root: the folder that the recipe's paths are relative to.
        workers: threads; None for one a core.
        allow_code: see teachers.load_teacher.

    Returns:
        What was seen.

    Raises:
        BuildError: for a pool, labels or a parent that are not there, classes that do not fit one another, and a disk
            that is too small.
        TeacherError: the teacher cannot be loaded, or fails.
        TypeError: for a path in place of a recipe or a store.
    """
    if not isinstance(recipe, Recipe):
        raise TypeError(f"{recipe!r} is no Recipe: give a Recipe: load_recipe(PATH)")
    check_store(store)
    rooted = recipe.rooted(Path(root))
    found = rooted.pool.foresee(store, PROBE)
    if recipe.parent:
        find_parent(recipe.parent, store)
    truths = {part: read_section(options, part) for part, options in rooted.references.items()}
    labeller = load_labeller(rooted.teacher, workers, allow_code, recipe.images.reading)
    classes = version_classes(recipe.keep, labeller.description)
    for name in ("score", "ignore"):
        per_class(getattr(recipe.keep, name) or 0.0, classes, name)
    if "truth" in truths:
        _check_truth(recipe, rooted, truths["truth"], classes, labeller.description["kind"])
    unlabelled = found.unread
    if found.before is not None:
        unlabelled = min(found.images, found.unread + count_pending(found.before, labeller, store).images)
    seconds = _seconds(labeller, found.first) * unlabelled if unlabelled else 0.0
    free = shutil.disk_usage(_existing(store.root)).free
    if found.bytes > free:
        raise BuildError(
            f"a version of {found.images} images needs about {found.bytes / 1e9:.1f} GB, and {store.root} has "
            f"{free / 1e9:.1f} GB left: make room, or give another store"
        )
    return Foresight(
        kind=labeller.description["kind"],
        classes=classes,
        images=found.images,
        bytes=found.bytes,
        new=found.unread,
        unlabelled=unlabelled,
        seconds=seconds,
        labels={part: len(truth.images) for part, truth in truths.items()},
        free=free,
        needed=found.bytes,
    )


def _check_truth(recipe: Recipe, rooted: Recipe, truth: Truth, classes: Sequence[str], kind: Kind) -> None:
    """Whether held-out labels know the teacher's classes, and are a split that may certify; those that alone certify
    are read, too."""
    shared_classes(classes, truth, kind)
    certifies = recipe.keep.precision is not None and (recipe.parent is None or recipe.resolve)
    assert recipe.truth and rooted.truth
    if (fresh := rooted.truth.certifying) and recipe.truth.certify:
        check_split(read_section(fresh, "truth").split, recipe.truth.certify.source, fresh, certifies)
        certifies = False
    check_split(truth.split, recipe.truth.source, recipe.truth, certifies)


def _seconds(labeller: Labeller, first: Sequence[Entry]) -> float:
    """Seconds that the teacher takes for an image, decoding included, by these; 0 for stored predictions."""
    if not isinstance(labeller, ModelLabeller):
        return 0.0
    took = []
    for _ in range(2):  # the first time is slower
        begin, images = time.perf_counter(), []
        for entry in first:
            try:
                images.append(decode_rgb(read_entry(entry), reading=labeller.reading))
            except (OSError, ImageError):
                continue  # the build counts it
        for start in range(0, len(images), labeller.teacher.batch_size):
            labeller.teacher.predict(images[start : start + labeller.teacher.batch_size])
        took.append((time.perf_counter() - begin) / max(1, len(images)))
    return min(took)


def _existing(path: Path) -> Path:
    """A folder that is there: this, or the first above it."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.is_dir())
