"""What logs say of why a student is no better: the learning rate, steps, the joint loss, too much of few labels.

Figures are means over the trainings of one setting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from builder.words import count, percent
from students.doctor.records import Case, Finding, Training

STILL = 0.01
"""Share of steps without a finite loss and gradient from which it is no accident; fp16 has a few while it finds its
scale."""
MOSTLY = 0.5
"""Share of steps from which it is most of them."""
FLAT = 0.95
"""Last loss over the first from which a network has not learned; .84 is the most in one that did here (CIFAR-10,
S4)."""
FALLING = 0.9
"""Last loss over that at three quarters of the steps below which it still falls. The rate falls to 0 over them, so that
a network that has steps enough hardly moves in the last tenth. Not so the other way: CIFAR-10's networks under S4,
which gain from more steps, have .96 to .97, so that only the arms of a study show it."""
SMALL = 0.1
"""Last loss over the first below which a fall means nothing: it is learned."""
NOTHING = 0.05
"""Last loss over the first from which the labels are known by heart."""
FALLS = 0.01
"""Of a figure on val: what its last one lies below its best, or its best part below the last."""
EARLY = 0.7
"""Share of the steps by which the best figure on val must have come for it to have stood since."""
MUCH = 2.5
"""Ratio of the joint loss from which it multiplies what is learned already: 1.1 to 1.2 on BCCD; from 2.9 on, on CamVid,
none of the students gained."""
LEFT_OUT = 0.3
"""Share of the pseudo stream that is left out of the loss beyond that of the human one; padding is in both."""


def no_step(case: Case) -> Finding | None:
    """Steps that move nothing."""
    if not (share := _mean(case, "still")) >= STILL:
        return None
    sentence = (
        f"{percent(share)} of the steps moved no weight, since the loss or its gradient was not finite; lower lr from "
        f"{_mean(case, 'lr'):g}, or train in fp32"
    )
    return Finding("no-step", sentence, {"share": share})


def not_learning(case: Case) -> Finding | None:
    """A network that begins with random weights and has the loss it began with."""
    parts = [part for part in case.students if part.scratch and part.ended]
    if not parts or not (part := _ratio(parts, "last", "first")) >= FLAT:
        return None
    sentence = (
        f"the network hardly learned: its loss on the human labels ends at {percent(part)} of what it began with "
        f"({parts[0].first:.3g} to {parts[0].last:.3g}); try another lr than {parts[0].lr:g}, weaker augmentation, or "
        "more steps"
    )
    return Finding("not-learning", sentence, {"left": part})


def clipped(case: Case) -> Finding | None:
    """Gradients that are clipped all the time."""
    share = _mean(case, "clipped")
    if not share >= MOSTLY:
        return None
    sentence = (
        f"the gradient is clipped in {percent(share)} of the steps (its norm is {_mean(case, 'norm'):.3g}, clip_norm "
        f"{_mean(case, 'clip_norm'):g}), so lr is not what it says; lower lr from {_mean(case, 'lr'):g}, or raise "
        "clip_norm"
    )
    return Finding("clipped", sentence, {"share": share})


def still_falling(case: Case) -> Finding | None:
    """The student's own loss falls to its last step."""
    return _falling(case.students, "network", "steps", "still-falling")


def teacher_falling(case: Case) -> Finding | None:
    """The same of the teacher, or of its figures on val."""
    if found := _falling(case.teachers, "teacher", "its steps", "teacher-falling"):
        return found
    rising = [part for part in case.teachers if part.ended and _rises(part)]
    if not rising or 2 * len(rising) <= len(case.teachers):
        return None
    first = rising[0]
    sentence = (
        f"the teacher stopped while it rose: its {first.metric} on val goes from {first.val[-2][1]:.3f} to "
        f"{first.val[-1][1]:.3f} over its last {count(first.val[-1][0] - first.val[-2][0])} steps; train it longer"
    )
    return Finding("teacher-falling", sentence, {"from": first.val[-2][1], "to": first.val[-1][1]})


