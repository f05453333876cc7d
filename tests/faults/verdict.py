"""What a command made of a fault."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from tests.faults.commands import Ran


class Verdict(StrEnum):
    """What became of a fault. The first four are as it should be, or as it must be."""

    REFUSED = "refused"  # a non-zero exit and one sentence
    SURVIVED = "survived"  # exit 0, and the outcome is right, or the fault stands in it as a row or a warning
    HARMLESS = "harmless"  # bytes or values proved equal
    UNDETECTABLE = "undetectable"  # valid data of another picture: nothing in the file tells
    SILENT = "silent"  # exit 0, and other than it should be; or a failure without a word
    TRACEBACK = "traceback"
    WORDY = "wordy"  # an error of several lines
    HANG = "hang"
    MEMORY = "memory"
    LOST = "lost"  # finished work is gone, or the next run does not get to the end

    @property
    def good(self) -> bool:
        return self in (Verdict.REFUSED, Verdict.SURVIVED, Verdict.HARMLESS, Verdict.UNDETECTABLE)


STARTS = ("Error: ", "stopped: ")
"""How the one sentence of a command that failed begins."""


def judge(ran: Ran, right: Callable[[], bool] | None = None) -> Verdict:
    """The verdict on a command that met a fault.

    right: asked where it ended with 0: whether what it made is as it should be, or names the fault. A command that
    ended itself with another code must have said one sentence, the last thing on stderr, or a report on stdout (as
    `verify` does).
    """
    if ran.ended != "exit":
        return Verdict.HANG if ran.ended == "time" else Verdict.MEMORY
    if "Traceback (most recent call last)" in ran.stderr or ran.code < 0:
        return Verdict.TRACEBACK
    if ran.code == 0:
        return Verdict.SURVIVED if right is None or right() else Verdict.SILENT
    lines = [line for line in ran.stderr.splitlines() if line.strip()]
    first = next((n for n, line in enumerate(lines) if line.startswith(STARTS)), None)
    if first is None:
        return Verdict.REFUSED if ran.stdout.strip() and ran.code == 1 else Verdict.SILENT
    return Verdict.REFUSED if first == len(lines) - 1 else Verdict.WORDY
