"""What the arms of a study say of why a student is no better: steps, ceiling, teacher, seeds."""

from __future__ import annotations

import math

from builder.words import count
from students.doctor.of_selections import HARMLESS, remedy
from students.doctor.records import Case, Finding, Gap
from students.study.compare import LEAST

CLEAR = 0.035
"""Between two arms of one seed, less by the root of the seeds, up to LEAST of them, which must all agree: of CIFAR-10's
networks (docs/studies) that differ in their seed alone nine pairs in ten are less apart (of BCCD's less than .051)."""
NO_BETTER = 0.01
"""Of a student above its teacher, up to which it is where that is."""
SHORT = 0.02
"""Of a teacher below a supervised network, to be called short of steps; less costs its labels little."""


def is_above(gap: Gap | None) -> bool:
    """Whether the first arm is better: its interval lies above 0, or, of fewer than LEAST seeds, every one does."""
    if gap is None or not gap.seeds:
        return False
    return gap.low > 0 if gap.seeds >= LEAST and not math.isnan(gap.low) else gap.least > 0


def is_clearly_above(gap: Gap | None) -> bool:
    """The same by CLEAR where there are fewer than LEAST seeds."""
    if gap is None or not is_above(gap):
        return False
    return gap.seeds >= LEAST or gap.mean >= CLEAR / math.sqrt(gap.seeds)


def _brings_nothing(gap: Gap | None) -> bool:
    """Whether the first arm is no better, by more than a few seeds can show by chance."""
    if gap is None or not gap.seeds or is_above(gap):
        return False
    return gap.mean <= (0 if gap.seeds >= LEAST else -CLEAR / math.sqrt(gap.seeds))


def points(share: float) -> str:
    """A share as points."""
    return f"{100 * share:.1f}"


def range_words(gap: Gap) -> str:
    """How sure a difference is: its interval, or how few seeds it is of."""
    if gap.seeds >= LEAST and not math.isnan(gap.low):
        return f"interval {100 * gap.low:+.1f} to {100 * gap.high:+.1f} over {gap.seeds} seeds"
    return f"{gap.seeds} seed{'s' * (gap.seeds > 1)}"


def short_of_steps(case: Case) -> Finding | None:
    """Supervision for the teacher's steps as well is better than for the student's alone."""
    gap = case.longer
    if gap is None or not is_clearly_above(gap):
        return None
    labels = ", not of labels" if _brings_nothing(case.ceiling) else ""
    sentence = (
        f"the networks are short of steps{labels}: {count(case.longer_steps - case.steps)} more supervised steps "
        f"({gap.arm}) are worth {points(gap.mean)} points of {case.metric} ({points(gap.other)} to "
        f"{points(gap.value)}, {range_words(gap)}); raise train.steps from "
        f"{count(case.steps)} until {gap.arm} gains nothing, and only "
        "then spend steps on a teacher"
    )
    return Finding("short-of-steps", sentence, {"gain": gap.mean, "steps": case.steps, "longer": case.longer_steps})


def no_ceiling(case: Case) -> Finding | None:
    """The pool with its true labels is no better than the baseline."""
    gap = case.ceiling
    if gap is None or not gap.seeds or is_above(gap):
        return None
    if _brings_nothing(gap):
        what, so = "even the pool's true labels bring nothing", "no pseudo-labels can"
    else:
        what, so = "not even the pool's true labels are shown to bring anything", "pseudo-labels hardly can"
    sentence = (
        f"{what}: ceiling is {100 * gap.mean:+.1f} points of {case.metric} against "
        f"{gap.against} ({points(gap.value)} against {points(gap.other)}, {range_words(gap)}), so that {so}; labels "
        "are not what is short: try fewer (grid.fractions), more steps, or another start"
    )
    return Finding("no-ceiling", sentence, {"ceiling": gap.value, "baseline": gap.other})


def short_teacher(case: Case) -> Finding | None:
    """The teacher is well below a network that learned the same labels for the student's steps; or its loss, or its
    figures on val, were still moving when it stopped."""
    gap = case.taught
    if gap is not None and is_clearly_above(gap) and gap.mean >= SHORT and case.teacher_steps < case.steps:
        sentence = (
            f"the teacher is short of steps: after {count(case.teacher_steps)} it is {points(gap.mean)} points of "
            f"{case.metric} below supervised after {count(case.steps)} ({points(gap.other)} against "
            f"{points(gap.value)}); raise teacher.steps, so that it labels with what the labels can teach"
        )
        return Finding("short-teacher", sentence, {"below": gap.mean, "steps": case.teacher_steps})
    return None


