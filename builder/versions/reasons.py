"""Why an object is kept, ignored or dropped, in words with the figures that decided it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from builder.evidence.claims import groups, keep_section
from builder.kinds import LabelKind, kind_of
from builder.report.quality import thresholds
from builder.rules.overrides import Box, Override, overlaps, who
from builder.rules.reasons import BY_KEY, Reason
from builder.store.manifest import Manifest
from builder.store.provenance import Group
from builder.words import percent
from teachers.boxes import iou_matrix

Row = Mapping[str, Any]
"""One row of labels.parquet."""
BOX = ("x1", "y1", "x2", "y2")
BY_TOP_BOX = "{it.score} is below {it.threshold}, but the best of its image, which lowers the threshold (top_box)"
REFUSED = "{it.score} is above {it.threshold}, but {why} (refused: {it.keep[refused]})"
"""Around the sentence of a reason whose outcome is as `keep.refused` says."""


class _Options(dict[str, Any]):
    """`keep` as the version was cut with; None for a key that it does not have."""

    def __missing__(self, key: str) -> None:
        return None


class Reasons:
    """The rules of a version as they were solved, to be asked about the objects of one image after the other."""

    def __init__(self, manifest: Manifest, overrides: Sequence[Override] = ()) -> None:
        """overrides: that were applied to the image."""
        self.overrides = overrides
        self.kind = kind_of(manifest.kind)
        self.keep = _Options({"refused": "ignore", **keep_section(manifest)})
        self._classes = manifest.classes
        self._teacher_classes = manifest.provenance.teacher.classes
        self._group = {name: group for group in groups(manifest) for name in group.classes}
        solved = thresholds(manifest)
        self._kept_from, self._ignored_from = solved.kept_from, solved.ignored_from
        parent = manifest.provenance.parent
        self._source = f", taken over from {parent.version}" if parent and parent.taken_over else ""

    def threshold(self, row: Row) -> float | None:
        """From which its class is kept; None if nothing of it is."""
        value = float(self._kept_from[row["label"]]) if row["label"] >= 0 else np.nan
        return None if np.isnan(value) else value

    def ignored_from(self, row: Row) -> float:
        """NaN where nothing of its class is ignored for its score."""
        return float(self._ignored_from[row["label"]])

    def label(self, row: Row) -> str:
        """The name of its class; the teacher's, in brackets, where the class map gives it none."""
        if row["label"] >= 0:
            return self._classes[row["label"]]
        position: int | None = row.get("teacher_label")
        if position is None or position >= len(self._teacher_classes):
            return "(other)"
        return f"({self._teacher_classes[position]})"

    def group(self, row: Row) -> Group | None:
        return self._group.get(self.label(row))

    def whence(self, row: Row) -> str:
        """Where that threshold comes from."""
        group = self.group(row)
        return (_whence(group) if group else "of unknown origin") + self._source

    def why(self, row: Row, image: Sequence[Row]) -> str:
        """One sentence. image: all rows of its image."""
        reason, it = BY_KEY.get(row["reason"]), Explained(self, row, image)
        aside = reason in (Reason.CLASS_IGNORED, Reason.CLASS_DROPPED)
        if self.kind.pixels and not aside:
            of_pixels = "" if reason is None else reason.of_pixels
            return f"{it.share} {of_pixels.format(it=it) or 'are void: ' + row['reason']}"
        if reason == Reason.KEPT and it.is_below:
            return BY_TOP_BOX.format(it=it)
        if reason is None or reason.outcome is None:
            why = f"refused by {row['reason']!r}" if reason is None else reason.sentence.format(it=it)
            return REFUSED.format(it=it, why=why)
        return reason.sentence.format(it=it)


