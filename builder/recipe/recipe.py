"""What `build-pseudo` reads: a recipe, checked whole before any work begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from builder.cluster import Cluster
from builder.engine import Track, silent
from builder.errors import BuildError
from builder.evidence.gates import Gates
from builder.label.section import TeacherSection, root, tail
from builder.recipe.reading import SHORT, explain, read_mapping, with_settings
from builder.rules.keep import Keep
from builder.scan.pool import Pool
from builder.scan.scanner import Foreseen, foresee_scan, scan_pool
from builder.sections import Section
from builder.store.manifest import Manifest
from builder.store.provenance import recorded
from builder.store.store import NAME, Store
from builder.truth.options import LabelOptions, Part, TruthOptions
from teachers.depth import Reading
from teachers.limits import MAX_PIXELS

Text = Annotated[str, Field(min_length=1)]


class PoolOptions(Section):
    """The `pool` section, or just its `source`. images: the folder of a COCO JSON's files. limit: a smaller pool.
    member: the extension of a sample's image in tars, or `all`. max_pixels: an image with more is not read, labelled
    ones neither. license: of the images."""

    source: Text
    images: Text | None = None
    limit: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    member: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] | None = None
    max_pixels: Annotated[int, Field(ge=1, lt=2**40)] = MAX_PIXELS
    chunk: Annotated[int, Field(ge=1, le=2**20)] = 512
    license: str = "unknown"

    def scan(
        self, store: Store, *, workers: int | None = None, track: Track = silent, cluster: Cluster | None = None
    ) -> Pool:
        """The pool, scanned. Raises BuildError as scan_pool does."""
        return scan_pool(
            self.source,
            store,
            images=self.images,
            limit=self.limit,
            member=self.member,
            max_pixels=self.max_pixels,
            chunk_size=self.chunk,
            workers=workers,
            track=track,
            cluster=cluster,
        )

    def foresee(self, store: Store, first: int = 0) -> Foreseen:
        """What `scan` would find (builder.scan.scanner.foresee_scan). Raises BuildError as it does."""
        return foresee_scan(self.source, store, self.images, self.limit, self.member, first)


class ImageOptions(Section):
    """The `images` section. drop_empty: leave out images on which nothing is kept. near_duplicates: leave out images
    whose hash differs from an earlier one's in at most so many bits. damaged: `keep` takes of a JPEG that libjpeg warns
    of what could be decoded, `drop` leaves it out. range: what is white in pixels of more than 8 bits, `type`, `data`
    or a number (teachers.depth.Reading)."""

    drop_empty: bool = False
    near_duplicates: Annotated[int, Field(ge=0, le=16)] | None = None
    damaged: Literal["drop", "keep"] = "drop"
    range: Literal["type", "data"] | Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @field_validator("range", mode="before")
    @classmethod
    def _is_range(cls, value: Any) -> Any:
        try:
            number = None if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = None
        if value in (None, "type", "data") or (number is not None and 0 < number < float("inf")):
            return value
        raise ValueError("must be `type`, `data` or the number that is white, such as 4095")

    @property
    def reading(self) -> Reading:
        return Reading(self.damaged, self.range)

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the keys of `reading` that are not stated, so that versions from before there were any are found."""
        unstated = {"damaged", "range"} - set(self.reading.description)
        return {key: value for key, value in whole(self).items() if key not in unstated}


