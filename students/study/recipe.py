"""What a study reads: its recipe, a YAML file of these keys."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    ValidationError,
    field_validator,
    model_validator,
)

from builder.label.section import TeacherSection, root
from builder.recipe.reading import BY_EXAMPLE, explain, read_mapping
from builder.recipe.recipe import ImageOptions, PoolOptions, Recipe, ShardOptions
from builder.rules.keep import Keep
from builder.sections import Count, Section
from builder.store.store import NAME
from builder.truth.options import LabelOptions, Part
from builder.truth.records import CountedFrom
from students.train.errors import TrainError
from students.train.recipe import TrainRecipe
from teachers.networks.backbones import DEFAULT

if TYPE_CHECKING:
    from students.pretrain.loop import PretrainRecipe


Arm = Literal[
    "supervised",
    "longer",
    "continued",
    "self-training",
    "doubly-robust",
    "continued-student",
    "joint",
    "self-training+joint",
    "ceiling",
    "placebo",
]
"""See students.study.results.ARMS."""
Axis = Literal["augment", "init", "fraction", "alpha", "round"]
OWN = ("labelled", "pseudo", "doubly_robust", "seed", "augment", "init", "alpha", "rounds")
"""Keys of a training that the study sets from its grid."""
TEACHER = "teacher"
"""In place of an arm: a network that labels for those that have one."""
CONTINUED = frozenset({"continued", "continued-student"})
"""Arms that start from their teacher's weights."""
WITH_FOLDS = frozenset({"doubly-robust"})
"""Arms that have teachers beside their own, each of which has not learned from a fold of the labels, and labels it."""
LABELLED_BY_TEACHER = frozenset({"self-training", "continued-student", "self-training+joint", "placebo"}) | WITH_FOLDS
WITH_TEACHER = LABELLED_BY_TEACHER | CONTINUED
WITH_OTHERS = frozenset({"joint", "self-training+joint"})
SUPERVISED = frozenset({"supervised", "longer", "continued"})


class LabelSet(Section):
    """Labels, or just their `path` (builder.truth.read.read_truth). images: the folder of their files, where
    elsewhere. counted_from: of VOC's corners, as there."""

    path: Path
    images: Path | None = None
    counted_from: CountedFrom | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    def rooted(self, folder: Path) -> LabelSet:
        """See StudyRecipe.rooted."""
        return self.model_copy(update={"path": folder / self.path, "images": self.images and folder / self.images})

    @property
    def options(self) -> LabelOptions:
        """The same for the builder."""
        images = None if self.images is None else str(self.images)
        return LabelOptions(source=str(self.path), images=images, counted_from=self.counted_from)


class TeacherSteps(Section):
    """The `teacher` section: what its training has of its own. All else is as in `train`. augment: a policy, or an
    `augment` section of a training, for every teacher of the grid, so that the noise is the student's alone (Noisy
    Student); without it a teacher has the augmentation of its cell. folds: of the labels, for `doubly-robust`: as many
    more teachers, each of which labels the fold that it has not learned from."""

    steps: Count
    augment: str | dict[str, Any] | None = None
    folds: Annotated[int, Field(ge=2, le=100)] = 2


class BuildSection(Section):
    """The `build` section: how a teacher's predictions become a version, with the keys of a build recipe. teacher:
    options of the teacher as it labels (`floor`, `tta`, …). truth: labels to solve thresholds on."""

    keep: Keep = Field(default_factory=Keep.default)
    images: ImageOptions = ImageOptions()
    shards: ShardOptions = ShardOptions()
    teacher: dict[str, Any] = Field(default_factory=dict)
    truth: LabelSet | None = None


class Start(Section):
    """A way to begin: random weights (nothing), `pretrained` (a file, or DEFAULT; see NetworkConfig), `checkpoint` (a
    run), or `pretrain`, the keys of a pre-training without labels (students.pretrain.loop) on the pool, one a seed."""

    pretrained: str | None = None
    checkpoint: Path | None = None
    pretrain: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Start:
        if sum(value is not None for value in (self.pretrained, self.checkpoint, self.pretrain)) > 1:
            raise ValueError("begins in two ways: keep one of pretrained, checkpoint and pretrain")
        return self

    def rooted(self, folder: Path) -> Start:
        """See StudyRecipe.rooted."""
        pretrained = self.pretrained if self.pretrained == DEFAULT else root(self.pretrained, folder)
        checkpoint = self.checkpoint and folder / self.checkpoint
        return self.model_copy(update={"pretrained": pretrained, "checkpoint": checkpoint})