@dataclass(frozen=True)
class Explained:
    """What the sentences of builder.rules.reasons.Reason can say of an object, in words."""

    rules: Reasons
    row: Row
    image: Sequence[Row]

    @property
    def keep(self) -> Mapping[str, Any]:
        return self.rules.keep

    @property
    def kind(self) -> LabelKind:
        return self.rules.kind

    @property
    def noun(self) -> str:
        return self.kind.noun

    @property
    def singular(self) -> str:
        return self.kind.singular

    @property
    def label(self) -> str:
        """Of the version, or the teacher's own."""
        label = self.rules.label(self.row)
        return label[1:-1] if self.row["label"] < 0 else label

    @property
    def score(self) -> str:
        if self.row.get("calibrated") is None:
            return f"score {self.row['score']:.4g}"
        return f"calibrated score {self.row['calibrated']:.4g} (raw {self.row['score']:.4g})"

    @property
    def is_below(self) -> bool:
        """Whether it is below its class's threshold."""
        threshold = self.rules.threshold(self.row)
        value = self.row["score"] if self.row.get("calibrated") is None else self.row["calibrated"]
        return threshold is not None and bool(np.float32(value) < np.float32(threshold))

    @property
    def threshold(self) -> str:
        threshold, group = self.rules.threshold(self.row), self.rules.group(self.row)
        names = group.classes if group else [self.rules.label(self.row)]
        named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        value = "any threshold" if threshold is None else f"the threshold {threshold:.4g}"
        return f"{value} of group {named} ({self.rules.whence(self.row)})"

    @property
    def ignored_from(self) -> str:
        return f"{self.rules.ignored_from(self.row):.4g}"

    @property
    def band(self) -> str:
        """Below which threshold it is as well, if there is an ignore band."""
        none = np.isnan(self.rules.ignored_from(self.row))
        return "" if none else f" and below {self.ignored_from}, from which on {self.noun} are ignored"

    @property
    def share(self) -> str:
        """Of a map: how many of the pixels of its class these are."""
        whole = sum(row["pixels"] for row in self.image if row["label"] == self.row["label"])
        return f"{percent(self.row['pixels'] / max(1, whole))} of its pixels ({self.row['pixels']} of {whole})"

    @property
    def most(self) -> int | None:
        """Images of its class that the recipe asks for."""
        return (self.keep["balance"] or {}).get("images")

    @property
    def side(self) -> str:
        """The shorter one of its box."""
        return f"{min(self.row['x2'] - self.row['x1'], self.row['y2'] - self.row['y1']):.4g}"

    @property
    def uncertainty(self) -> str:
        value = self.row.get("uncertainty")
        return "is unknown, and may not be" if value is None else f"of {value:.4g} is"

    @property
    def rival(self) -> str:
        """The object that suppressed it, as far as it can be told."""
        left = [row for row in self.image if row["label"] == self.row["label"] and row["reason"] != Reason.NMS.key]
        rivals = [row for row in left if row["score"] >= self.row["score"]]
        if not rivals:
            return ""
        overlap = _overlaps(self.row, rivals)
        best = int(overlap.argmax())
        return f": the one with score {rivals[best]['score']:.4g}, by IoU {overlap[best]:.2f}"

    @cached_property
    def override(self) -> Override | None:
        """The one that decided, by its action and by its box; what was superseded is under any but a reject."""
        reason, box = BY_KEY[self.row["reason"]], tuple(self.row[side] for side in BOX)
        by_result = reason in (Reason.MOVED, Reason.ADDED, Reason.SUPERSEDED)
        if reason == Reason.SUPERSEDED:
            left = [override for override in self.rules.overrides if override.action != Reason.REJECTED.action]
            candidates = [override for override in left if override.label == self.label]
        else:
            candidates = [override for override in self.rules.overrides if override.action == reason.action]

        def overlap(override: Override) -> float:
            shown: Box = override.result if by_result else override.box
            return float(overlaps([shown], [box])[0, 0])

        return max(candidates, key=overlap, default=None)

    @property
    def person(self) -> str:
        return who(self.override) if self.override else "a person"

    @property
    def before(self) -> str:
        """The class that was shown to that person."""
        return f", who was shown {self.override.before}" if self.override else ""

    @property
    def place(self) -> str:
        """The box that was shown to that person."""
        if not self.override:
            return ""
        return f", who was shown it at {', '.join(f'{side:.1f}' for side in self.override.box)}"


def _overlaps(row: Row, rivals: Sequence[Row]) -> np.ndarray:
    """IoU of an object with others of its image, of the masks where there are some; float (N,)."""
    if row.get("rle"):
        from teachers import masks

        pixels = masks.pixels(row["rle"])  # the runs of one long column are those of the image
        codes = [rival["rle"] if rival["rle"] and masks.pixels(rival["rle"]) == pixels else b"" for rival in rivals]
        return masks.iou_matrix([row["rle"]], codes, pixels, 1)[0]
    return iou_matrix(*(np.array([[r[side] for side in BOX] for r in rows]) for rows in ([row], rivals)))[0]


def _whence(group: Group) -> str:
    if group.rule == "precision" and group.certified:
        p = "" if group.p_value is None else f", p = {group.p_value:.2g}"
        evidence = f"{group.kept} kept, {group.correct} right on {group.units} certify images{p}"
        return f"solved for precision {group.target:g}: {evidence}"
    why = f" ({group.reason})" if group.reason else ""
    if group.rule == "precision":
        asked = f"precision {group.target:g}" if group.target is not None else "the precision asked for"
        did = "nothing of it is kept" if group.threshold is None else "this is the fallback, which is not certified"
        return f"for which {asked} could not be certified{why}: {did}"
    if group.threshold is None:
        return f"of which {group.rule} keeps nothing{why}"
    by_hand = group.rule in ("score", "top_box")
    return f"{'set by hand' if by_hand else f'found by {group.rule}'}{why}"
