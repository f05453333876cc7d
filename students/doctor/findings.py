"""All that can be found, the most telling first, over the settings of a study, the worst first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from students.doctor.of_arms import (
    errors_learned,
    few_seeds,
    half_batch,
    is_above,
    no_ceiling,
    not_of_the_pool,
    short_of_steps,
    short_teacher,
)
from students.doctor.of_selections import classes_gone, imprecise, nearly_nothing, no_filter, one_sided, unequal_passes
from students.doctor.of_trainings import (
    clipped,
    mostly_ignored,
    no_step,
    not_learning,
    overfit,
    ratio_at_limit,
    ratio_multiplies,
    still_falling,
    teacher_falling,
)
from students.doctor.records import Case, Finding

Find = Callable[[Case], Finding | None]
ORDER: tuple[Find, ...] = (
    no_step,
    not_learning,
    short_of_steps,
    no_ceiling,
    half_batch,
    short_teacher,
    teacher_falling,
    no_filter,
    nearly_nothing,
    errors_learned,
    imprecise,
    classes_gone,
    one_sided,
    mostly_ignored,
    ratio_at_limit,
    ratio_multiplies,
    unequal_passes,
    overfit,
    clipped,
    still_falling,
    few_seeds,
)
"""What broke the training; what no label can mend, or the pool has to make up for; the teacher; its labels; how they
are learned; how sure that is."""
OF_A_GAIN: tuple[Find, ...] = (not_of_the_pool,)
"""What can be found where a student won."""
INSTEAD = {"teacher-falling": "short-teacher", "still-falling": "short-of-steps"}
"""Of a setting the first is not told where the second is: the arms show the same, and what it costs."""


def judge(cases: Sequence[Case]) -> list[Finding]:
    """What is found in the cases whose student is not better than its baseline, each finding once, then of the gain of
    the others."""
    lost = sorted((case for case in cases if not is_above(case.outcome)), key=_outcome)
    won = [case for case in cases if is_above(case.outcome)]
    found: dict[str, list[tuple[Case, Finding]]] = {}
    for find, among in [*((find, lost) for find in ORDER), *((find, won) for find in OF_A_GAIN)]:
        for case in among:
            if finding := find(case):
                found.setdefault(finding.name, []).append((case, finding))
    findings = []
    for name, where in found.items():
        told = {id(case) for case, _ in found.get(INSTEAD.get(name, ""), ())}
        if left := [(case, finding) for case, finding in where if id(case) not in told]:
            first = left[0][1]
            findings.append(Finding(name, first.sentence, first.figures, tuple(case.where for case, _ in left)))
    return findings


def _outcome(case: Case) -> float:
    return case.outcome.mean if case.outcome is not None and not math.isnan(case.outcome.mean) else 0.0
