"""What may be said of the precision of a version: the one place that decides it. Whatever shows a version (`log`,
`show`, card, report, App, `diff`, a build's summary, the gates) asks here, and only chooses words.

A certificate is of a group of classes: of what is kept of them together. It says nothing of one class among several:
only a class's own fixed sequence, a group of itself, certifies a class. Where the certify half has been used more than
once nothing is guaranteed, and nothing is certified of what is not there. Estimates on the tune half stand beside; an
interval that lies below the target flags a class, and certifies none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from builder.rules.keep import keep_of
from builder.store.manifest import Manifest
from builder.store.provenance import ClassMeasured, Group, TruthRecord

Standing = Literal["certified", "partly", "adaptive", "measured", "unknown"]
"""Of a version: all that is kept is of groups that are certified, and no class looks worse than they; some is, or one
does; groups were solved, but not for the first time on these labels; measured on labels alone; neither."""


@dataclass(frozen=True)
class Certificate:
    """A group of classes of which a precision was certified, of what is kept of them together.

    delta: how often such a claim may miss: of this group, or, where `family`, of all groups of the version at once.
    exact: for any number of images, not asymptotic. kept: those of the group's classes of which the version keeps
    something. alone: whether it is the certificate of one class, by its own sequence.
    """

    group: Group
    target: float
    delta: float
    family: bool
    exact: bool
    kept: tuple[str, ...]

    @property
    def alone(self) -> bool:
        return len(self.group.classes) == 1


@dataclass(frozen=True)
class ClassClaim:
    """What may be said of one class.

    kept: objects of it in the version, of maps pixels. certified: `alone` by its own sequence, `together` with the
    others of its group, or not. target: that was asked for, None where no precision was. estimate: on the tune half,
    None where it is not known. flagged: whether something of it is kept and the interval of that estimate lies below
    the target.
    """

    name: str
    kept: int
    certified: Literal["alone", "together", "no"]
    target: float | None
    group: Group
    estimate: ClassMeasured | None

    @property
    def flagged(self) -> bool:
        estimate = self.estimate
        return bool(self.kept and self.target and estimate and estimate.kept and estimate.high < self.target)


@dataclass(frozen=True)
class Claims:
    """certificates: of groups of which something is kept; they hold only where the standing is certified or partly.
    classes: in the order of their groups. uses: of the certify half, this version's included, 0 where nothing was
    solved on it. share: of what is kept, that is of certified groups. level: of the estimates' intervals, each class's
    own."""

    standing: Standing
    certificates: tuple[Certificate, ...]
    classes: tuple[ClassClaim, ...]
    uses: int
    share: float
    level: float | None

    @property
    def holding(self) -> tuple[Certificate, ...]:
        """The certificates that guarantee something."""
        return self.certificates if self.standing in ("certified", "partly") else ()

    @property
    def target(self) -> float | None:
        """The lowest certified precision, None where nothing is guaranteed."""
        return min((certificate.target for certificate in self.holding), default=None)

    @property
    def alone(self) -> tuple[str, ...]:
        """Classes that are certified each by its own sequence."""
        return tuple(claim.name for claim in self.classes if claim.certified == "alone")

    @property
    def together(self) -> tuple[str, ...]:
        """Classes of which something is kept and that are certified together with others only."""
        return tuple(claim.name for claim in self.classes if claim.certified == "together")

    @property
    def flagged(self) -> tuple[ClassClaim, ...]:
        return tuple(claim for claim in self.classes if claim.flagged)

    def certificate(self, group: Group) -> Certificate | None:
        """That of a group, None where it guarantees nothing."""
        return next((certificate for certificate in self.holding if certificate.group == group), None)


def claims(manifest: Manifest) -> Claims:
    """What may be said of a version."""
    kept = {name: counts["kept"] for name, counts in manifest.per_class.items()}
    return decide_claims(groups(manifest), kept, manifest.provenance.truth, keep_section(manifest).get("precision"))


def decide_claims(
    every: Sequence[Group], kept: Mapping[str, int], truth: TruthRecord | None, asked: Mapping[str, Any] | float | None
) -> Claims:
    """The same before there is a manifest. every: all groups of classes; kept: objects by class; truth: what the labels
    said; asked: the recipe's `keep.precision`."""
    asked = asked if isinstance(asked, Mapping) else {}
    uses, measured = (truth.uses, truth.measured) if truth else (0, None)
    certificates = tuple(
        certificate
        for group in every
        if group.certified and group.target is not None and (certificate := _certificate(group, kept, asked)).kept
    )
    estimates = measured.classes if measured else {}
    classes = tuple(
        ClassClaim(name, kept.get(name, 0), "no", group.target, group, estimates.get(name))
        for group in every
        for name in group.classes
    )
    share = sum(kept[name] for certificate in certificates for name in certificate.kept) / max(1, sum(kept.values()))
    level = measured.level if measured and estimates else None
    if not certificates:
        known = measured is not None and measured.precision is not None
        return Claims("measured" if known else "unknown", (), classes, uses, 0.0, level)
    if uses > 1:
        return Claims("adaptive", certificates, classes, uses, share, level)
    scope: dict[str, Literal["alone", "together"]] = {
        name: "alone" if certificate.alone else "together" for certificate in certificates for name in certificate.kept
    }
    classes = tuple(replace(claim, certified=scope.get(claim.name, "no")) for claim in classes)
    whole = share == 1 and not any(claim.flagged for claim in classes)
    return Claims("certified" if whole else "partly", certificates, classes, uses, share, level)


def _certificate(group: Group, kept: Mapping[str, int], asked: Mapping[str, Any]) -> Certificate:
    family = asked.get("family") == "all"
    delta = float(asked.get("delta", group.delta or 0)) if family else group.delta or 0.0  # the group's own is a share
    there = tuple(name for name in group.classes if kept.get(name))
    return Certificate(group, group.target or 0.0, delta, family, group.bound == "exact", there)


def groups(manifest: Manifest) -> list[Group]:
    """The thresholds of a version with their evidence; by rule `score` for a manifest that holds none."""
    if manifest.provenance.thresholds:
        return manifest.provenance.thresholds
    score = keep_section(manifest).get("score", 0.5)
    by_class = {
        name: score.get(name, score.get("*")) if isinstance(score, dict) else score for name in manifest.classes
    }
    values = sorted({value for value in by_class.values() if value is not None})
    return [Group(classes=[c for c in by_class if by_class[c] == v], rule="score", threshold=v) for v in values]


def keep_section(manifest: Manifest) -> Mapping[str, Any]:
    """The `keep` section that the version was cut with. Raises BuildError for one that is none."""
    return keep_of(manifest).model_dump()
