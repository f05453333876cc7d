"""Rounds of self-training: the student becomes the next teacher, labels the same pool again, and so on.

`OUT/round-1`, `OUT/round-2`, … are the students' run folders, the versions they learn from go on from one another in
the store, and `OUT/rounds.json` says how the pseudo-labels drift and which round does best on `val`. Each part is found
again where it is done, so that a killed run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from os.path import realpath, relpath
from pathlib import Path

import orjson
from accelerate import PartialState
from pydantic import TypeAdapter, ValidationError

from builder.build import build_pseudo
from builder.cut.version import Cut
from builder.engine import Track, silent
from builder.evidence.holdout import load_labels
from builder.label.load import load_model
from builder.label.section import TeacherSection
from builder.recipe.recipe import Recipe, load_recipe
from builder.store.files import digest, locked, sha256_file, write_file
from builder.store.store import Store
from builder.truth.read import read_section
from builder.truth.records import Truth, subset
from students.evaluate.measure import kind_measure, measure
from students.rounds.drift import agreement, precision
from students.rounds.page import Outcome, Round, rounds_page
from students.train.errors import TrainError
from students.train.loop import Progress, train
from students.train.recipe import Rounds, TrainRecipe
from students.train.setup import labels_digest, make_plan
from teachers.base import TeacherOptions
from teachers.networks.meta import META, read_meta

ROUNDS, PAGE = "rounds.json", "rounds.html"
OF_A_STUDENT = ("floor", "nms_iou", "top_k", "max_detections", "dtype", "tta", "batch_size", "device", "threads")
"""Options of the first teacher that students take over; the others are about its own files."""

Steps = Callable[[int], AbstractContextManager[Progress]]
"""`with steps(5000) as progress`: what a training of so many steps reports to; the command line draws bars."""


def run_rounds(
    recipe: TrainRecipe,
    out: Path,
    store: Store,
    *,
    track: Track = silent,
    steps: Steps = lambda count: nullcontext(lambda record: None),
    allow_code: bool = False,
    report: bool = True,
) -> Outcome:
    """Build a version, train a student, measure it on val: `rounds.count` times, or until a student does worse than the
    best before it.

    The first teacher is the build recipe's own, the next is the student, with the same rules and those options that a
    student has, without a class map, since its classes are the labelled set's. A version's parent is the one before,
    but its thresholds are solved again. allow_code, report: see `builder.build.build_pseudo`. Raises TrainError for val
    images that the first teacher or a student has learned from, or that are in the build recipe's test set, and as
    `build`, `train` and `measure` do.
    """
    rounds = _checked(recipe, out)
    val, val_digest = _val(rounds, recipe)
    labels = load_recipe(rounds.build)
    work = _Work(recipe, rounds, labels, val, val_digest, out, store, track, steps, allow_code, report)
    with locked(out / ".lock", f"the rounds in {out}", sweep=[out]):
        if not (out / "round-1" / META).is_file():
            work.check_start()
        known, done = _known(out, work.digest), list[Round]()
        while True:
            done.append(work.round(done, known))
            outcome = _outcome(done, work)
            options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
            write_file(out / ROUNDS, orjson.dumps(asdict(outcome), option=options))
            write_file(out / PAGE, rounds_page(outcome))
            if outcome.ended:
                return outcome


@dataclass(frozen=True)
class _Work:
    """What all rounds share. labels: the build recipe as written; val: human labels; digest: of them."""

    recipe: TrainRecipe
    rounds: Rounds
    labels: Recipe
    val: Truth
    digest: str
    out: Path
    store: Store
    track: Track
    steps: Steps
    allow_code: bool
    report: bool

    @property
    def root(self) -> Path:
        """What the build recipe's paths are relative to."""
        return self.rounds.build.parent

    @property
    def metric(self) -> str:
        metric = kind_measure(self.val.kind).metric
        return f"mask_{metric}" if self.recipe.network.arch == "maskrcnn" else metric

    @cached_property
    def val_images(self) -> frozenset[str]:
        return frozenset(sha256_file(image.path) for image in self.val.images)

    def round(self, done: Sequence[Round], known: Sequence[Round]) -> Round:
        """The next round after those that are done, whole; what is known of it is not measured again."""
        number = len(done) + 1
        labels = self.next_labels(done[-1]) if done else self.labels
        made = self.build(labels)
        version = f"{made.manifest.name}@{made.manifest.version}"
        run = self.student(number, version)
        weights = read_meta(run).weights.sha256
        same = (number, version, made.manifest.id, weights)
        for earlier in known:
            if (earlier.number, earlier.version, earlier.id, earlier.weights) == same:
                return earlier
        return Round(
            number=number,
            teacher=labels.teacher.name,
            teacher_val=done[-1].val if done else self.first_figure(),
            version=version,
            id=made.manifest.id,
            images=made.manifest.samples,
            kept={name: counts["kept"] for name, counts in made.manifest.per_class.items()},
            agreement=agreement(self.store.version(done[-1].version), made, self.store) if done else None,
            precision=precision(made, labels.rooted(self.root), self.store),
            run=run.name,
            weights=weights,
            val=self.figure(self.teacher_of(run)),
        )

    def build(self, labels: Recipe) -> Cut:
        """The version of a round."""
        made = build_pseudo(
            labels, self.store, root=self.root, report=self.report, allow_code=self.allow_code, track=self.track
        ).cut
        assert made is not None  # nothing less than a version was asked for
        return made

    def next_labels(self, before: Round) -> Recipe:
        """The build recipe with the student of a round as its teacher."""
        keep = self.labels.keep.model_copy(update={"classes": None})
        teacher = self.teacher_of(self.out / before.run)
        return self.labels.model_copy(
            update={"teacher": teacher, "keep": keep, "parent": before.version, "resolve": True}
        )

    def teacher_of(self, run: Path) -> TeacherSection:
        """A student as a teacher, its path as the build recipe would write it."""
        given = self.labels.teacher
        options = TeacherOptions(**{name: getattr(given.options, name) for name in OF_A_STUDENT})
        spec = f"checkpoint:{relpath(realpath(run), realpath(self.root))}"
        return TeacherSection(spec=spec, license=given.license, options=options)

    def student(self, number: int, version: str) -> Path:
        """The trained run folder of a round."""
        networks, run = self.rounds.students, self.out / f"round-{number}"
        network = networks[min(number, len(networks)) - 1] if networks else self.recipe.network
        pseudo = (*self.recipe.pseudo, version)
        recipe = self.recipe.model_copy(update={"rounds": None, "pseudo": pseudo, "network": network})
        if not (run / META).is_file():
            self.check_val(make_plan(recipe, self.store).trained_on, f"in {version} or in what {run.name} starts from")
        with self.steps(recipe.steps) as progress:
            return train(recipe, run, self.store, progress)

    def check_start(self) -> None:
        """Before anything is labelled: that the val images are not in the test set, and that neither the labelled set
        nor the first teacher knows them."""
        test = self.labels.rooted(self.root).test
        if test:
            pool = load_labels(test, self.store, written=test.source, part="test", workers=None, track=self.track).pool
            self.check_val((image.sha256 for image in pool.images()), "in the build recipe's test set")
        plan = make_plan(self.recipe.model_copy(update={"rounds": None}), self.store)
        self.check_val(plan.trained_on, "in the labelled set, or in what the students start from or learn besides")
        if self.is_model:
            teacher = load_model(self.labels.teacher.rooted(self.root), self.allow_code)
            name = self.labels.teacher.name
            self.check_val(getattr(teacher, "trained_on", ()), f"among those that the teacher {name} was trained on")

    def check_val(self, seen: Iterable[str], where: str) -> None:
        """Raises TrainError if images of val are among those with these SHA-256, which are `where`."""
        if both := self.val_images.intersection(seen):
            raise TrainError(
                f"{len(both)} images of rounds.val {self.rounds.val.path} are {where}: "
                "rounds are chosen by images of their own, which nothing learns from"
            )

    @property
    def is_model(self) -> bool:
        """Whether the first teacher is one, and not stored predictions."""
        return not (self.labels.teacher.spec or "").startswith("replay:")

    def first_figure(self) -> float | None:
        """Of the first teacher on val, if it is a model and says the labels' classes by their names."""
        if self.labels.keep.classes or not self.is_model:
            return None
        return self.figure(self.labels.teacher)

    def figure(self, teacher: TeacherSection) -> float:
        """Of a teacher on val, with the options with which it labels."""
        metrics = measure(load_model(teacher.rooted(self.root), self.allow_code), self.val).metrics
        return float(metrics[self.metric])


