"""The plain facts that findings are made of: of a training, of what a version keeps, and of the arms of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Training:
    """What the log of a run shows; means over steps, NaN for what it does not show.

    steps: that are logged, of `planned`. batch: images a step over both streams. joint: whether it learned from
    pseudo-labels, by `alpha`; scratch: whether it began with random weights.
    first, before, last: the loss of the human labels over the first tenth of the steps, the tenth that ends at three
    quarters of them, and the last tenth. still: share of the steps that moved no weight, for want of a finite loss or
    gradient; clipped: of the last half that were clipped to `clip_norm`, of a mean `norm`.
    ratio, unclipped: what the pseudo loss is multiplied by, over the last tenth, and the same before `limits`; of
    several ratios the one that is furthest from 1. clip_rate: share of the steps in which they changed it. ignored:
    share of the human and of the pseudo stream that is left out of the loss. metric, val: the figures on val by step.
    The three losses are NaN for a log too short to tell.
    """

    steps: int
    planned: int
    batch: int
    joint: bool = False
    scratch: bool = True
    alpha: float = 1.0
    lr: float = math.nan
    first: float = math.nan
    before: float = math.nan
    last: float = math.nan
    still: float = 0.0
    clipped: float = 0.0
    norm: float = math.nan
    clip_norm: float = math.nan
    ratio: float = math.nan
    unclipped: float = math.nan
    limits: tuple[float, float] = (0.1, 10.0)
    clip_rate: float = 0.0
    ignored: tuple[float, float] = (0.0, 0.0)
    metric: str = ""
    val: tuple[tuple[int, float], ...] = ()

    @property
    def ended(self) -> bool:
        """Whether all the steps are logged."""
        return self.steps >= self.planned


@dataclass(frozen=True)
class Labels:
    """What human labels hold of each class: objects, of maps pixels, of classes images; on so many images."""

    images: int
    by_class: Mapping[str, int]


@dataclass(frozen=True)
class Right:
    """Of one class, against human labels of the pool: what counts of the kept, what of it is right; what there is to
    find, and what of it is found."""

    kept: int
    right: int
    objects: int
    found: int


@dataclass(frozen=True)
class Selection:
    """What a version keeps of its pool. noun: what is counted, of `kind` (builder.kinds); rule: its `keep`, in words.

    pool: images of it; predicted, kept: by class. human: the labels beside it, None where they are not known; right:
    by class against the pool's true labels, empty where these are not known. told: whether they are somebody's word,
    stored labels that all have score 1, among which no rule can choose."""

    kind: str
    noun: str
    rule: str
    pool: int
    predicted: Mapping[str, int]
    kept: Mapping[str, int]
    human: Labels | None = None
    right: Mapping[str, Right] = field(default_factory=dict)
    told: bool = False

    @property
    def total(self) -> int:
        """All that is kept."""
        return sum(self.kept.values())

    @property
    def share(self) -> float:
        """Of what is predicted that is kept; NaN where nothing is."""
        predicted = sum(self.predicted.values())
        return self.total / predicted if predicted else math.nan

    @property
    def precision(self) -> float:
        """The share of the kept that is right; NaN where it is not known."""
        kept = sum(right.kept for right in self.right.values())
        return sum(right.right for right in self.right.values()) / kept if kept else math.nan

    @property
    def recall(self) -> float:
        """The share of the true objects that is kept; NaN where it is not known."""
        objects = sum(right.objects for right in self.right.values())
        return sum(right.found for right in self.right.values()) / objects if objects else math.nan


@dataclass(frozen=True)
class Gap:
    """How much better one arm is than another, paired by seed, as shares of 1. low, high: the interval over seeds, NaN
    for fewer than students.study.compare.LEAST; least: of the seeds. value, other: means of the two."""

    arm: str
    against: str
    seeds: int
    mean: float
    low: float
    high: float
    least: float
    value: float
    other: float


@dataclass(frozen=True)
class Case:
    """One student, or the students of one setting of a study, over its seeds, with all that is known of them.

    where: the setting in words, "" for a run. metric: of the study. students, teachers: their trainings, as far as
    their logs are there; selections: what they learned from. student, teacher: mean figures on the measured images.
    outcome: the arm against its baseline; longer: that arm, or else continued, against supervised; taught: supervised
    against the teacher; ceiling: that arm against the baseline; pool: the arm against placebo; half: supervised, or
    else longer, against placebo; None where they were not run. steps, teacher_steps,
    longer_steps: of the student, its teacher, and that longer arm. batch: images a step. images: labelled ones, and
    samples of what stands beside them, 0 where they are not known.
    """

    where: str = ""
    arm: str = ""
    metric: str = ""
    students: tuple[Training, ...] = ()
    teachers: tuple[Training, ...] = ()
    selections: tuple[Selection, ...] = ()
    student: float = math.nan
    teacher: float = math.nan
    outcome: Gap | None = None
    longer: Gap | None = None
    taught: Gap | None = None
    ceiling: Gap | None = None
    pool: Gap | None = None
    half: Gap | None = None
    steps: int = 0
    teacher_steps: int = 0
    longer_steps: int = 0
    batch: int = 0
    images: tuple[float, float] = (0, 0)


@dataclass(frozen=True)
class Finding:
    """name: of what is wrong, for machines. sentence: with the figure that shows it and what to change. where: of which
    settings of a study, the one it shows most at first. figures: of it; NaN for
    what is not known."""

    name: str
    sentence: str
    figures: Mapping[str, float | int | str | list[str]]
    where: tuple[str, ...] = ()

    def __str__(self) -> str:
        more = f" and {len(self.where) - 1} more" if len(self.where) > 1 else ""
        return f"{self.where[0]}{more}: {self.sentence}" if self.where and self.where[0] else self.sentence


@dataclass(frozen=True)
class Diagnosis:
    """subject: what was looked at. verdict: how self-training did, of a study; won: whether it is better everywhere,
    so that no faults but those of a gain were looked for. findings: the most telling first.
    looked: what they could have been found in; blind: what could not be looked at, and what it takes."""

    subject: str
    verdict: str
    won: bool
    findings: tuple[Finding, ...]
    looked: tuple[str, ...]
    blind: tuple[str, ...]


@dataclass
class Found:
    """What was read: cases, and in words what of it could be looked at, and what could not."""

    cases: list[Case] = field(default_factory=list)
    looked: list[str] = field(default_factory=list)
    blind: list[str] = field(default_factory=list)
    alike: list[str] = field(default_factory=list)
