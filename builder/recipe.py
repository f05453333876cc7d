"""What `build-pseudo` reads: a recipe, checked whole before any work begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from builder import BuildError, brief
from builder.gates import Gates
from builder.rules import BY_CLASS, NUMBER, Keep
from builder.sections import Section
from builder.store import NAME
from builder.teacher_section import TeacherSection, root

SHORT = {"pool": "source", "teacher": "spec", "truth": "source", "test": "source", "labelled": "source"}
"""Sections that may be written as one string -> the key that the string stands for."""

UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
SECTION = frozenset({"model_type", "model_attributes_type", "dataclass_type"})
EXPECTED = {
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    "dict_type": "a mapping",
    "string_pattern_mismatch": "other characters",
    "string_type": "text (in quotes, if it looks like something else)",
}
"""pydantic's kinds of errors -> what is expected; those of a section that is none are in SECTION."""
EXAMPLES = {
    **dict.fromkeys(SHORT, "a path, or a section such as {source: data/images}"),
    "name": "letters, digits, - and _, at most 64, the first a letter or digit",
    "teacher": 'a spec, or a section such as {spec: "onnx:model.onnx"}',
    "teacher.ensemble": 'a list such as [{spec: "onnx:a.onnx"}, {spec: "checkpoint:runs/b", weight: 2}]',
    "teacher.tta": "a section such as {flip: true, scales: [0.8, 1.0, 1.25]}",
    "teacher.prompts": "a mapping such as {a red car: car}",
    "keep": "a section such as {score: 0.5}",
    "keep.score": 'a number, or a mapping such as {cat: 0.6, "*": 0.5}',
    "keep.ignore": 'a number, a mapping such as {cat: 0.4, "*": 0.3}, or null',
    "keep.precision": "a number, or a section such as {target: 0.8}",
    "keep.classes": "a section such as {map: {car: vehicle}, drop: [person]}",
    "keep.classes.map": "a mapping such as {car: vehicle, truck: vehicle}",
    "keep.density": "a section such as {share: 0.2}",
    "keep.balance": "a section such as {images: 100}",
    "keep.mixture": "a section such as {few: drop}",
    "images": "a section such as {near_duplicates: 4}",
    "shards": "a section such as {max_mb: 256}",
    "gates": "a section such as {on_leak: fail}",
    "gates.density": "a section such as {warn: 2, fail: null} (null: never)",
}
"""Keys of a recipe -> what is expected there."""


class PoolOptions(Section):
    """The `pool` section, or just its `source`. images: the folder of a COCO JSON's files. limit: a smaller pool.
    license: of the images."""

    source: str
    images: str | None = None
    limit: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    chunk: Annotated[int, Field(ge=1, le=2**20)] = 512
    license: str = "unknown"


class LabelOptions(Section):
    """The `truth`, `test` or `labelled` section, or just its `source`. images: where the files of a COCO JSON lie.
    format: see builder.truth.read_truth, recognised if not given. group: which images belong together, `folder` or a
    regular expression whose first group names the unit (a video sequence, a patient, a site)."""

    source: str
    images: str | None = None
    format: Literal["coco", "voc", "yolo", "classes", "masks"] | None = None
    group: str | None = None


class ImageOptions(Section):
    """The `images` section. drop_empty: leave out images on which nothing is kept. near_duplicates: leave out images
    whose hash differs from an earlier one's in at most so many bits."""

    drop_empty: bool = False
    near_duplicates: Annotated[int, Field(ge=0, le=16)] | None = None


class ShardOptions(Section):
    """The `shards` section. max_mb, max_images: image megabytes and images in a shard, in whole chunks, at least one.
    image_format: what a pool of mixed formats is brought to (a pool of one format keeps its bytes)."""

    max_mb: Annotated[int, Field(ge=1, le=2**20)] = 256
    max_images: Annotated[int, Field(ge=1, le=2**20)] = 10_000
    image_format: Literal["jpg", "png", "webp"] = "jpg"


