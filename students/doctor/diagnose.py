"""The folder of a run or of a study, looked at and judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.errors import BuildError
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.records import Truth
from builder.words import count
from students.doctor.findings import judge
from students.doctor.of_arms import is_above, range_words
from students.doctor.records import Case, Diagnosis, Finding
from students.doctor.selections import by_sha256, read_selection
from students.doctor.studies import Found, is_study, read_study
from students.doctor.trainings import read_recipe, read_training
from students.study.compare import LEAST
from students.train.run import LOG, RECIPE
from teachers.networks.meta import META, read_meta


def doctor(
    folder: Path | str, store: Store | None = None, truth: Truth | None = None, test: Truth | None = None
) -> Diagnosis:
    """Say why a student is no better: read what a run or a study left, and judge it. It changes neither.

    Args:
        folder: of a run (`tutelage train`) or of a study (`tutelage study`).
        store: where the versions of a run lie; `./store` by default. A study has its own.
        truth: human labels of images of the pool, by which the pseudo-labels are measured. Of a study its `pool_truth`
            by default.
        test: human labels of images that nothing may have learned from. Only for a run: a study refuses shared ones.

    Returns:
        What was found, the most telling first, what was looked at, and what could not be.

    Raises:
        BuildError: the folder is neither, a run has no log, or a study no results.
        TrainError: a log is damaged.
    """
    folder = Path(folder)
    if is_study(folder):
        found = read_study(folder, truth, store is not None and store.trust)
        leaks = _alike(found)
        subject, verdict = f"study {folder.resolve().name}", _verdict(found.cases)
    else:
        found, leaks = _read_run(folder, Store("store") if store is None else store, truth, test)
        subject, verdict = f"run {folder.resolve().name}", ""
    findings = judge(found.cases)
    first = [leak for leak in leaks if leak.name == "leak"]
    last = [leak for leak in leaks if leak.name != "leak"]
    won = bool(found.cases) and all(is_above(case.outcome) for case in found.cases)
    return Diagnosis(subject, verdict, won, (*first, *findings, *last), tuple(found.looked), tuple(found.blind))


def _verdict(cases: Sequence[Case]) -> str:
    """How the students did against their baselines."""
    known = [case for case in cases if case.outcome is not None]
    if not known:
        return "whether its students are any better is not known: no baseline (longer, supervised) is done"
    won = [case for case in known if is_above(case.outcome)]
    ranked = sorted(known, key=lambda case: -case.outcome.mean if case.outcome else 0.0)
    best, worst = _against(ranked[0]), _against(ranked[-1])
    if len(known) == 1:
        gap = known[0].outcome
        how = "wins" if won else "is no better" if gap is None or gap.mean <= 0 else "is not shown to be better"
        return f"{known[0].arm} {how}: {best}"
    how = f"better than the baseline at {len(won)} of {len(known)} settings"
    return f"students are {how}: from {best} to {worst}"


def _against(case: Case) -> str:
    gap = case.outcome
    assert gap is not None  # or it were not known
    few = ", a direction only" if gap.seeds < LEAST else ""
    where = f" at {case.where}" if case.where else ""
    return f"{100 * gap.mean:+.1f} points of {case.metric} against {gap.against}{where} ({range_words(gap)}{few})"


def _alike(found: Found) -> list[Finding]:
    if not found.alike:
        return []
    many = len(found.alike) > 1
    some = f"{count(len(found.alike))} images that are learned from look like measured ones"
    which = some if many else "an image that is learned from looks like a measured one"
    sentence = (
        f"{which} ({found.alike[0]}), so that all arms may look better than they are: where they "
        "show the same thing, take them out"
    )
    return [Finding("alike", sentence, {"images": len(found.alike)})]


def _read_run(folder: Path, store: Store, truth: Truth | None, test: Truth | None) -> tuple[Found, list[Finding]]:
    """A run as a case of its own. Raises BuildError for a folder that is none."""
    if not folder.is_dir():
        raise BuildError(f"{folder} does not exist: give the folder of a run or of a study")
    if rounds := sorted(folder.glob("round-*")):
        raise BuildError(f"{folder} holds rounds: give one of them, such as {rounds[-1]}")
    if not any((folder / name).is_file() for name in (LOG, RECIPE, META)):
        raise BuildError(f"{folder} is neither a run nor a study: give what `tutelage train` or `tutelage study` wrote")
    training, recipe, found = read_training(folder), read_recipe(folder), Found()
    found.looked.append(f"the log of {count(training.steps)} steps")
    versions = _versions(recipe.get("pseudo", []), store, found)
    there = by_sha256(truth) if truth else {}
    selections = [read_selection(version, None, there, truth or Truth((), [], ())) for version in versions]
    learned = set(read_meta(folder).trained_on) if (folder / META).is_file() else set()
    pool = sum(version.manifest.distinct for version in versions)
    whole = learned and training.scratch and len(versions) == len(recipe.get("pseudo", []))
    found.cases = [
        Case(
            students=(training,),
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
    if training.val:
        found.looked.append(f"{training.metric} on val")
    else:
        found.blind.append("val (none in the recipe: overfitting shows in nothing else)")
    found.blind.append("what equally long supervision, or true labels, would reach (`tutelage study`)")
    return found, _leaks(learned, test, found)


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
