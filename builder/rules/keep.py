"""The `keep` section of a recipe: what a rule may ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from builder.errors import BuildError, brief
from builder.kinds import kind_of
from builder.rules.class_map import ClassMap, Mapped
from builder.rules.limits import limits
from builder.rules.objects import Thresholds
from builder.rules.where import Where
from builder.sections import Count, Fraction, Section
from builder.store.manifest import NAMES, Manifest
from builder.store.provenance import Group, recorded

if TYPE_CHECKING:  # matching needs rules, whose options are made of those here
    pass


class Precision(Section):
    """`keep.precision` of a recipe: thresholds are solved so that the precision of what is kept is at least `target`.

    iou: overlap that makes a box right. delta: how often the claim may fail. over: what shares a threshold (`groups`:
    classes too rare for their own share one). family: `all` splits delta over the groups, so that one claim holds for
    all of them; `each` makes a claim for each. bound: `clustered`, asymptotic; `exact`, for any number of images, pays
    off from about 500. on_low_support: what becomes of a group that cannot be certified: `ignore`, nothing of it is
    kept, and from `keep.ignore` (or .3) on its objects are ignore regions; `drop`, they are background; `fallback`
    keeps it, not certified, from the score `fallback` on; `fail`. A plain number is the target.
    """

    target: float = Field(gt=0, lt=1)
    iou: float = 0.5
    delta: float = Field(default=0.1, ge=1e-6, lt=0.5)
    over: Literal["groups", "class", "version"] = "groups"
    family: Literal["each", "all"] = "each"
    bound: Literal["clustered", "exact"] = "clustered"
    on_low_support: Literal["ignore", "fallback", "drop", "fail"] = "ignore"
    fallback: float = Field(default=0.5, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _number_is_target(cls, value: Any) -> Any:
        return {"target": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("iou")
    @classmethod
    def _iou_is_matched(cls, iou: float) -> float:

        if iou not in IOUS:
            raise ValueError(f"predictions are matched at an IoU of {' and '.join(map(str, IOUS))}, not {iou}")
        return iou


IOUS = (0.5, 0.75)
"""The overlaps at which predictions are matched."""


NUMBER, BY_CLASS = "(number)", "(by class)"
Scores = Annotated[
    Annotated[Fraction, Tag(NUMBER)] | Annotated[dict[str, Fraction], Tag(BY_CLASS)],
    Discriminator(lambda value: BY_CLASS if isinstance(value, dict) else NUMBER),
]
"""One number, or one by class. The tags stand in the places of pydantic's errors."""


