"""The images of a study: scanned, told apart, and each replicate's share of the labelled ones written as labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from builder.engine import Track, silent
from builder.evidence.holdout import Labels, load_labels
from builder.scan.duplicates import shared
from builder.scan.leaks import leaks
from builder.scan.pool import Pool
from builder.store.files import canonical_json, digest, new_folder
from builder.store.store import Store
from builder.truth.masks import read_mask
from builder.truth.options import Part
from builder.truth.read import read_section
from builder.truth.records import LabelledImage, Truth, TruthError, TruthKind
from students.study.kinds.choose import study_kind
from students.study.recipe import WITH_FOLDS, LabelSet, StudyRecipe
from teachers.base import VOID
from teachers.networks.meta import read_meta
from teachers.networks.weights import pretrained_on

POOL = "pool.json"
ALIKE = "alike.json"
"""In a study's folder: what `likenesses` found."""
PARTS: dict[str, Part] = {"labelled": "labelled", "val": "truth", "test": "test"}
"""A set of a study -> the split that is meant where its section names none."""
DISTANCE = 40
"""Of 128 bits of two images' hashes, in which they differ at most to be compared closely, as in a build."""


@dataclass(frozen=True)
class Data:
    """What a study's sets hold, all scanned; None for a set that it has not."""

    labelled: Labels
    measured: Labels
    pool: Pool | None
    pool_truth: Labels | None
    others: tuple[Labels, ...]
    solved_on: Labels | None


def load_data(study: StudyRecipe, store: Store, workers: int | None = None, track: Track = silent) -> Data:
    """Scan the sets of a study into its store. Raises BuildError if two of labelled, val, test, pool and the others
    share an image (byte for byte), the sets are of several kinds, or the pool's labels are not of all its images."""

    def labels(section: LabelSet, part: Part) -> Labels:
        return load_labels(section.options, store, written=str(section.path), part=part, workers=workers, track=track)

    sets = {name: labels(section, part) for name, part in PARTS.items() if (section := getattr(study, name))}
    pool = study.pool.scan(store, workers=workers, track=track) if study.pool else None
    others = tuple(labels(section, "labelled") for section in study.others)
    pool_truth = labels(study.pool_truth, "labelled") if study.pool_truth else None
    pools = {name: labels_of.pool for name, labels_of in sets.items()} | ({"pool": pool} if pool else {})
    pools |= {f"others[{number}]": labels_of.pool for number, labels_of in enumerate(others)}
    check_apart(pools)
    solved_on = labels(study.build.truth, "truth") if study.build.truth else None
    if solved_on:
        check_apart({name: other for name, other in pools.items() if name != "val"} | {"build.truth": solved_on.pool})
    named = sets | {f"others[{number}]": other for number, other in enumerate(others)}
    _check_kinds({name: labels_of.truth for name, labels_of in named.items()})
    if pool and pool_truth:
        pairs(pool, pool_truth)
    _check_starts(study, sets[study.measure].pool)
    return Data(sets["labelled"], sets[study.measure], pool, pool_truth, others, solved_on)


def read_sets(study: StudyRecipe) -> dict[str, Truth]:
    """The labels of a study's sets, read and held against one another, but not scanned: what a dry run can know. Raises
    TruthError for one that cannot be read, or is of another kind than the labelled images."""
    sets = {name: read_section(s.options, part) for name, part in PARTS.items() if (s := getattr(study, name))}
    sets |= {f"others[{n}]": read_section(section.options, "labelled") for n, section in enumerate(study.others)}
    _check_kinds(sets)
    if study.pool_truth:
        read_section(study.pool_truth.options, "labelled")
    if study.build.truth:
        read_section(study.build.truth.options, "truth")
    return sets


def _check_kinds(sets: dict[str, Truth]) -> None:
    for name, truth in sets.items():
        if truth.kind != sets["labelled"].kind:
            raise TruthError(f"{name} holds {truth.kind} labels, but labelled {sets['labelled'].kind}")


def _check_starts(study: StudyRecipe, measured: Pool) -> None:
    """Raises TruthError if weights that networks begin with have learned from images they are measured on."""
    for name, start in study.grid.init.items():
        seen = set(read_meta(start.checkpoint).trained_on if start.checkpoint else pretrained_on(start.pretrained))
        if common := [image.name for image in measured.images() if image.sha256 in seen]:
            raise TruthError(
                f"grid.init.{name} has learned from {len(common)} images of {study.measure}, {common[0]!r} first: "
                "begin with weights that have not"
            )


def likenesses(study: StudyRecipe, data: Data) -> list[str]:
    """A sentence for each image learned from that looks like one measured on; equal ones are no study at all."""
    learned = [data.labelled.pool, *([data.pool] if data.pool else []), *(other.pool for other in data.others)]
    measured: dict[str, Pool] = {study.measure: data.measured.pool}
    return [sentence for pool in learned for sentence in leaks(pool, measured, DISTANCE).images.values()]


def check_apart(pools: dict[str, Pool]) -> None:
    """Raises TruthError if two of these, by name, share an image."""
    if common := shared(pools):
        listed = "; ".join(common[:3])
        raise TruthError(f"{len(common)} images are in two of {', '.join(pools)}: keep each in one ({listed})")


def nested(truth: Truth, fraction: float, seed: int) -> Truth:
    """This share of the images (at least one), in file order. With the same seed a smaller share is part of every
    larger one, whatever the order of the file; of each stratum (`strata`) any share holds its part, but for one image.
    """
    digests, place = _digests(truth, seed), np.empty(len(truth.images))
    for members in _shuffled_strata(truth, digests):
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = sorted(range(len(digests)), key=lambda n: (place[n], digests[n]))
    chosen = sorted(order[: _count(fraction, len(order))])
    return replace(truth, images=[truth.images[n] for n in chosen])


