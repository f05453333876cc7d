"""What a training reads: its recipe, a YAML file of these keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self

from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from builder.recipe.reading import explain, read_mapping
from builder.sections import Count, Section, Seed
from builder.truth.options import LabelOptions
from builder.truth.records import CountedFrom
from students.augment.scene import AugmentRecipe
from students.train.errors import TrainError
from teachers.networks.config import NetworkConfig

MOST_WORKERS = 1024
"""Processes that read images: each takes memory of its own."""


class Labelled(Section):
    """The `labelled` section, or just its `path`: a COCO JSON, a folder of VOC or YOLO labels, of a folder per class,
    or of images and masks (builder.truth.read.read_truth). Of a data.yaml its `train` split is meant, or `val` where
    they are measured on, unless `data.yaml#SPLIT` says otherwise.
    images: the folder of its image files, where not in its place. counted_from: of VOC's corners, as there.
    limit: train on that many of its images, chosen by the recipe's seed; a smaller choice is part of a larger one."""

    path: Path
    images: Path | None = None
    counted_from: CountedFrom | None = None
    limit: Count | None = None

    @property
    def options(self) -> LabelOptions:
        """The same for the builder."""
        images = None if self.images is None else str(self.images)
        return LabelOptions(source=str(self.path), images=images, counted_from=self.counted_from)

    def rooted(self, folder: Path) -> Self:
        """See TrainRecipe.rooted."""
        return self.model_copy(update={"path": folder / self.path, "images": self.images and folder / self.images})


class Validated(Labelled):
    """The `val` section, or just its `path`: human labels on which the network is measured every so many steps (by
    default ten times), to be seen; nothing is chosen by it. limit: on that many of its images."""

    every: Count | None = None