class Density(Section):
    """`keep.density` (LabelMatch, arXiv 2206.06608): per class the best `share` of as many boxes as the labels let
    expect are kept, the rest of that number are ignored; never below `min`."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.2
    min: Fraction = 0.05


class Balance(Section):
    """`keep.balance` (Noisy Student, arXiv 1911.04252): per class the threshold falls in steps of .01 until `images`
    images hold a box of the class, or `min` is reached."""

    images: Count
    min: Fraction = 0.3


class Mixture(Section):
    """`keep.mixture` (Consistent-Teacher, arXiv 2209.01589): per class a mixture of two Gaussians over the scores; the
    threshold is the lowest score of the high one at or above its likeliest. `few`: what becomes of a class with fewer
    than 4 scores, or none in the high component: its objects are ignore regions from `keep.ignore` (or .3) on, or with
    `drop` background."""

    few: Literal["ignore", "drop", "fail"] = "ignore"


WHOLE_IMAGE = ("nms", "max_per_image", "min_size", "uncertainty", "top_box")
"""Keys of `keep` that mean nothing where an object is a whole image, or pixels of it."""

RULES = ("score", "precision", "density", "balance", "mixture", "top_box")
"""Keys of `keep` of which one at most says where the thresholds come from."""


class Keep(Section):
    """The `keep` section of a recipe. At most one of RULES; none means `score: 0.5`.

    classes: see ClassMap; the other keys name the version's classes.
    score: keep at or above it; one number, or class name → number, where `"*"` stands for the classes not named.
    precision: solve thresholds for it on held-out labels. top_box (STAC, arXiv 2005.04757): the threshold, but at most
    the best score of the image. ignore: from here to the threshold objects are ignore regions; never above the class's
    threshold; `null`: none. calibration: thresholds act on scores that were calibrated on the labels.
    nms: IoU, of masks where there are any, above which the weaker object of the same class is dropped. max_per_image:
    the best so many boxes. min_size: pixels, the shorter side of a box. uncertainty (Soft Teacher, arXiv 2106.09018):
    highest box uncertainty, where the teacher stores one. where: one SQL expression (builder.rules.where). refused: see
    the module.
    """

    classes: ClassMap | None = None
    score: Scores | None = None
    precision: Precision | None = None
    density: Density | None = None
    balance: Balance | None = None
    mixture: Mixture | None = None
    top_box: Fraction | None = None
    ignore: Scores | None = 0.3
    calibration: Literal["none", "temperature", "isotonic"] = "none"
    nms: Fraction | None = None
    max_per_image: Count | None = None
    min_size: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    uncertainty: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    where: str | None = None
    refused: Literal["ignore", "drop"] = "ignore"

    @model_validator(mode="before")
    @classmethod
    def _one_rule(cls, value: Any) -> Any:
        if isinstance(value, dict):
            given = [name for name in RULES if value.get(name) is not None]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)} both set thresholds: give one of {', '.join(RULES)}")
            if not given:
                return value | {"score": 0.5}
        return value

    @classmethod
    def default(cls) -> Keep:
        """What a recipe without a `keep` section means."""
        return cls.model_validate({})

    @property
    def rule(self) -> str:
        return next(name for name in RULES if getattr(self, name) is not None)

    def limits(self, groups: Sequence[Group], classes: Sequence[str]) -> Thresholds:
        """The thresholds that groups of classes were given, with what this section ignores below them."""
        return limits(groups, classes, self.ignore, top_box=self.rule == "top_box")

    @field_validator("where")
    @classmethod
    def _where_is_an_expression(cls, where: str | None) -> str | None:
        if where is not None:
            compiled(where)
        return where


def keep_of(manifest: Manifest) -> Keep:
    """The rules that a version was cut with. Raises BuildError for what are none."""
    return recorded(
        f"{manifest.name}@{manifest.version}", "provenance.inputs.keep", Keep, manifest.provenance.inputs.keep
    )


def version_classes(keep: Keep, description: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes of a version that `keep` makes of the predictions of a teacher with this description.

    Raises BuildError for rules that mean nothing for what this teacher gives, for a name that no class can have, and as
    `ClassMap.over` does.
    """
    kind = kind_of(description["kind"])
    if not kind.overlaps:
        wrong = [name for name in WHOLE_IMAGE if getattr(keep, name) is not None]
        if kind.pixels and keep.balance:
            wrong.append("balance")
        if wrong:
            raise BuildError(f"keep.{wrong[0]} means nothing for the {kind.noun} that this teacher labels: remove it")
    if kind.pixels and keep.precision and keep.precision.bound == "exact":
        raise BuildError(
            "keep.precision.bound exact bets on single objects, and these are pixels: set bound: clustered"
        )
    mapped = class_map(keep, description)
    classes: tuple[str, ...] = mapped.classes if mapped else tuple(description["classes"])
    if (bad := next((name for name in classes if not NAMES["class"].fullmatch(name)), None)) is not None:
        raise BuildError(
            f"class {brief(repr(bad))} holds a tab, a line end or another control character, which no class of a "
            "version can: make it another with keep.classes.map, or correct it where the teacher has it from"
        )
    return classes


def class_map(keep: Keep, description: Mapping[str, Any]) -> Mapped | None:
    """`keep.classes` over the classes of a teacher with this description, None without one."""
    return keep.classes.over(description["classes"]) if keep.classes else None


@cache
def compiled(expression: str) -> Where:
    return Where(expression)