def fold(truth: Truth, number: int, folds: int, seed: int) -> tuple[Truth, Truth]:
    """Fold `number`, from 1, of so many, and all other images, each in file order: every image is in one fold, whatever
    the order of the file, and folds have equal parts of each stratum (`strata`) and of the whole, but for one image."""
    dealt = [n for members in _shuffled_strata(truth, _digests(truth, seed)) for n in members]
    mine = set(dealt[number - 1 :: folds])
    inside, outside = ([image for n, image in enumerate(truth.images) if (n in mine) is side] for side in (True, False))
    return replace(truth, images=inside), replace(truth, images=outside)


def check_folds(study: StudyRecipe, images: int) -> None:
    """Raises TruthError if a share of so many labelled images has fewer than there are folds, where arms need these."""
    folds = study.teacher.folds
    for fraction in study.grid.fractions if WITH_FOLDS.intersection(study.grid.arms) else ():
        if (count := _count(fraction, images)) < folds:
            raise TruthError(
                f"the share {fraction:g} of the labels has {count} images, so that one of {folds} folds would have "
                "none: lower teacher.folds, take a larger fraction, or leave out the arm doubly-robust"
            )


def _count(fraction: float, images: int) -> int:
    """How many images this share of so many has."""
    return max(1, round(fraction * images))


def _digests(truth: Truth, seed: int) -> list[str]:
    """What orders the images at random."""
    return [hashlib.sha256(f"{seed}:{image.name}".encode()).hexdigest() for image in truth.images]


def _shuffled_strata(truth: Truth, digests: Sequence[str]) -> list[list[int]]:
    """The images of each stratum, in the order of their digests."""
    groups = strata(truth)
    return [sorted(np.flatnonzero(groups == group).tolist(), key=digests.__getitem__) for group in np.unique(groups)]


def strata(truth: Truth) -> np.ndarray:
    """What each image is counted as when a share is drawn, int64 (N,): its class; of images that show several, the one
    that is on the fewest images of the set; -1 without any."""
    shown = [_shown(image, len(truth.classes)) for image in truth.images]
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *shown]), minlength=len(truth.classes))
    return np.array([min(classes.tolist(), key=lambda n: (counts[n], n), default=-1) for classes in shown], np.int64)


def _shown(image: LabelledImage, classes: int) -> np.ndarray:
    """The classes on an image, each once, int64."""
    if image.mask is not None:
        present = np.unique(read_mask(image, classes))
        return present[present != VOID].astype(np.int64)
    labels = [] if image.label is None else [image.label]
    return np.unique(np.array([*image.labels.tolist(), *labels], np.int64))


def read_labelled(section: LabelSet, outlines: bool = False, part: Part = "labelled") -> Truth:
    """The labels of a set. part: what they are for."""
    return read_section(section.options, part, outlines)


def label_name(study: StudyRecipe, labels: Labels) -> str:
    """A name for what a study reads of a labelled set, as a part of file names."""
    return digest([labels.digest, study.outlines])[:16]


def subset_folder(out: Path, labelled: str, fraction: float, seed: int) -> Path:
    """Where a replicate's share of the labelled set of this name (`label_name`) lies, in a study's folder."""
    return out / "subsets" / f"{labelled}-{seed}-{fraction:g}"


def fold_folders(out: Path, labelled: str, fraction: float, seed: int, number: int, folds: int) -> tuple[Path, Path]:
    """Where a fold of a replicate's share lies, and where the share without it."""
    share = subset_folder(out, labelled, fraction, seed)
    inside, outside = (share.with_name(f"{share.name}-{name}-{number}-of-{folds}") for name in ("fold", "without"))
    return inside, outside


def write_subset(whole: Truth, choose: Callable[[], Truth], folder: Path) -> None:
    """Some images of a set as labels that `subset_labels` finds: a COCO JSON, a table or a folder of masks, and a
    listing as a pool. Image files stay where they are. Where the folder is there, nothing is done."""
    if folder.is_dir():
        return
    root, part = image_root(whole), choose()
    names = [os.path.relpath(image.path.absolute(), root) for image in part.images]
    with new_folder(folder) as new:
        listing = [{"file_name": name} for name in names]
        (new / POOL).write_bytes(canonical_json({"images": listing}))
        study_kind(whole.kind).write_labels(new, part, names)


def subset_labels(folder: Path, kind: TruthKind) -> Path:
    """The labels that `write_subset` wrote."""
    return folder / study_kind(kind).labels


def image_root(truth: Truth) -> Path:
    """The folder that all image files lie below."""
    return Path(os.path.commonpath([image.path.absolute().parent for image in truth.images]))


def pairs(pool: Pool, labels: Labels) -> list[tuple[LabelledImage, str]]:
    """The labelled images that are in the pool, and their names there. Raises TruthError if the pool has others."""
    shas = {image.name: image.sha256 for image in labels.pool.images()}
    labelled = {shas[image.name]: image for image in labels.truth.images}
    named = [(image.sha256, image.name) for image in pool.images() if image.chunk >= 0]
    if missing := [name for sha, name in named if sha not in labelled]:
        raise TruthError(
            f"pool_truth lacks {len(missing)} of the pool's {len(named)} images, {missing[0]!r} first: "
            "give labels of all, or a smaller pool"
        )
    return [(labelled[sha], name) for sha, name in named]
