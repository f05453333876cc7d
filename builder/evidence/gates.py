"""What must hold before anything of a version is written: leaks, overlap with the teacher, density, coverage, shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from builder.errors import BuildError
from builder.evidence.claims import Claims
from builder.evidence.estimate import shift as measure_shift
from builder.evidence.matching import names_sentence
from builder.kinds import DETECTION, LabelKind
from builder.rules.scores import PoolSample
from builder.sections import Section
from builder.store.provenance import Finding
from builder.truth.records import Truth
from builder.words import percent

Level = Annotated[
    Literal["off", "warn", "fail"],
    BeforeValidator(lambda value: "off" if value is False else value),  # YAML reads a bare `off` as false
]
FEW = 10
"""Labelled objects of a class below which its density is not compared."""
MANY = 0.01
"""Share of the labelled objects from which on it is said what becomes of a class that is not kept."""


class Density(Section):
    """Kept boxes per image of a class against the labels', as a ratio of either to the other. null: never."""

    warn: Annotated[float, Field(gt=1)] | None = 2.0
    fail: Annotated[float, Field(gt=1)] | None = None


class Gates(Section):
    """The `gates` section of a recipe.

    on_leak: what becomes of pool images that are also in labelled, truth or test: left out and listed, or a failure.
    leak_distance: bits of 128 in which the hashes of two images may differ that are compared more closely, to see
    whether they are the same picture (builder.scan.leaks); null: equal bytes only.
    teacher_overlap: truth or test images that the teacher was trained on. density: see Density. min_precision: lowest
    precision that every class with kept boxes must be certified for, by itself (keep.precision.over: class); a warning
    where rules after the threshold, which no certificate covers, refuse some. coverage: a class of which nothing is
    kept.
    shift: the teacher's predictions on the labelled images are unlike those on the pool.
    """

    on_leak: Literal["drop", "fail"] = "drop"
    leak_distance: Annotated[int, Field(ge=0, le=64)] | None = 40
    teacher_overlap: Level = "fail"
    density: Density = Density()
    min_precision: Annotated[float, Field(gt=0, lt=1)] | None = None
    coverage: Level = "warn"
    shift: Level = "warn"


class GateFailed(BuildError):
    """A version that may not be. Nothing of it was written."""


def stop_at_failure(findings: Sequence[Finding]) -> None:
    """Raise GateFailed, naming every gate that failed."""
    failed = [finding for finding in findings if finding.status == "fail"]
    if failed:
        raise GateFailed("; ".join(f"gate {finding.name} failed: {finding.message}" for finding in failed))


def leak(gates: Gates, leaked: Mapping[str, str], note: str = "") -> Finding:
    """leaked: SHA-256 -> sentence. note: what was found out about the labelled images."""
    if not leaked:
        return Finding("leak", "ok", "no image of the pool is also in labelled, truth or test")
    status = "fail" if gates.on_leak == "fail" else "warn"
    listed = "; ".join([*leaked.values()][:5]) + ("; …" if len(leaked) > 5 else "")
    did = "leave them out with gates.on_leak: drop" if status == "fail" else "left out"
    also = "image of the pool is" if len(leaked) == 1 else "images of the pool are"
    text = f"{len(leaked)} {also} also in labelled, truth or test: {did} ({listed})"
    if any("looks like" in sentence for sentence in leaked.values()):
        text += "; if those that look alike are not the same, lower gates.leak_distance (null: equal bytes only)"
    return Finding("leak", status, f"{text}; {note}" if note else text)


def teacher_overlap(gates: Gates, seen: Mapping[str, Sequence[str]]) -> Finding | None:
    """seen: truth or test -> names of its images that the teacher was trained on."""
    if gates.teacher_overlap == "off":
        return None
    hit = {what: names for what, names in seen.items() if names}
    if not hit:
        return Finding("teacher_overlap", "ok", "the teacher's record names no image of truth or test")
    listed = ", ".join(f"{len(names)} of {what} ({names[0]} first)" for what, names in hit.items())
    advice = "take them out of the labels, or say gates.teacher_overlap: warn"
    return Finding("teacher_overlap", gates.teacher_overlap, f"the teacher was trained on images of {listed}: {advice}")


def unmapped(names: Sequence[str], others: str | None, classes: int) -> Finding:
    """names: the teacher's classes, of so many, that `keep.classes` does not name; others: what it says of them."""
    if not names:
        return Finding("classes", "ok", f"keep.classes names all {classes} classes of the teacher")
    did = {"drop": "dropped", "ignore": "made ignore regions"}.get(others or "keep", "kept under their own names")
    stated = f"{len(names)} of the teacher's {classes} classes are not named and {did} ({_listed(names)})"
    advice = "" if others else ": name them, or say with keep.classes.others what becomes of them"
    return Finding("classes", "ok" if others else "warn", f"{stated}{advice}")


def names(classes: Sequence[str], truth: Truth) -> Finding | None:
    """Classes that are matched with the labels by name, and whose names probably should match and do not."""
    told = names_sentence(classes, truth)
    return Finding("class_names", "warn", told) if told else None


