"""The folder of a run as a case of its own: its log, the versions it learned from, and the log of their teacher."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from builder.errors import BuildError
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.records import Truth
from builder.words import count
from students.doctor.records import Case, Finding, Found, Training
from students.doctor.selections import by_sha256, read_selection
from students.doctor.trainings import FEWEST, learned_from, read_recipe, read_training
from students.study.cell import RUN
from students.study.grid import FOLDERS
from students.study.recipe import TEACHER
from students.train.run import LOG, RECIPE
from teachers.errors import TutelageError
from teachers.networks.meta import META, read_meta

FAMILY = "checkpoint"
"""Of a teacher that is a run."""


def read_run(folder: Path, store: Store, truth: Truth | None, test: Truth | None) -> tuple[Found, list[Finding]]:
    """A run as a case, and the leaks into `test`. Raises as students.doctor.diagnose.doctor does."""
    _check(folder)
    training, recipe, found = read_training(folder), read_recipe(folder), Found()
    found.looked.append(f"the log of {count(training.steps)} steps")
    named = learned_from(recipe)
    if named is None:
        found.blind.append(f"what it learned from (no {RECIPE} that names the versions)")
    versions = _versions(named or [], store, found)
    there = by_sha256(truth) if truth else {}
    selections = [read_selection(version, None, there, truth or Truth((), [], ())) for version in versions]
    learned = set(read_meta(folder).trained_on) if (folder / META).is_file() else set()
    pool = sum(version.manifest.distinct for version in versions)
    whole = learned and training.scratch and named is not None and len(versions) == len(named)
    found.cases = [
        Case(
            students=(training,),
            teachers=tuple(_teachers(folder, store, versions, found)),
            selections=tuple(selections),
            steps=training.planned,
            batch=training.batch,
            images=(len(learned) - pool if whole else 0, sum(version.manifest.samples for version in versions)),
        )
    ]
    if any(selection.right for selection in selections):
        found.looked.append("the pool's true labels")
    elif versions:
        why = "--truth LABELS of images of the pool" if truth is None else "no image of --truth is in them"
        found.blind.append(f"how much of the pseudo-labels is right ({why})")
    elif truth is not None:
        found.blind.append("--truth (there are no pseudo-labels here to hold against it)")
    _tell_course(training, found)
    found.blind.append("what equally long supervision, or true labels, would reach (`tutelage study`)")
    return found, _leaks(learned, test, found)


def _check(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise BuildError(f"{folder} {what}: give the folder of a run or of a study")
    if rounds := sorted(folder.glob("round-*")):
        raise BuildError(f"{folder} holds rounds: give one of them, such as {rounds[-1]}")
    if not any((folder / name).is_file() for name in (LOG, RECIPE, META)):
        raise BuildError(f"{folder} is neither a run nor a study: give what `tutelage train` or `tutelage study` wrote")


def _tell_course(training: Training, found: Found) -> None:
    """What of a training's course could be looked at, and what could not."""
    if not training.ended:
        found.blind.append(
            f"how it ends (the log has {count(training.steps)} of {count(training.planned)} steps: if it was broken "
            "off, the same `tutelage train` goes on)"
        )
    if math.isnan(training.last):
        found.blind.append(f"how its loss went (the log has no {count(FEWEST)} steps with a figure to tell it by)")
    if training.val:
        found.looked.append(f"{training.metric} on val")
    else:
        found.blind.append("val (no figure on it in the log: overfitting shows in nothing else)")


def _versions(named: Sequence[dict[str, str]], store: Store, found: Found) -> list[Version]:
    """Those that a run learned from, as far as the store has them."""
    versions = []
    for each in named:
        ref = f"{each['name']}@{each['version']}"
        try:
            version = store.version(ref)
        except BuildError:
            found.blind.append(f"{ref}, which it learned from (not in the store {store.root}: --store)")
            continue
        if version.manifest.id != each["id"]:
            found.blind.append(f"{ref}, which it learned from (the store {store.root} has another one: --store)")
            continue
        versions.append(version)
        found.looked.append(ref)
    return versions


def _teachers(folder: Path, store: Store, versions: Sequence[Version], found: Found) -> Iterator[Training]:
    """The trainings of the runs that labelled the versions, each once, known by their weights."""
    told: set[str] = set()
    for version in versions:
        teacher = version.manifest.provenance.teacher
        weights = str(teacher.description.get("weights_sha256", ""))
        if teacher.description.get("family") != FAMILY or not weights:
            found.blind.append(f"how the teacher of {version.ref} learned ({teacher.spec} is no run of Tutelage)")
            continue
        if weights in told:
            continue
        told.add(weights)
        try:
            run = next((run for run in _places(folder, store, teacher.spec) if _has_weights(run, weights)), None)
            if run is None:
                where = f"no run with its weights at {teacher.spec.partition(':')[2]}, nor beside this one"
                found.blind.append(f"how the teacher of {version.ref} learned ({where}: ask where it was built)")
                continue
            training = read_training(run)
        except (TutelageError, OSError) as error:
            found.blind.append(f"how the teacher of {version.ref} learned ({error})")
            continue
        found.looked.append(f"the log of its teacher {run}")
        yield training


def _places(folder: Path, store: Store, spec: str) -> Iterator[Path]:
    """Where the run of a spec may lie, of which a version keeps no more than the name where it was absolute: here,
    beside the store, beside the student, or among the teachers of a study."""
    path = Path(spec.partition(":")[2])
    yield from (path, store.root.resolve().parent / path, folder.resolve().parent / path.name)
    for study in folder.resolve().parents[2:3]:
        yield from sorted((study / FOLDERS[TEACHER]).glob(f"*/{RUN}"))


def _has_weights(run: Path, sha256: str) -> bool:
    try:
        return (run / META).is_file() and read_meta(run).weights.sha256 == sha256
    except TutelageError:
        return False


def _leaks(learned: set[str], test: Truth | None, found: Found) -> list[Finding]:
    """Images of `test` that a run has learned from."""
    if test is None or not learned:
        found.blind.append(
            "test images among those it learned from " + ("(--test LABELS)" if learned else f"(no {META})")
        )
        return []
    found.looked.append(f"{count(len(test.images))} test images")
    common = [image.name for sha, image in by_sha256(test).items() if sha in learned]
    if not common:
        return []
    sentence = (
        f"{count(len(common))} of {count(len(test.images))} test images were learned from ({common[0]} is one), so "
        "that figures on them mean nothing: take them out of the labels or the pool, and train again"
    )
    return [Finding("leak", sentence, {"images": len(common), "of": len(test.images)})]