def half_batch(case: Case) -> Finding | None:
    """What every batch gives up for the pool's half costs much, as the labelled images again in its place show."""
    gap = case.half
    if gap is None or not is_clearly_above(gap) or gap.mean < SHORT:
        return None
    alike = gap.arm == "supervised"
    what, how = ("costs", "as many steps") if alike else ("and the teacher's steps cost", "its teacher's steps as well")
    sentence = (
        f"half of every batch {what} {points(gap.mean)} points of {case.metric}, which the pool has to make up for: "
        f"placebo, which learns the labelled images again there, as the teacher labels them, ends at "
        f"{points(gap.other)}, {gap.arm}, with {how}, at {points(gap.value)} ({range_words(gap)}); raise train.steps "
        "until less is lost, or lower alpha"
    )
    return Finding("half-batch", sentence, {"cost": gap.mean, "placebo": gap.other, gap.arm: gap.value})


def not_of_the_pool(case: Case) -> Finding | None:
    """The student won, and placebo has most of its gain, so that the pool is not shown to bring it."""
    gain, gap = case.outcome, case.pool
    if gain is None or gap is None or not is_above(gain) or is_above(gap) or gap.mean > gain.mean / 2:
        return None
    sentence = (
        f"the gain is not shown to come from the pool: {gap.arm} ends at {points(gap.value)} points of {case.metric}, "
        f"placebo, which learns the labelled images again in the pool's place, at {points(gap.other)} "
        f"({100 * gap.mean:+.1f} points against it, {range_words(gap)}), {gain.against} at {points(gain.other)}; hold "
        "another pool, or surer labels of this one, against placebo before you label more"
    )
    return Finding("not-of-the-pool", sentence, {"gain": gain.mean, "over_placebo": gap.mean})


def errors_learned(case: Case) -> Finding | None:
    """The student ends where its teacher is, whose errors are in the labels."""
    wrong = 1 - _mean([selection.precision for selection in case.selections])
    if not case.student - case.teacher < NO_BETTER or wrong < HARMLESS:
        return None
    if math.isnan(wrong):
        sentence = (
            f"the student is no better than its teacher ({points(case.student)} points of {case.metric}, the teacher "
            f"{points(case.teacher)}), so it learned at most what that knew, errors too; the pool's true labels would "
            "show how many (pool_truth, or --truth)"
        )
        return Finding("no-better-than-teacher", sentence, {"student": case.student, "teacher": case.teacher})
    sentence = (
        f"the student learned its teacher's errors: it ends at {points(case.student)} points of {case.metric}, the "
        f"teacher at {points(case.teacher)}, and {points(wrong)} % of what it was taught is wrong"
    )
    if case.ceiling is not None and case.ceiling.value > case.student:
        sentence += f" (with the pool's true labels it ends at {points(case.ceiling.value)})"
    sentence += f"; {remedy(case.selections)}"
    return Finding("errors-learned", sentence, {"student": case.student, "teacher": case.teacher, "wrong": wrong})


def few_seeds(case: Case) -> Finding | None:
    """The outcome is no more than a direction."""
    gap = case.outcome
    if gap is None or not gap.seeds:
        return None
    if gap.seeds < LEAST:
        seeds = f"{gap.seeds} seed{'s show' if gap.seeds > 1 else ' shows'}"
        sentence = (
            f"{seeds} a direction only ({gap.arm} {100 * gap.mean:+.1f} points of {case.metric} against "
            f"{gap.against}): run {LEAST} (seeds: {LEAST})"
        )
    elif gap.low <= 0 <= gap.high:
        sentence = (
            f"nothing is shown either way: {gap.arm} is {100 * gap.mean:+.1f} points of {case.metric} against "
            f"{gap.against}, {range_words(gap)}; more seeds or more test images would narrow it"
        )
    else:
        return None
    return Finding("few-seeds", sentence, {"seeds": gap.seeds, "mean": gap.mean})


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
