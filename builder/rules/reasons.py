"""Why an object is what it is: the one table of reasons."""

from __future__ import annotations

from enum import IntEnum

OUTCOMES = ("kept", "ignored", "dropped")
"""What becomes of an object; positions are the codes in a Decision."""
KEPT, IGNORED, DROPPED = range(len(OUTCOMES))


class Reason(IntEnum):
    """A reason is its code in a Decision, its place in this table, which rules come before people.

    outcome: of all objects that have it; None: as `keep.refused` says. words: in a count of such objects. sentence: of
    one object, after the same or instead of it; of_pixels: of a map's pixels of a class, after their share. In both
    `it` stands for what builder.versions.reasons.Explained knows of the object. action: of the override that gives it
    (builder.rules.overrides.Action), "" for rules, and for an object that another one's override replaces.
    """

    outcome: int | None
    words: str
    sentence: str
    of_pixels: str
    action: str

    KEPT = ("kept", "kept", "{it.score} reaches {it.threshold}", "reach {it.threshold}")
    BELOW_THRESHOLD = (
        "dropped",
        "score below the threshold",
        "{it.score} is below {it.threshold}{it.band}",
        "are below {it.threshold}: void",
    )
    IGNORE_BAND = (
        "ignored",
        "score between the ignore and the keep threshold",
        "{it.score} is below {it.threshold}, but reaches {it.ignored_from}, from which on {it.noun} are ignored",
        "are below {it.threshold}, but reach {it.ignored_from}: void",
    )
    NO_THRESHOLD = (
        "ignored",
        "of a class without a threshold",
        "{it.score} reaches {it.ignored_from}, from which on {it.noun} are ignored, but not {it.threshold}",
        "reach {it.ignored_from}, but not {it.threshold}: void",
    )
    CLASS_IGNORED = ("ignored", "of a class that is ignored", "keep.classes ignored the teacher's class {it.label}")
    CLASS_DROPPED = ("dropped", "of a class that is dropped", "keep.classes dropped the teacher's class {it.label}")
    NMS = (
        "dropped",
        "overlaps a better box of its class",
        "another {it.singular} of the class overlaps it by more than nms {it.keep[nms]}{it.rival}",
    )
    CAP = (
        None,
        "the image has better boxes enough",
        "the image has {it.keep[max_per_image]} better {it.noun}, which is max_per_image",
    )
    WHERE_FALSE = (
        None,
        "the recipe's condition says no",
        "`where` is false for it: {it.keep[where]}",
        "are above {it.threshold}, but `where` is false for them: {it.keep[where]}: void",
    )
    WHERE_NULL = (
        None,
        "the recipe's condition cannot be computed",
        "`where` is NULL for it, neither true nor false: {it.keep[where]}",
        "are above {it.threshold}, but `where` is NULL for them: {it.keep[where]}: void",
    )
    WHERE_NAN = (
        None,
        "the recipe's condition compares what is no number",
        "`where` compares what is no number (NaN) for it: {it.keep[where]}",
        "are above {it.threshold}, but `where` compares what is no number (NaN) for them: {it.keep[where]}: void",
    )
    SIZE = (
        None,
        "smaller than the recipe's least size",
        "its shorter side of {it.side} pixels is below min_size {it.keep[min_size]}",
    )
    UNCERTAIN = (
        None,
        "the teacher is unsure of its place",
        "its box uncertainty {it.uncertainty} above {it.keep[uncertainty]}",
    )
    THINNED = (
        "dropped",
        "the class has more images than the balance asks for",
        "the class has more than the {it.most} images that keep.balance asks for, and chance left it out",
    )
    ACCEPTED = ("kept", "accepted", "accepted by {it.person}, whatever its score", "", "accept")
    RELABELLED = ("kept", "relabelled", "given the class {it.label} by {it.person}{it.before}", "", "relabel")
    MOVED = ("kept", "moved", "its box was drawn by {it.person}{it.place}", "", "move")
    ADDED = ("kept", "added", "drawn by {it.person}, where the teacher had no such object", "", "add")
    REJECTED = ("dropped", "rejected", "rejected by {it.person}", "", "reject")
    SUPERSEDED = ("dropped", "superseded", "a {it.label} that {it.person} marked there stands for it")

    def __new__(cls, outcome: str | None, words: str, sentence: str, of_pixels: str = "", action: str = "") -> Reason:
        code = len(cls.__members__)
        reason = int.__new__(cls, code)
        reason._value_ = code
        reason.outcome = None if outcome is None else OUTCOMES.index(outcome)
        reason.words, reason.sentence = words, sentence
        reason.of_pixels, reason.action = of_pixels, action
        return reason

    @property
    def key(self) -> str:
        """As labels.parquet and manifests have it."""
        return self.name.lower()

    @property
    def by_people(self) -> bool:
        """Whether people gave it."""
        return self >= Reason.ACCEPTED


REASONS = tuple(reason.key for reason in Reason)
"""The keys, by code."""
BY_KEY = {reason.key: reason for reason in Reason}
BY_ACTION = {reason.action: reason for reason in Reason if reason.action}