class ShardOptions(Section):
    """The `shards` section. max_mb, max_images: image megabytes and images in a shard, in whole chunks, at least one.
    image_format: what a pool of mixed formats is brought to (a pool of one format keeps its bytes). strip_metadata:
    take out what images say beside their pixels and colours, such as where they were taken. images: whether shards hold
    their images, or labels only, the images lying once in the store for all versions that show them."""

    max_mb: Annotated[int, Field(ge=1, le=2**20)] = 256
    max_images: Annotated[int, Field(ge=1, le=2**20)] = 10_000
    image_format: Literal["jpg", "png", "webp"] = "jpg"
    strip_metadata: bool = False
    images: Literal["inside", "shared"] = "inside"

    @model_serializer(mode="wrap")
    def _as_before(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `images` where they are inside, so that versions from before they could be shared are found."""
        return {key: value for key, value in whole(self).items() if (key, value) != ("images", "inside")}


class Recipe(Section):
    """A whole recipe, as written: `rooted` makes its paths lead from where we run.

    Attributes:
        name: of the dataset.
        pool: the images.
        teacher: who labels them.
        truth: held-out human labels, for calibration and certified thresholds.
        test, labelled: never looked at, only kept out of the pool.
        keep: the rules.
        gates: what must hold before anything is written.
        parent: the version that this one goes on from; its thresholds are taken over unless `resolve`.
        resolve: solve a parent's thresholds again.
        review: whether what people said of this dataset's objects (builder.rules.overrides) is put into force.
        images: which are left out.
        shards: how large they become.
        max_failure_rate: the share of unreadable images above which a run fails.
    """

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    pool: PoolOptions
    teacher: TeacherSection
    truth: TruthOptions | None = None
    test: LabelOptions | None = None
    labelled: LabelOptions | None = None
    keep: Keep = Field(default_factory=Keep.default)
    gates: Gates = Gates()
    parent: Text | None = None
    resolve: bool = False
    review: bool = True
    images: ImageOptions = ImageOptions()
    shards: ShardOptions = ShardOptions()
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.01

    @field_validator(*SHORT, mode="before")
    @classmethod
    def _short_form(cls, value: Any, info: Any) -> Any:
        return {SHORT[info.field_name]: value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_labels(self) -> Recipe:
        for key in ("precision", "density"):
            if self.truth is None and self.parent is None and getattr(self.keep, key) is not None:
                raise ValueError(f"keep.{key} needs held-out human labels: add truth: LABELS")
        if self.truth is None and self.parent is None and self.keep.calibration != "none":
            raise ValueError("keep.calibration needs held-out human labels: add truth: LABELS")
        if (self.test and self.test.independent) or (self.labelled and self.labelled.independent):
            raise ValueError("independent is about truth, which certifies: remove it from test and labelled")
        if self.resolve and self.parent is None:
            raise ValueError("resolve is about a parent's thresholds: add parent: NAME@vN, or remove it")
        return self

    @property
    def references(self) -> dict[Part, LabelOptions]:
        """The labelled sets that it names, by section."""
        sections: dict[Part, LabelOptions | None] = {"truth": self.truth, "test": self.test, "labelled": self.labelled}
        return {name: section for name, section in sections.items() if section is not None}

    def rooted(self, folder: Path) -> Recipe:
        """The same recipe with its relative paths, which are relative to `folder`, made to lead from here."""

        def lead(section: Any) -> Any:
            return section.model_copy(
                update={"source": root(section.source, folder), "images": root(section.images, folder)}
            )

        places = {
            name: lead(section)
            for name in ("pool", "truth", "test", "labelled")
            if (section := getattr(self, name)) is not None
        }
        if self.truth and self.truth.certify:
            places["truth"] = places["truth"].model_copy(update={"certify": lead(self.truth.certify)})
        return self.model_copy(update={"teacher": self.teacher.rooted(folder), **places})

    def published(self) -> Recipe:
        """The same recipe as a version may tell it to others: of an absolute path only the last part."""

        def told(section: Section) -> Section:
            return section.model_copy(update={key: tail(getattr(section, key)) for key in ("source", "images")})

        names = ("pool", "truth", "test", "labelled")
        places = {name: told(section) for name in names if (section := getattr(self, name)) is not None}
        if self.truth and self.truth.certify:
            places["truth"] = places["truth"].model_copy(update={"certify": told(self.truth.certify)})
        return self.model_copy(update={"teacher": self.teacher.published(), **places})


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe in a YAML file.

    Args:
        path: the file.
        overrides: `key.key=value` each, whose values are YAML, as of `--set`.

    Returns:
        The recipe as written: `rooted(path.parent)` makes its paths lead from here.

    Raises:
        BuildError: for a file that cannot be read, or anything in it that is not as `Recipe` says, by its key.
        TypeError: for overrides that are not a list.
    """
    if isinstance(overrides, str):
        raise TypeError(f"overrides must be a list: give [{overrides!r}]")
    content = read_mapping(Path(path), overrides)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise BuildError(f"recipe {path}: {explain(error, Recipe)}") from None


def parse_images(content: Mapping[str, Any]) -> ImageOptions:
    """An `images` section, as the command line gives it. Raises BuildError."""
    try:
        return ImageOptions.model_validate(content)
    except ValidationError as error:
        raise BuildError(f"images: {explain(error, ImageOptions)}") from None


def recipe_of(manifest: Manifest, **changes: object) -> Recipe:
    """The recipe that a version was built from, with changes. Raises BuildError for what is none."""
    return recorded(
        f"{manifest.name}@{manifest.version}", "provenance.recipe", Recipe, {**manifest.provenance.recipe, **changes}
    )


def parse_teacher(spec: str, overrides: Sequence[str]) -> TeacherSection:
    """A teacher section from a spec and `key=value` options, as the command line gives them. Raises BuildError."""
    content: dict[str, Any] = {"spec": spec}
    for override in overrides:
        with_settings(content, override)
    try:
        return TeacherSection.model_validate(content)
    except ValidationError as error:
        raise BuildError(f"teacher {spec}: {explain(error, TeacherSection)}") from None
