"""A study's folder as cases: the students of each setting, with whatever of it is still there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from builder.errors import BuildError, brief
from builder.store.store import Store
from builder.truth.records import LabelledImage, Truth
from builder.words import count
from students.doctor.records import Case, Found, Gap, Labels, Selection, Training
from students.doctor.selections import by_sha256, read_labels, read_selection
from students.doctor.trainings import FEWEST, learned_from, read_recipe, read_training
from students.study.axes import Cells, Setting, described, index, partner
from students.study.cell import RUN
from students.study.compare import Contrast, compare, spread
from students.study.data import ALIKE, read_labelled
from students.study.grid import CELLS, FOLDERS, STORE
from students.study.grid import cells as planned
from students.study.recipe import CONTINUED, TEACHER, StudyRecipe
from students.study.results import RESULTS, CellResult, read_results
from students.study.worker import RECIPE
from teachers.errors import TutelageError

BASES = {
    "self-training": ("longer", "supervised"),
    "self-training+joint": ("longer", "supervised"),
    "doubly-robust": ("longer", "supervised"),
    "continued-student": ("continued", "longer", "supervised"),
}
"""Arms that learn a teacher's labels -> what each is held against, the first that was run."""
STUDENTS, TEACHERS, VERSIONS = "students' logs", "teachers' logs", "versions they learned"
RIGHT = "the pool's true labels"
OURS = "pool-"
"""Names of versions that a teacher labelled begin with this, and go on with the teacher's folder."""


@dataclass
class _Study:
    """A study as it lies there. truth: labelled images of its pool by SHA-256, of the record `of`."""

    out: Path
    store: Store
    cells: Cells
    human: Labels | None
    truth: Mapping[str, LabelledImage]
    of: Truth
    students: list[Training] = field(default_factory=list)
    teachers: dict[Path, Training] = field(default_factory=dict)
    selections: list[Selection] = field(default_factory=list)
    trouble: dict[str, str] = field(default_factory=dict)


def is_study(folder: Path) -> bool:
    return (folder / RECIPE).is_file() or (folder / RESULTS).is_file()


def read_study(folder: Path, truth: Truth | None = None, trust: bool = False) -> Found:
    """The cases of a study. truth: labels of its pool, in place of those of its recipe. trust: see Store. Raises
    BuildError for one without results."""
    if not (folder / RESULTS).is_file():
        raise BuildError(f"study {folder} has no {RESULTS} yet: run `tutelage study` until a first cell is done")
    cells = index(read_results(folder / RESULTS))
    recipe, found = _recipe(folder), Found()
    human, truth = _people(recipe, truth, found)
    there: dict[str, LabelledImage] = {}
    try:
        there = by_sha256(truth) if truth else there
    except OSError as error:
        found.blind.append(f"the pool's true labels ({error.filename} cannot be read)")
    study = _Study(folder, Store(folder / STORE, trust=trust), cells, human, there, truth or Truth((), [], ()))
    settings = [setting for setting in cells if setting.arm in BASES and setting.round == 1]
    if not settings and recipe and not BASES.keys().isdisjoint(recipe.grid.arms):
        raise BuildError(f"study {folder} has no result of an arm that learns pseudo-labels yet: run `tutelage study`")
    if not settings:
        raise BuildError(f"study {folder} has no arm that learns pseudo-labels: add self-training to grid.arms")
    found.cases = [_case(study, setting, len(settings) > 1) for setting in settings]
    _tell(study, found, settings)
    _tell_alike(study, found)
    if recipe and (left := len(planned(recipe)) - sum(map(len, cells.values()))) > 0:
        found.blind.append(f"{_cells(left)} of the grid that did not run yet (`tutelage study` goes on)")
    return found


def _recipe(folder: Path) -> StudyRecipe | None:
    try:
        return StudyRecipe.model_validate_json((folder / RECIPE).read_bytes())
    except (OSError, ValueError):
        return None


