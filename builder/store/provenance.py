"""How a version came about, as its manifest records it: plain typed records, which explain the bytes and are no part of
them.

What another room validates stays JSON here: the recipe (builder.recipe.recipe.Recipe), the rules
(builder.rules.keep.Keep), the calibration (builder.rules.calibrator.Calibrator) and the teacher's description.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, ValidationError, field_validator

from builder.errors import BuildError, brief
from builder.sections import Section, complaint
from teachers.depth import Reading

Json = dict[str, Any]
Made = TypeVar("Made", bound=Section)
Id = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{0,64}$")]
"""SHA-256, hex, by which a thing of the store is called; "" for none. Paths are made of it."""
UNKNOWN = "unknown"
"""A licence, or a teacher, that nobody named."""
TAKEN_OVER, SOLVED_AGAIN = "taken over", "solved again"
"""What became of a parent's thresholds."""


def recorded(version: str, part: str, model: type[Made], value: Json) -> Made:
    """A part of a manifest that another room validates, as that room's record.

    Args:
        version: that the manifest is of, NAME@vN.
        part: the key of the part.
        model: the record.
        value: what stands there.

    Raises:
        BuildError: it is none. A version may come from elsewhere, with hashes that fit.
    """
    try:
        return model.model_validate(value)
    except (ValidationError, BuildError, RecursionError) as error:
        why = complaint(error, part) if isinstance(error, ValidationError) else f"{part}: {brief(error)}"
        raise BuildError(f"{version} says of itself what no version can ({why}): get it from somebody else") from None


class Record(Section):
    """A part of a manifest. A manifest of an older Tutelage may lack keys, which are then as the defaults say, and one
    of a newer may have more of them: `stored` gives back what was read, without the former and with the latter."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    def stored(self, **options: Any) -> Json:
        """JSON-ready, with the keys that were given. options: of `model_dump`."""
        return self.model_dump(exclude_unset=True, **options)

    def whole(self) -> Self:
        """The same with every key given, so that all are stored."""
        return self.model_validate(self.model_dump())


class Group(Record):
    """Classes that share a threshold, and the evidence for it.

    threshold: kept from here on; None: nothing is kept. units: n, truth images or declared units in `certify`; kept and
    correct: K and C at the threshold, of maps in pixels; effective: n*; p_value, lower: of the accepted step (1 - delta
    confidence). support: expected truth support of the group, from the pool's scores, of maps in images; needed: b.
    reason: why it is not certified.
    """

    classes: list[str]
    rule: Literal["score", "precision", "density", "balance", "mixture", "top_box"]
    threshold: float | None
    ignore: float | None = None
    """Where the group has its own threshold for ignore regions."""
    background: bool = False
    """Whether all that is not kept is background, and nothing ignored for its score."""
    certified: bool = False
    reason: str = ""
    target: float | None = None
    delta: float | None = None
    iou: float | None = None
    bound: str | None = None
    units: int | None = None
    kept: int | None = None
    correct: int | None = None
    effective: float | None = None
    p_value: float | None = None
    lower: float | None = None
    support: float | None = None
    needed: int | None = None


@dataclass(frozen=True)
class Finding:
    """What a gate found. status: ok, warn or fail; message: one sentence."""

    name: str
    status: str
    message: str


class TeacherRecord(Record):
    """spec: as the recipe names it. license: of its weights, None where nobody said. description: as the teacher gives
    it (teachers.base.Teacher), with kind, classes and floor. runtime: what it ran on."""

    spec: str = UNKNOWN
    license: str | None = None
    description: Json = Field(default_factory=dict)
    runtime: Json = Field(default_factory=dict)

    @field_validator("description")
    @classmethod
    def _says_what_it_labels(cls, description: Json) -> Json:
        names = description.get("classes", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"its classes {brief(repr(names))} are no list of names")
        floor = description.get("floor", 0.0)
        if isinstance(floor, bool) or not isinstance(floor, int | float) or not 0 <= floor <= 1:
            raise ValueError(f"its floor {brief(repr(floor))} is no score")
        if not isinstance(description.get("kind", ""), str):
            raise ValueError(f"its kind {brief(repr(description['kind']))} is no word")
        return description

    @property
    def classes(self) -> list[str]:
        """The teacher's own; empty if unknown."""
        return list(self.description.get("classes", []))


class Licences(Record):
    """Of the source images and of the teacher, None where nobody said."""

    source: str | None = None
    teacher: str | None = None


class ClassMeasured(Record):
    """What thresholds keep of one class on labels that they were not solved on, in objects, of maps in pixels.

    kept, correct: predictions that count, and those that are right; precision with the interval low to high. objects,
    hits: what is labelled, and what of it is found; recall with the interval recall_low to recall_high. precision,
    recall: None where nothing is kept, or there is nothing to find; an interval that says nothing is 0 to 1."""

    kept: int
    correct: int
    precision: float | None = None
    low: float
    high: float
    objects: int = 0
    hits: int = 0
    recall: float | None = None
    recall_low: float = 0.0
    recall_high: float = 1.0