def _falling(parts: Sequence[Training], who: str, what: str, name: str) -> Finding | None:
    parts = [part for part in parts if part.ended]
    if not parts or not _ratio(parts, "last", "first") > SMALL:
        return None
    if not (left := _ratio(parts, "last", "before")) < FALLING:
        return None
    sentence = (
        f"the {who} stopped while its loss on the human labels fell, by {percent(1 - left)} over the last quarter of "
        f"{count(parts[0].planned)} steps ({parts[0].before:.3g} to {parts[0].last:.3g}); raise {what}"
    )
    return Finding(name, sentence, {"fall": 1 - left, "steps": parts[0].planned})


def _rises(part: Training) -> bool:
    """Whether the last figure on val is the best by FALLS."""
    return len(part.val) > 2 and part.val[-1][1] >= max(value for _, value in part.val[:-1]) + FALLS


def ratio_at_limit(case: Case) -> Finding | None:
    """The ratio of the joint loss is what `clip` says in most steps."""
    rate, ratio, raw = (_mean(case, name) for name in ("clip_rate", "ratio", "unclipped"))
    if not rate > MOSTLY or ratio <= 1 < raw:  # a limit of 1 is that of maps, and is meant
        return None
    if raw > 1:
        why = (
            "the pseudo-labels are far easier than the human ones, mostly what the network knows; lower alpha from "
            f"{_mean(case, 'alpha'):g}"
        )
    else:
        why = (
            f"the human labels are nearly known by heart, so the pseudo-labels outweigh them {ratio / raw:.2g} times; "
            f"augment more, or lower alpha from {_mean(case, 'alpha'):g}"
        )
    sentence = (
        f"the ratio of the joint loss is at its limit in {percent(rate)} of the steps ({ratio:.3g}, without the limit "
        f"{raw:.3g}): {why}"
    )
    return Finding("ratio-at-limit", sentence, {"clip_rate": rate, "ratio": ratio, "unclipped": raw})


def ratio_multiplies(case: Case) -> Finding | None:
    """The ratio makes much of a pseudo loss that is small."""
    ratio, raw = _mean(case, "ratio"), _mean(case, "unclipped")
    if not ratio >= MUCH or _mean(case, "clip_rate") > MOSTLY:
        return None
    limit = f", {raw:.3g} without its limit" if raw > 1.02 * ratio else ""
    sentence = (
        f"the joint loss multiplies the pseudo loss by {ratio:.3g}{limit}, since the network knows most of these "
        f"labels already; try alpha 0.1 to 0.3 in place of {_mean(case, 'alpha'):g}"
    )
    return Finding("ratio-multiplies", sentence, {"ratio": ratio, "unclipped": raw})


def mostly_ignored(case: Case) -> Finding | None:
    """Most of the pool is left out of the loss."""
    parts = [part for part in case.students if part.joint]
    human, pseudo = (_of([part.ignored[stream] for part in parts]) for stream in (0, 1))
    if not pseudo - human >= LEFT_OUT:
        return None
    sentence = (
        f"{percent(pseudo)} of the pseudo stream teaches nothing, void or ignored, against {percent(human)} of the "
        "human one; lower the threshold (keep.score), or ignore a narrower band below it (keep.ignore)"
    )
    return Finding("mostly-ignored", sentence, {"pseudo": pseudo, "human": human})


def overfit(case: Case) -> Finding | None:
    """The labels are known by heart while val falls or stands."""
    for part in case.students:
        if len(part.val) < 3 or not part.last <= NOTHING * part.first:
            continue
        (step, best), last = max(part.val, key=lambda pair: (pair[1], -pair[0])), part.val[-1][1]
        if best - last < FALLS and step > EARLY * part.steps:
            continue
        how = f"falls to {last:.3f}" if best - last >= FALLS else "stands"
        sentence = (
            f"the labels are known by heart (loss {part.first:.3g} to {part.last:.3g}) while {part.metric} on val "
            f"{how}: its best is {best:.3f}, after {count(step)} of {count(part.steps)} steps; train less, or augment "
            "more"
        )
        return Finding("overfit", sentence, {"best": best, "last": last, "step": step})
    return None


def _mean(case: Case, name: str) -> float:
    return _of([getattr(part, name) for part in case.students])


def _of(values: Sequence[Any]) -> float:
    known = [float(value) for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _ratio(parts: Sequence[Training], name: str, to: str) -> float:
    return _of([getattr(part, name) / getattr(part, to) for part in parts if getattr(part, to)])