class Grid(Section):
    """The `grid` section: a cell for each combination.

    augment: policies, or names for `augment` sections of a training. init: names for ways to begin. fractions: shares
    of the labelled images. alpha: of the joint loss, for arms that have one. rounds: of `self-training`, where the
    student of one round is the teacher of the next.
    """

    augment: dict[str, Any] = Field(default={"S1": "S1"}, min_length=1)
    init: dict[str, Start] = Field(default={"random": Start()}, min_length=1)
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0,), min_length=1)
    arms: tuple[Arm, ...] = Field(default=("supervised", "longer", "self-training"), min_length=1)
    alpha: tuple[NonNegativeFloat, ...] = Field(default=(1.0,), min_length=1)
    rounds: Annotated[int, Field(ge=1, le=100)] = 1

    @field_validator("augment", mode="before")
    @classmethod
    def _policies(cls, value: Any) -> Any:
        return {str(name): name for name in value} if isinstance(value, list | tuple) else value

    @field_validator("fractions", "arms", "alpha")
    @classmethod
    def _are_distinct(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a value twice: keep one")
        return value


class Contrast(Section):
    """A comparison declared before the study ran: `arm` less `against`, at every setting of the grid that agrees with
    `where`; in the first round, whose budget is equal, unless it names a round."""

    arm: Arm
    against: Arm
    where: dict[Axis, float | str] = Field(default_factory=dict)


class StudyRecipe(Section):
    """What a study reads.

    labelled: human labels, of which a replicate learns a fraction. val: for choosing settings. test: for the figures.
    measure: the set that cells are measured on: `val` while settings are chosen, so that `test` is looked at once.
    pool: unlabelled images; pool_truth: their labels, for the arm `ceiling`. others: further labelled sets of the same
    classes, for the joint arms. train: a training recipe without the keys that the grid sets (OWN). seeds: replicates.
    primary: the contrasts that p-values are adjusted over.
    """

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    labelled: LabelSet
    val: LabelSet | None = None
    test: LabelSet
    measure: Literal["test", "val"] = "test"
    pool: PoolOptions | None = None
    pool_truth: LabelSet | None = None
    others: tuple[LabelSet, ...] = ()
    train: dict[str, Any]
    teacher: TeacherSteps
    build: BuildSection = BuildSection()
    grid: Grid = Grid()
    seeds: Annotated[int, Field(ge=1, le=1000)] = 5
    primary: tuple[Contrast, ...] = ()

    @field_validator("pool", mode="before")
    @classmethod
    def _short_pool(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _holds_together(self) -> StudyRecipe:
        if given := [key for key in OWN if key in self.train]:
            raise ValueError(f"train.{given[0]} is set for each cell by the study: remove it")
        arms = self.grid.arms
        for key, needed_by in (
            ("pool", LABELLED_BY_TEACHER | {"ceiling"}),
            ("pool_truth", {"ceiling"}),
            ("others", WITH_OTHERS),
        ):
            if needing := [arm for arm in arms if arm in needed_by and not (arm == "placebo" or getattr(self, key))]:
                raise ValueError(f"the arm {needing[0]} needs {key}: add it, or remove the arm from grid.arms")
        if self.outlines and (robust := WITH_FOLDS.intersection(arms)):
            raise ValueError(f"the arm {min(robust)} does not learn outlines: train arch fcos, or remove the arm")
        if self.measure == "val" and self.val is None:
            raise ValueError("measure is val, but there is no val: add it, or measure on test")
        for name in (name for name, start in self.grid.init.items() if start.pretrain is not None):
            self.pretraining(name, 0)
        if isinstance(network := self.train.get("network"), dict) and network.get("pretrained"):
            raise ValueError("train.network.pretrained is set for each cell by grid.init: move it there")
        for contrast in self.primary:
            if absent := [arm for arm in (contrast.arm, contrast.against) if arm not in arms]:
                raise ValueError(f"primary compares {absent[0]}, which is not in grid.arms: add it there")
            self._check_where(contrast.where)
        for augment in (*self.grid.augment.values(), *([self.teacher.augment] if self.teacher.augment else [])):
            self.training(Path("labels"), augment=augment)
        self.recipe("check", PoolOptions(source="pool"), "checkpoint:check")
        return self

    def _check_where(self, where: Mapping[Axis, float | str]) -> None:
        known: dict[Axis, tuple[Any, ...]] = {
            "augment": tuple(self.grid.augment),
            "init": tuple(self.grid.init),
            "fraction": self.grid.fractions,
            "alpha": (*self.grid.alpha, 0.0),
            "round": tuple(range(1, self.grid.rounds + 1)),
        }
        for key, value in where.items():
            if value not in known[key]:
                raise ValueError(f"primary is about {key} {value}, which is not in the grid: add it there")

    def training(self, labelled: Path, images: Path | None = None, **cell: Any) -> TrainRecipe:
        """A training of this study on these labels, with the keys of OWN that a cell has. Raises ValueError."""
        try:
            return TrainRecipe.model_validate({**self.train, "labelled": {"path": labelled, "images": images}, **cell})
        except ValidationError as error:
            raise ValueError(f"train: {explain(error, TrainRecipe)}") from None

    def pretraining(self, init: str, seed: int) -> PretrainRecipe:
        """The pre-training of a start that has one, on the pool, of the network that is trained afterwards. Raises
        ValueError."""
        from students.pretrain.loop import PretrainRecipe

        if self.pool is None:
            raise ValueError(f"grid.init.{init} pre-trains on the pool, but there is no pool: add it")
        ours = {"pool": self.pool, "network": self.train.get("network", {}), "seed": seed}
        keys = self.grid.init[init].pretrain or {}
        if given := [key for key in ours if key in keys]:
            raise ValueError(f"grid.init.{init}.pretrain.{given[0]} is that of the study: remove it")
        try:
            return PretrainRecipe.model_validate({"workers": self.train.get("workers", 2), **keys, **ours})
        except ValidationError as error:
            raise ValueError(f"grid.init.{init}.pretrain: {explain(error, PretrainRecipe, BY_EXAMPLE)}") from None

    def recipe(self, name: str, pool: PoolOptions, teacher: str) -> Recipe:
        """The build of a version of this pool by this teacher (a spec). Raises ValueError."""
        sections = {key: getattr(self.build, key) for key in ("keep", "images", "shards")}
        if self.build.truth:
            sections["truth"] = self.build.truth.options
        try:
            section = TeacherSection.model_validate({"spec": teacher, **self.build.teacher})
            return Recipe.model_validate({"name": name, "pool": pool, "teacher": section, "review": False, **sections})
        except ValidationError as error:
            raise ValueError(f"build: {explain(error, Recipe)}") from None

    def augment_of(self, arm: str, augment: str) -> Any:
        """The augmentation of a network of this arm, or of a teacher, in a cell that has this one of the grid."""
        return self.teacher.augment if arm == TEACHER and self.teacher.augment else self.grid.augment[augment]

    @property
    def outlines(self) -> bool:
        """Whether the outlines of objects are learned, too."""
        network = self.train.get("network")
        return isinstance(network, dict) and network.get("arch") == "maskrcnn"

    def rooted(self, folder: Path) -> StudyRecipe:
        """The same recipe with its relative paths, which are relative to `folder`, made absolute: every worker reads
        it."""
        here = Path(os.path.abspath(folder))
        sets = {
            key: labels.rooted(here)
            for key in ("labelled", "val", "test", "pool_truth")
            if (labels := getattr(self, key))
        }
        pool = self.pool and self.pool.model_copy(
            update={"source": root(self.pool.source, here), "images": root(self.pool.images, here)}
        )
        starts = {name: start.rooted(here) for name, start in self.grid.init.items()}
        build = self.build.model_copy(update={"truth": self.build.truth and self.build.truth.rooted(here)})
        others = tuple(labels.rooted(here) for labels in self.others)
        grid = self.grid.model_copy(update={"init": starts})
        return self.model_copy(update={**sets, "pool": pool, "others": others, "grid": grid, "build": build})

    @property
    def measured(self) -> LabelSet:
        """The labels that cells are measured on."""
        return self.val if self.measure == "val" and self.val else self.test

    @property
    def measured_as(self) -> Part:
        """What these are for: which split of a data.yaml is meant."""
        return "truth" if self.measured is self.val else "test"

    @property
    def replicates(self) -> Sequence[NonNegativeInt]:
        """The seeds."""
        return range(self.seeds)


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyRecipe:
    """The study in a YAML file, with `key.key=value` overrides. Raises BuildError, a sentence with the key."""
    content = read_mapping(path, overrides)
    try:
        return StudyRecipe.model_validate(content).rooted(path.parent)
    except ValidationError as error:
        raise TrainError(f"study {path}: {explain(error, StudyRecipe, BY_EXAMPLE)}") from None