class Measured(ClassMeasured):
    """The same of all classes together (builder.evidence.holdout.measure). iou: overlap that makes a prediction right.
    level: of every interval, two-sided, each by itself. classes: those that teacher and labels share, each by itself;
    empty in versions of older tools."""

    iou: float
    level: float
    classes: dict[str, ClassMeasured] = Field(default_factory=dict)


class TruthRecord(Record):
    """The human labels that served. source: as the recipe names them. images: labelled ones; tune, certify: of them
    with predictions, in either half; left_out: without. digest: of the certify half; uses: of it so far, this one
    included, 0 where nothing was solved on it. measured: on the tune half; None in versions of older tools with
    `uses`."""

    source: str = ""
    images: int
    tune: int
    certify: int
    left_out: int = 0
    digest: str = ""
    uses: int = 0
    measured: Measured | None = None


class OverrideSummary(Record):
    """What became of the overrides in force. digest: of what they say. count: of them, of which were applied, are
    orphans, wait for an object to reject, or are about images that are elsewhere; then those applied by action."""

    digest: str | None = None
    count: int = 0
    applied: int = 0
    orphans: int = 0
    waiting: int = 0
    elsewhere: int = 0
    accept: int = 0
    reject: int = 0
    relabel: int = 0
    move: int = 0
    add: int = 0


class ParentRecord(Record):
    """The version that this one goes on from. version: NAME@vN; manifest: Manifest.pin, "" in versions of older tools;
    pool: its id; thresholds: taken over or solved again."""

    version: str
    id: str = ""
    manifest: str = ""
    pool: str = ""
    thresholds: str = ""

    @property
    def taken_over(self) -> bool:
        """Whether the thresholds, and the evidence for them, are the parent's."""
        return self.thresholds == TAKEN_OVER


class ImageInputs(Record):
    """The recipe's `images` (builder.recipe.recipe.ImageOptions)."""

    drop_empty: bool = False
    near_duplicates: int | None = None
    damaged: Literal["drop", "keep"] = "drop"
    range: Literal["type", "data"] | float | None = None

    @property
    def reading(self) -> Reading:
        return Reading(self.damaged, self.range)


class ShardInputs(Record):
    """The recipe's `shards` (builder.recipe.recipe.ShardOptions)."""

    max_mb: int | None = None
    max_images: int | None = None
    image_format: str = ""
    strip_metadata: bool = False
    images: Literal["inside", "shared"] = "inside"


class GateInputs(Record):
    """The recipe's `gates` (builder.evidence.gates.Gates)."""

    on_leak: str = ""
    leak_distance: int | None = None
    teacher_overlap: str = ""
    density: Json = Field(default_factory=dict)
    min_precision: float | None = None
    coverage: str = ""
    shift: str = ""


class Inputs(Record):
    """All that decides a version: two builds with equal inputs are the same version.

    format: builder.cut.samples.FORMAT. pool: its id; predictions: the teacher's fingerprint. keep: the rules.
    unlabelled: digest of the images without predictions. truth: digest of the labels; references: ids of the pools that
    had to stay out, by name; parent: its id; overrides: digest of what people said, None for nothing. changed: SHA-256
    of pool images whose bytes were others when the version was cut, which only the cut can find.
    """

    format: int = 0
    pool: Id = ""
    predictions: Id = ""
    keep: Json = Field(default_factory=dict)
    images: ImageInputs = ImageInputs()
    shards: ShardInputs = ShardInputs()
    gates: GateInputs = GateInputs()
    licenses: list[str | None] = Field(default_factory=list)
    unlabelled: str = ""
    truth: str | None = None
    references: dict[str, Id] = Field(default_factory=dict)
    parent: str | None = None
    resolve: bool = False
    overrides: str | None = None
    changed: list[str] = Field(default_factory=list)

    def claimed(self) -> Json:
        """What a version is claimed by, before any of it is cut."""
        return self.stored(exclude={"changed"})


class Provenance(Record):
    """tool: its name and version. recipe: as written. plan: first chunk of each shard, written or not, and the one past
    its last; empty in versions of older tools. balance: images kept of each class, where `keep.balance` repeats and
    thins them. truth, calibration, overrides, parent: None where there is none."""

    tool: str = ""
    recipe: Json = Field(default_factory=dict)
    inputs: Inputs = Inputs()
    teacher: TeacherRecord = TeacherRecord()
    licences: Licences = Licences()
    thresholds: list[Group] = Field(default_factory=list)
    calibration: Json | None = None
    truth: TruthRecord | None = None
    gates: list[Finding] = Field(default_factory=list)
    overrides: OverrideSummary | None = None
    parent: ParentRecord | None = None
    plan: list[tuple[int, int]] = Field(default_factory=list)
    balance: tuple[int, ...] | None = None