class Recipe(Section):
    """A whole recipe, as written: `rooted` makes its paths lead from where we run.

    truth: held-out human labels, for calibration and certified thresholds. test, labelled: never looked at, only kept
    out of the pool. parent: the version that this one goes on from; its thresholds are taken over unless `resolve`.
    review: whether what people said of this dataset's objects (builder.overrides) is put into force.
    """

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    pool: PoolOptions
    teacher: TeacherSection
    truth: LabelOptions | None = None
    test: LabelOptions | None = None
    labelled: LabelOptions | None = None
    keep: Keep = Field(default_factory=Keep.default)
    gates: Gates = Gates()
    parent: str | None = None
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
        if self.resolve and self.parent is None:
            raise ValueError("resolve is about a parent's thresholds: add parent: NAME@vN, or remove it")
        return self

    def rooted(self, folder: Path) -> Recipe:
        """The same recipe with its relative paths, which are relative to `folder`, made to lead from here."""
        places = {
            name: section.model_copy(
                update={"source": root(section.source, folder), "images": root(section.images, folder)}
            )
            for name in ("pool", "truth", "test", "labelled")
            if (section := getattr(self, name)) is not None
        }
        return self.model_copy(update={"teacher": self.teacher.rooted(folder), **places})


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, with `key.key=value` overrides (values are YAML).

    Raises BuildError, in one sentence that names the key, for anything that is not as `Recipe` says.
    """
    content = read_yaml(path, overrides)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise BuildError(f"recipe {path}: {explain(error)}") from None


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with `key.key=value` overrides. Raises BuildError."""
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise BuildError(f"recipe {path} cannot be read ({error.strerror}): give an existing YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BuildError(f"recipe {path} is not YAML: {brief(error)}") from None
    if not isinstance(content, dict):
        raise BuildError(f"recipe {path} must be a mapping of keys to values, such as name: cells")
    for override in overrides:
        _override(content, override)
    return content


def parse_teacher(spec: str, overrides: Sequence[str]) -> TeacherSection:
    """A teacher section from a spec and `key=value` options, as the command line gives them. Raises BuildError."""
    content: dict[str, Any] = {"spec": spec}
    for override in overrides:
        _override(content, override)
    try:
        return TeacherSection.model_validate(content)
    except ValidationError as error:
        raise BuildError(f"teacher {spec}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """The first complaint of pydantic, unknown keys before others, as a clause with the key, the value and what is
    expected there."""
    complaints = error.errors(include_url=False)
    first = next((one for one in complaints if one["type"] in UNKNOWN), complaints[0])
    key = ".".join(str(part) for part in first["loc"] if part not in ("options", NUMBER, BY_CLASS))
    if first["type"] in UNKNOWN:
        return f"unknown key {key!r}: check its spelling and its place against the recipe reference in the README"
    if first["type"] == "missing":
        return f"{key!r} is missing: add it"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in EXPECTED or first["type"] in SECTION:
        message = f"expected {EXAMPLES.get(key) or EXPECTED.get(first['type'], 'a section of keys and values')}"
    elif message.startswith("Input should be "):
        message = f"must be {message[16:]}"
    if not key:
        return message
    return f"{key} = {_shown(first['input'])}: {message[0].lower()}{message[1:]}"


def _shown(value: object) -> str:
    """A value of a YAML file as it stands there, as far as that is known."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false (YAML reads off and no as false)"}[value]
    return brief(repr(value))


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise BuildError(f"--set {override!r} must be KEY=VALUE, such as keep.score=0.6")
    section = content
    *path, last = key.split(".")
    short = {**SHORT, "precision": "target"}
    for part in path:
        inner = section.setdefault(part, {})
        if part in short and not isinstance(inner, dict):
            inner = section[part] = {short[part]: inner}
        if not isinstance(inner, dict):
            raise BuildError(f"--set {override!r}: {part!r} is {brief(repr(inner))}, not a section")
        section = inner
    try:
        section[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise BuildError(f"--set {override!r}: {value!r} is not YAML") from None