def density(
    gates: Gates,
    classes: Sequence[str],
    kept: np.ndarray,
    images: int,
    per_image: np.ndarray,
    support: np.ndarray,
    noun: str = "boxes",
    size: float | None = None,
) -> Finding | None:
    """kept: int (C,) boxes on `images` pool images; per_image: float (C,), NaN where unknown, of `support` objects.
    noun: what these are (LabelKind.noun). size: of maps, the pixels of an image, of which they are told as shares.
    """
    limits = [limit for limit in (gates.density.warn, gates.density.fail) if limit is not None]
    if not limits or not images:
        return None
    compared = np.flatnonzero((support >= FEW) & (per_image > 0))
    ours = np.maximum(kept[compared], 0.5) / images
    ratio = np.maximum(ours / per_image[compared], per_image[compared] / ours)
    far = compared[ratio > min(limits)]
    if not len(far):
        return Finding("density", "ok", f"{noun} per image within a factor of {min(limits):g} of the labels'")
    fail = gates.density.fail is not None and bool((ratio > gates.density.fail).any())
    worst = far[np.argsort(-ratio[np.isin(compared, far)], kind="stable")]

    def stated_as(number: float) -> str:
        return f"{number:.2f} per image" if size is None else f"{percent(number / size)} of the pixels"

    listed = "; ".join(
        f"{classes[c]} {stated_as(kept[c] / images)}, {stated_as(per_image[c])} in the labels" for c in worst[:5]
    )
    more = "; …" if len(worst) > 5 else ""
    return Finding("density", "fail" if fail else "warn", f"not as densely kept as in the labels: {listed}{more}")


def min_precision(gates: Gates, claims: Claims, refused: int, noun: str = "boxes") -> Finding | None:
    """Whether each class of which something is kept is certified by itself: what was certified of a group of several
    says nothing of one of them. refused: boxes that `where`, size or uncertainty took from those above their
    threshold."""
    if gates.min_precision is None:
        return None
    short = [
        claim
        for claim in claims.classes
        if claim.kept and not (claim.certified == "alone" and (claim.target or 0) >= gates.min_precision)
    ]
    if not short:
        stated = f"every class with kept {noun} is certified by itself for {gates.min_precision:g}"
        if refused:
            stated += f" at its threshold, but where, min_size or uncertainty then refused {refused} {noun}"
            return Finding("min_precision", "warn", f"{stated}, and no certificate covers the mix that is left")
        return Finding("min_precision", "ok", stated)
    together = [claim.name for claim in short if claim.certified == "together"]
    solved = all(claim.group.rule == "precision" and len(claim.group.classes) == 1 for claim in short)
    way = f"{'' if solved else 'set keep.precision with over: class, '}add labels, or drop these classes"
    if claims.standing == "adaptive":
        why, way = f"the certify half has been used {claims.uses} times", "certify on freshly labelled images"
    elif len(together) == len(short):
        why = "only together, as a group"
    else:
        why = f"{len(together)} of them only together with others" if together else ""
    stated = f"{len(short)} classes with kept {noun} are not certified by themselves for {gates.min_precision:g}"
    listed = f"{_listed([claim.name for claim in short])}{'; ' if why else ''}{why}"
    return Finding("min_precision", "fail", f"{stated} ({listed}): {way}")


def coverage(
    gates: Gates,
    kept: Mapping[str, int],
    ignored: Mapping[str, int],
    labelled: Mapping[str, int] | None,
    kind: LabelKind = DETECTION,
) -> Finding | None:
    """Classes of which nothing is kept, and what of them a student then learns where the labels hold many.

    kept, ignored: of the pool by class. labelled: objects of the labels by class; None without labels, where every
    class of the teacher should have some.
    """
    if gates.coverage == "off":
        return None
    noun = kind.noun
    wanted = [name for name in kept if labelled is None or labelled[name] > 0]
    missing = [name for name in wanted if not kept[name]]
    if not missing:
        return Finding("coverage", "ok", f"all {len(wanted)} classes have kept {noun}")
    stated = f"the rules keep no {noun} of {len(missing)} of {len(wanted)} classes ({_listed(missing)})"
    if labelled:
        total = sum(labelled.values())
        many = sorted(
            (name for name in missing if labelled[name] >= max(FEW, MANY * total)), key=lambda n: -labelled[n]
        )
        background = [name for name in many if kind.overlaps and not ignored[name]]
        untaught = [name for name in many if name not in background]
        for names, what in ((background, "a student takes for background"), (untaught, "nothing is taught of")):
            shares = [f"{name} ({percent(labelled[name] / total)} of the labelled {noun})" for name in names]
            stated += f"; {what} {_listed(shares)}" if shares else ""
    return Finding("coverage", gates.coverage, stated)


def shift(gates: Gates, pool: PoolSample, truth: PoolSample) -> Finding | None:
    """Whether the teacher behaves on the labelled images as on the pool (builder.evidence.estimate.shift)."""
    if gates.shift == "off" or not len(pool.boxes) or not len(truth.boxes):
        return None
    alarms = [measure for measure in measure_shift(pool, truth).measures if measure.warn]
    if not alarms:
        return Finding("shift", "ok", "no alarm, which is no evidence that labels and pool are alike")
    listed = "; ".join(
        f"{m.name} {m.truth:.3g} on the labels, {m.pool:.3g} on the pool (p = {m.p_value:.3f})" for m in alarms
    )
    return Finding("shift", gates.shift, f"the labelled images are unlike the pool: {listed}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
