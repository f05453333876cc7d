"""What a training reads: its recipe, a YAML file of these keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
)

from builder.recipe import STRICT, explain, read_yaml
from students.run import TrainError
from teachers.networks import NetworkConfig


class Labelled(BaseModel):
    """The `labelled` section, or just its `path`: a COCO JSON, a folder of VOC or YOLO labels, of a folder per class,
    or of images and masks (builder.truth.read_truth).
    images: the folder of its image files, where not in its place.
    limit: train on that many of its images, chosen by the recipe's seed; a smaller choice is part of a larger one."""

    model_config = STRICT
    path: Path
    images: Path | None = None
    limit: PositiveInt | None = None


class TrainRecipe(BaseModel):
    """What a training reads.

    pseudo: versions (`cells`, `cells@v3`, a folder, or `hf://org/name@v3`, of which shards are fetched when needed)
    whose images make up half of every batch; none for supervised training.
    network: see NetworkConfig; its classes are those of the labels, its arch, unless given, the usual one for them:
    `fcos` for boxes, `fpn` for maps, `linear` for classes of images (`maskrcnn` learns a COCO JSON's outlines).
    init: `checkpoint:RUN` starts from the weights of that run, whose network must be the same.
    batch: images per step, over all GPUs. lr: the peak of a rise over the share `warmup` of the steps and a cosine fall
    to 0 (AdamW). clip_norm: of the gradient. flip: mirror half the images; off where left and right differ (text).
    alpha, decay, per_term: see JointLoss. soft: learn the whole class probabilities of pseudo-labels, not only the
    likeliest class (arch linear).
    workers: processes that read images; save_every: steps; neither changes the weights.
    """

    model_config = STRICT
    labelled: Labelled
    pseudo: tuple[str, ...] = ()
    network: NetworkConfig = NetworkConfig()
    init: Annotated[str, Field(pattern="^checkpoint:.+$")] | None = None
    steps: PositiveInt
    batch: PositiveInt = 16
    lr: PositiveFloat = 2e-4
    weight_decay: NonNegativeFloat = 0.05
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip_norm: PositiveFloat = 10.0
    augment: Literal["S1"] = "S1"
    flip: bool = True
    alpha: NonNegativeFloat = 1.0
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    per_term: bool = False
    soft: bool = True
    seed: NonNegativeInt = 0
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    workers: NonNegativeInt = 2
    save_every: PositiveInt = 1000

    @field_validator("labelled", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value

    def rooted(self, folder: Path) -> TrainRecipe:
        """The same recipe with its relative paths, which are relative to `folder`, made to lead from here."""
        labelled = self.labelled
        images = labelled.images and folder / labelled.images
        pretrained = self.network.pretrained
        if pretrained not in (None, "DEFAULT"):
            pretrained = str(folder / str(pretrained))
        return self.model_copy(
            update={
                "labelled": labelled.model_copy(update={"path": folder / labelled.path, "images": images}),
                "pseudo": tuple(str(folder / ref) if (folder / ref).is_dir() else ref for ref in self.pseudo),
                "network": replace(self.network, pretrained=pretrained),
                "init": self.init and f"checkpoint:{folder / self.init.partition(':')[2]}",
            }
        )


def load_train_recipe(path: Path, overrides: Sequence[str] = ()) -> TrainRecipe:
    """The training recipe in a YAML file, with `key.key=value` overrides. Raises BuildError, in one sentence that names
    the key."""
    content = read_yaml(path, overrides)
    try:
        return TrainRecipe.model_validate(content).rooted(path.parent)
    except ValidationError as error:
        raise TrainError(f"recipe {path}: {explain(error)}") from None