def _people(recipe: StudyRecipe | None, truth: Truth | None, found: Found) -> tuple[Labels | None, Truth | None]:
    """What people say: of the labelled images, and of the pool."""
    if recipe is None:
        found.blind.append(f"the labels (no {RECIPE} that leads to them)")
        return None, truth
    human = None
    try:
        human = read_labels(read_labelled(recipe.labelled))
        found.looked.append("the classes of the labels")
    except BuildError:
        found.blind.append("the classes of the labels (they are not where the study's recipe says)")
    if truth is None and recipe.pool_truth is not None:
        try:
            truth = read_labelled(recipe.pool_truth)
        except BuildError:
            found.blind.append("the pool's true labels (they are not where the study's recipe says: --truth LABELS)")
    elif truth is None:
        found.blind.append("the pool's true labels (no pool_truth in the recipe: --truth LABELS)")
    return human, truth


def _case(study: _Study, setting: Setting, several: bool) -> Case:
    """One setting, over its seeds."""
    cells, seeds = study.cells, [result for result in study.cells[setting].values() if result.done]
    students, teachers, selections = _remains(study, seeds)
    study.students += students
    study.selections += selections
    base = next((other for arm in BASES[setting.arm] if (other := partner(setting, cells, arm))), None)
    supervised, ceiling, placebo = (partner(setting, cells, arm) for arm in ("supervised", "ceiling", "placebo"))
    longer = partner(setting, cells, "longer") or partner(setting, cells, "continued")
    arms = {other.arm for other in cells if other.arm in BASES}
    where = described(setting, cells) if several else ""
    first = seeds[0] if seeds else None
    return Case(
        where=f"{setting.arm}, {where}" if several and len(arms) > 1 else where,
        arm=setting.arm,
        metric=first.metric if first else "",
        students=students,
        teachers=teachers,
        selections=selections,
        student=_mean([result.value for result in seeds]),
        teacher=_mean([result.teacher_value for result in seeds]),
        outcome=_gap(cells, setting, base),
        longer=_gap(cells, longer, supervised),
        taught=_taught(cells, setting, supervised),
        ceiling=_gap(cells, ceiling, base),
        pool=None if setting.arm in CONTINUED else _gap(cells, setting, placebo),
        half=_gap(cells, supervised or partner(setting, cells, "longer"), placebo),
        steps=first.steps if first else 0,
        teacher_steps=first.teacher_steps if first else 0,
        longer_steps=_steps(cells, longer),
        batch=first.batch if first else 0,
        images=(_mean([result.labelled for result in seeds]), _mean([result.pool for result in seeds])),
    )


def _remains(
    study: _Study, seeds: Sequence[CellResult]
) -> tuple[tuple[Training, ...], tuple[Training, ...], tuple[Selection, ...]]:
    """Trainings of students and teachers, and selections, as far as their files are there."""
    students, teachers, selections = [], [], []
    for result in seeds:
        run = study.out / CELLS / result.cell[:16] / RUN
        if training := _try(study, STUDENTS, run, partial(read_training, run)):
            students.append(training)
        recipe = _try(study, STUDENTS, run, partial(read_recipe, run)) or {}
        for named in learned_from(recipe) or []:
            if not named["name"].startswith(OURS):
                continue
            teacher = study.out / named["name"].removeprefix(OURS).replace("-", "/", 1) / RUN
            if training := study.teachers.get(teacher) or _try(
                study, TEACHERS, teacher, partial(read_training, teacher)
            ):
                study.teachers[teacher] = training
                teachers.append(training)
            if selection := _try(study, VERSIONS, study.store.root, partial(_selection, study, named)):
                selections.append(selection)
    return tuple(students), tuple(teachers), tuple(selections)


def _selection(study: _Study, named: Mapping[str, str]) -> Selection:
    version = study.store.version(f"{named['name']}@{named['version']}")
    if version.manifest.id != named["id"]:
        raise BuildError(f"{version.ref} was built again, with other contents than the student learned")
    try:
        return read_selection(version, study.human, study.truth, study.of)
    except BuildError as error:
        bare = read_selection(version, study.human, {}, study.of)
        study.trouble.setdefault(RIGHT, str(error))
        return bare


def _try(study: _Study, what: str, place: Path, read: Callable[[], Any]) -> Any:
    """What is there to read at a place; None else, and why, where it is there but cannot be read."""
    try:
        return read() if place.is_dir() else None
    except (TutelageError, OSError) as error:
        study.trouble.setdefault(what, str(error))
        return None