def _checked(recipe: TrainRecipe, out: Path) -> Rounds:
    """The recipe's rounds, if they can be made into this folder."""
    rounds = recipe.rounds
    if rounds is None:
        raise TrainError("the recipe has no rounds: add rounds: {count: 3, build: recipe.yaml, val: val.json}")
    if PartialState().num_processes > 1:
        raise TrainError("rounds are made by one process: start them without accelerate launch")
    if len(rounds.students) > rounds.count:
        raise TrainError(f"rounds.students names {len(rounds.students)} networks for {rounds.count} rounds")
    names = [path.name for path in out.iterdir()] if out.is_dir() else []
    strange = [name for name in names if name[0] != "." and name not in (ROUNDS, PAGE) and name[:6] != "round-"]
    if strange:
        raise TrainError(f"{out} holds other files, such as {min(strange)}: give a new or an empty folder")
    return rounds


def _val(rounds: Rounds, recipe: TrainRecipe) -> tuple[Truth, str]:
    """The labels that rounds are chosen by, and a digest of them."""
    section = rounds.val
    val = read_section(section.options, "truth", recipe.network.arch == "maskrcnn")
    known = digest([labels_digest(val, section.path), section.limit, recipe.seed])
    return subset(val, section.limit, recipe.seed) if section.limit else val, known


def _outcome(done: Sequence[Round], work: _Work) -> Outcome:
    """The rounds so far, and whether there is to be another one."""
    best = max(done, key=lambda entry: (entry.val, -entry.number))
    last, metric, ended = done[-1], work.metric, ""
    if last.val < best.val:
        ended = f"stopped: {metric} on val fell from {best.val:.4f} in round {best.number} to {last.val:.4f}"
    elif len(done) == work.rounds.count:
        ended = f"all {len(done)} rounds are made"
    return Outcome(metric, work.digest, tuple(done), best.number, ended)


def _known(out: Path, labels: str) -> Sequence[Round]:
    """What `rounds.json` says of rounds measured on these val labels. Raises TrainError if it is damaged."""
    try:
        outcome = TypeAdapter(Outcome).validate_json((out / ROUNDS).read_bytes())
    except FileNotFoundError:
        return ()
    except ValidationError:
        raise TrainError(f"{out / ROUNDS} is damaged: remove it; the rounds themselves are kept") from None
    return outcome.rounds if outcome.digest == labels else ()
