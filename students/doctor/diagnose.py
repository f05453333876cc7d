"""The folder of a run or of a study, looked at and judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from builder.store.store import Store
from builder.truth.records import Truth
from builder.words import count
from students.doctor.findings import judge
from students.doctor.of_arms import is_above, range_words
from students.doctor.records import Case, Diagnosis, Finding, Found
from students.doctor.runs import read_run
from students.doctor.studies import is_study, read_study
from students.study.compare import LEAST


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
        if test is not None:
            found.blind.append("--test (it is for runs: a study refuses images that it also measures on)")
        leaks = _alike(found)
        subject, verdict = f"study {folder.resolve().name}", _verdict(found.cases)
    else:
        found, leaks = read_run(folder, Store("store") if store is None else store, truth, test)
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