def _gap(cells: Cells, setting: Setting | None, other: Setting | None) -> Gap | None:
    """How much better the first is, paired by seed; None where no pair is done."""
    if setting is None or other is None:
        return None
    found = compare(Contrast("", ((1, setting), (-1, other))), cells)
    value, base = (_mean([cells[each][seed].value for seed in found.seeds]) for each in (setting, other))
    return _as_gap(setting.arm, other.arm, found.by_seed, value, base)


def _taught(cells: Cells, setting: Setting, supervised: Setting | None) -> Gap | None:
    """How much better supervised training is than the teacher."""
    if supervised is None:
        return None
    pairs = [
        (cells[supervised][seed].value, result.teacher_value)
        for seed, result in cells[setting].items()
        if result.done and seed in cells[supervised] and cells[supervised][seed].done
    ]
    value, base = _mean([pair[0] for pair in pairs]), _mean([pair[1] for pair in pairs])
    return _as_gap("supervised", "teacher", [ours - theirs for ours, theirs in pairs], value, base)


def _as_gap(arm: str, against: str, by_seed: Sequence[float], value: float, other: float) -> Gap | None:
    if not by_seed or any(map(math.isnan, by_seed)):
        return None
    found = spread(by_seed)
    return Gap(arm, against, found.n, found.mean, found.low, found.high, found.least, value, other)


def _steps(cells: Cells, setting: Setting | None) -> int:
    """Of a network, and of the teacher that it starts from."""
    rows = cells[setting].values() if setting else ()
    return max((result.steps + result.teacher_steps for result in rows), default=0)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _tell(study: _Study, found: Found, settings: Sequence[Setting]) -> None:
    """What could be looked at, and what could not."""
    results = [result for seeds in study.cells.values() for result in seeds.values()]
    cells = sum(result.done for setting in settings for result in study.cells[setting].values())
    arms = {setting.arm for setting in study.cells}
    found.looked.insert(0, f"{len(results)} cells of the arms {', '.join(sorted(arms))}")
    for name, there, what in (
        (STUDENTS, len(study.students), CELLS),
        (TEACHERS, len(study.teachers), FOLDERS[TEACHER]),
        (VERSIONS, len(study.selections), STORE),
    ):
        if there:
            found.looked.append(f"{there} {name}")
        if cells and (not there or (there < cells and name != TEACHERS)):
            lacking = f"{cells - there} of the {name}" if there else name
            found.blind.append(f"{lacking} ({study.trouble.get(name) or f'not in {what}/'})")
    if any(selection.right for selection in study.selections):
        found.looked.append(RIGHT)
    elif study.truth and study.selections:
        found.blind.append(f"{RIGHT} ({study.trouble.get(RIGHT, 'none is of an image of the versions')})")
    if missing := [arm for arm in ("longer", "ceiling", "placebo") if arm not in arms]:
        found.blind.append(f"what the arm{'s' * (len(missing) > 1)} {', '.join(missing)} would show")
    if study.students and all(math.isnan(training.last) for training in study.students):
        found.blind.append(f"how the losses went (no log has {count(FEWEST)} steps with a figure to tell it by)")
    if study.students and not any(training.val for training in study.students):
        found.blind.append("val during training (no val in train)")
    if lost := [result for result in results if not result.done]:
        found.blind.append(f"{_cells(len(lost))} that failed ({brief(lost[0].error or 'no figure')})")
    if any(setting.round > 1 for setting in study.cells):
        found.blind.append("rounds after the first, whose budget is not the baseline's")


def _cells(number: int) -> str:
    return f"{count(number)} cell{'s' * (number != 1)}"


def _tell_alike(study: _Study, found: Found) -> None:
    """What looks like measured images, where the study has kept it."""
    what, path = "images that look like measured ones", study.out / ALIKE
    try:
        alike = orjson.loads(path.read_bytes())
        if not isinstance(alike, list) or not all(isinstance(each, str) for each in alike):
            raise ValueError("no list of sentences")
    except FileNotFoundError:
        found.blind.append(f"{what} (no {ALIKE}: run `tutelage study` again)")
    except (OSError, ValueError) as error:
        found.blind.append(f"{what} ({ALIKE} cannot be read, {brief(error)}: remove it, run `tutelage study` again)")
    else:
        found.alike = alike
        found.looked.append(what)