class Rounds(Section):
    """The `rounds` section: the student becomes the next teacher (students.rounds.loop).

    count: of rounds, at most: they end when a student does worse on `val` than the best before it. build: the recipe
    (YAML) of the version; the first teacher is its own. val: human labels on which the best round is chosen, as
    `labelled` names them. students: the networks of the rounds, in order, the last for all that follow (Noisy Student
    lets them grow); without any it is the recipe's.
    """

    count: Count
    build: Path
    val: Labelled
    students: tuple[NetworkConfig, ...] = ()

    @field_validator("val", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return short_form(value)

    def rooted(self, folder: Path) -> Rounds:
        """See TrainRecipe.rooted."""
        networks = tuple(rooted_network(network, folder) for network in self.students)
        update = {"build": folder / self.build, "val": self.val.rooted(folder), "students": networks}
        return self.model_copy(update=update)


class TrainRecipe(Section):
    """What a training reads.

    Attributes:
        labelled: the human labels.
        pseudo: versions (`cells`, `cells@v3`, a folder, or `hf://org/name@v3`, of which shards are fetched when needed)
            whose images make up half of every batch; none for supervised training.
        network: see NetworkConfig; its classes are those of the labels, its arch, unless given, the usual one for them:
            `fcos` for boxes, `fpn` for maps, `linear` for classes of images (`maskrcnn` learns a COCO JSON's outlines).
        init: `checkpoint:RUN` starts from the weights of that run, whose network must be the same; else the backbone
            starts from `network.pretrained` (published weights, or those of `tutelage pretrain`), or from random ones.
        steps: of the training.
        batch: images per step, over all GPUs.
        lr: the peak of a rise over the share `warmup` of the steps and a cosine fall to 0 (AdamW).
        weight_decay: of AdamW.
        warmup: a share of the steps.
        clip_norm: of the gradient.
        augment: see AugmentRecipe.
        flip: mirror half the images; off where left and right differ (text).
        ema: decay of the moving average of the weights that is evaluated and used (students.train.average), 0 for the
            last ones.
        alpha, decay, clip, per_term, normalise: see JointLoss; without `clip` it is that of the task
            (students.tasks.base.Task).
        alpha_ramp: the share of the steps over which alpha rises from 0; 0: at once.
        doubly_robust: versions, named like `pseudo`, that show every labelled image, labelled by teachers that had not
            learned from it; the loss is then the doubly robust one (JointLoss).
        soft: learn the whole class probabilities of pseudo-labels, not only the likeliest class (arch linear).
        rounds: more than one training, each of which labels for the next.
        seed: of the order, the augmentation and new weights.
        precision: of the arithmetic.
        workers: processes that read images; they change no weights.
        save_every: steps between two saves; neither does this.
        val: see Validated; the weights that are kept are the last ones, whatever it shows.
        track: also report each step to TensorBoard (event files in OUT/tensorboard), Weights & Biases or MLflow.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    labelled: Labelled
    pseudo: tuple[str, ...] = ()
    network: NetworkConfig = NetworkConfig()
    init: Annotated[str, Field(pattern="^checkpoint:.+$")] | None = None
    steps: Count
    batch: Count = 16
    lr: PositiveFloat = 2e-4
    weight_decay: NonNegativeFloat = 0.05
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip_norm: PositiveFloat = 10.0
    augment: AugmentRecipe = AugmentRecipe()
    flip: bool = True
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    alpha: NonNegativeFloat = 1.0
    alpha_ramp: Annotated[float, Field(ge=0, le=1)] = 0.0
    doubly_robust: tuple[str, ...] = ()
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    clip: tuple[PositiveFloat, PositiveFloat] | None = None
    per_term: bool = False
    normalise: bool = True
    soft: bool = True
    rounds: Rounds | None = None
    seed: Seed = 0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)] = 2
    save_every: Count = 1000
    val: Validated | None = None
    track: Literal["tensorboard", "wandb", "mlflow"] | None = None

    @field_validator("labelled", "val", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return short_form(value)

    @field_validator("clip")
    @classmethod
    def _in_order(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value and value[0] > value[1]:
            raise ValueError("the least ratio comes first: swap the two")
        return value

    @model_validator(mode="after")
    def _claims_beside_pseudo(self) -> Self:
        if self.doubly_robust and not self.pseudo:
            raise ValueError("doubly_robust corrects what versions teach: name them in pseudo (rounds have none)")
        return self

    def rooted(self, folder: Path) -> TrainRecipe:
        """The same recipe with its relative paths, which are relative to `folder`, made to lead from here."""
        return self.model_copy(
            update={
                "labelled": self.labelled.rooted(folder),
                "pseudo": _rooted_versions(self.pseudo, folder),
                "doubly_robust": _rooted_versions(self.doubly_robust, folder),
                "network": rooted_network(self.network, folder),
                "init": self.init and f"checkpoint:{folder / self.init.partition(':')[2]}",
                "val": self.val and self.val.rooted(folder),
                "rounds": self.rounds and self.rounds.rooted(folder),
            }
        )


class Schedule(Protocol):
    """What a recipe says of its steps: how many, and how far each goes."""

    @property
    def steps(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...


def short_form(value: Any) -> Any:
    """A `labelled` section that may be just its path."""
    return {"path": value} if isinstance(value, str | Path) else value


def _rooted_versions(refs: Sequence[str], folder: Path) -> tuple[str, ...]:
    return tuple(str(folder / ref) if (folder / ref).is_dir() else ref for ref in refs)


def rooted_network(network: NetworkConfig, folder: Path) -> NetworkConfig:
    """See TrainRecipe.rooted."""
    if network.pretrained in (None, "DEFAULT"):
        return network
    return replace(network, pretrained=str(folder / str(network.pretrained)))


def load_train_recipe(path: Path, overrides: Sequence[str] = ()) -> TrainRecipe:
    """The training recipe in a YAML file, with `key.key=value` overrides. Raises BuildError, in one sentence that names
    the key."""
    content = read_mapping(path, overrides)
    try:
        return TrainRecipe.model_validate(content).rooted(path.parent)
    except ValidationError as error:
        raise TrainError(f"recipe {path}: {explain(error, TrainRecipe)}") from None
