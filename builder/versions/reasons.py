"""Why an object is kept, ignored or dropped, in words with the figures that decided it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from builder.kinds import kind_of
from builder.report.quality import groups, keep_section, limits
from builder.rules.objects import BY_PEOPLE
from builder.rules.overrides import Override, overlaps, who
from builder.store.manifest import Manifest
from builder.store.provenance import Group
from builder.words import percent
from teachers.boxes import iou_matrix

Row = Mapping[str, Any]
"""One row of labels.parquet."""
BOX = ("x1", "y1", "x2", "y2")
SAID = {"accepted": "accept", "relabelled": "relabel", "moved": "move", "added": "add", "rejected": "reject"}
"""Reason of an object that people decided on -> the action of their override; superseded ones are under any but the
last."""


class Reasons:
    """The rules of a version as they were solved, to be asked about the objects of one image after the other."""

    def __init__(self, manifest: Manifest, overrides: Sequence[Override] = ()) -> None:
        """overrides: that were applied to the image."""
        self._overrides = overrides
        self._classes = manifest.classes
        self._keep = keep_section(manifest)
        self._kind = kind_of(manifest.kind)
        self._theirs = manifest.provenance.teacher.classes
        self._group = {name: group for group in groups(manifest) for name in group.classes}
        self._threshold, self._ignore = limits(manifest)
        parent = manifest.provenance.parent
        self._source = f", taken over from {parent.version}" if parent and parent.taken_over else ""

    def threshold(self, row: Row) -> float | None:
        """From which its class is kept; None if nothing of it is."""
        value = float(self._threshold[row["label"]]) if row["label"] >= 0 else np.nan
        return None if np.isnan(value) else value

    def label(self, row: Row) -> str:
        """The name of its class; the teacher's, in brackets, where the class map gives it none."""
        if row["label"] >= 0:
            return self._classes[row["label"]]
        theirs = row.get("teacher_label")
        return f"({self._theirs[theirs]})" if theirs is not None and theirs < len(self._theirs) else "(other)"

    def whence(self, row: Row) -> str:
        """Where that threshold comes from."""
        group = self._group.get(self.label(row))
        return (_whence(group) if group else "of unknown origin") + self._source

    def why(self, row: Row, image: Sequence[Row]) -> str:
        """One sentence. image: all rows of its image."""
        keep, reason = self._keep, row["reason"]
        if reason in ("class_ignored", "class_dropped"):
            return f"keep.classes {reason.removeprefix('class_')} the teacher's class {self.label(row).strip('()')}"
        if self._kind.pixels:
            return self._of_pixels(row, image)
        if reason in BY_PEOPLE:
            return self._by_people(row)
        if reason in ("kept", "below_threshold", "ignore_band"):
            return self._by_score(row, image)
        if reason == "nms":
            return self._suppressed(row, image)
        if reason == "thinned":
            most = (keep.get("balance") or {}).get("images")
            return f"the class has more than the {most} images that keep.balance asks for, and chance left it out"
        sides = min(row["x2"] - row["x1"], row["y2"] - row["y1"])
        refused = {
            "cap": f"the image has {keep.get('max_per_image')} better {self._kind.noun}, which is max_per_image",
            "where_false": f"`where` is false for it: {keep.get('where')}",
            "where_null": f"`where` is NULL for it, neither true nor false: {keep.get('where')}",
            "size": f"its shorter side of {sides:.4g} pixels is below min_size {keep.get('min_size')}",
            "uncertain": f"its box uncertainty {_told(row.get('uncertainty'))} above {keep.get('uncertainty')}",
        }
        said = refused.get(reason, f"refused by {reason!r}")
        return f"{self._score(row)} is above {self._of(row)}, but {said} (refused: {keep.get('refused', 'ignore')})"

    def _of_pixels(self, row: Row, image: Sequence[Row]) -> str:
        """What became of the pixels of one class and reason."""
        ignore, keep = float(self._ignore[row["label"]]), self._keep
        whole = sum(r["pixels"] for r in image if r["label"] == row["label"])
        share = f"{percent(row['pixels'] / max(1, whole))} of its pixels ({row['pixels']} of {whole})"
        said = {
            "kept": f"reach {self._of(row)}",
            "ignore_band": f"are below {self._of(row)}, but reach {ignore:.4g}: void",
            "below_threshold": f"are below {self._of(row)}: void",
            "where_false": f"are above {self._of(row)}, but `where` is false for them: {keep.get('where')}: void",
            "where_null": f"are above {self._of(row)}, but `where` is NULL for them: {keep.get('where')}: void",
        }
        return f"{share} {said.get(row['reason'], 'are void: ' + row['reason'])}"

    def _by_score(self, row: Row, image: Sequence[Row]) -> str:
        threshold, ignore = self.threshold(row), float(self._ignore[row["label"]])
        score, of = self._score(row), self._of(row)
        noun = self._kind.noun
        band = "" if np.isnan(ignore) else f" and below {ignore:.4g}, from which on {noun} are ignored"
        if row["reason"] == "kept":
            if threshold is not None and _confidence(row) < np.float32(threshold):
                return f"{score} is below {of}, but the best of its image, which lowers the threshold (top_box)"
            return f"{score} reaches {of}"
        if row["reason"] == "ignore_band":
            return f"{score} is below {of}, but reaches {ignore:.4g}, from which on {noun} are ignored"
        return f"{score} is below {of}{band}"

    def _by_people(self, row: Row) -> str:
        box, label = (row["x1"], row["y1"], row["x2"], row["y2"]), self.label(row)
        if row["reason"] == "superseded":
            found = [one for one in self._overrides if one.action != "reject" and one.label == label]
        else:
            found = [one for one in self._overrides if one.action == SAID[row["reason"]]]
        by_result = row["reason"] in ("moved", "added", "superseded")
        one = max(found, key=lambda one: overlaps([one.result if by_result else one.box], [box])[0, 0], default=None)
        by = who(one) if one else "a person"
        said = {
            "accepted": f"accepted by {by}, whatever its score",
            "relabelled": f"given the class {label} by {by}" + (f", who was shown {one.before}" if one else ""),
            "moved": f"its box was drawn by {by}" + (f", who was shown it at {_at(one.box)}" if one else ""),
            "added": f"drawn by {by}, where the teacher had no such object",
            "rejected": f"rejected by {by}",
            "superseded": f"a {label} that {by} marked there stands for it",
        }
        return said[row["reason"]]

    def _suppressed(self, row: Row, image: Sequence[Row]) -> str:
        said = f"another {self._kind.singular} of the class overlaps it by more than nms {self._keep.get('nms')}"
        left = [r for r in image if r["label"] == row["label"] and r["reason"] != "nms"]
        rivals = [r for r in left if r["score"] >= row["score"]]
        if not rivals:
            return said
        overlap = _overlaps(row, rivals)
        best = int(overlap.argmax())
        return f"{said}: the one with score {rivals[best]['score']:.4g}, by IoU {overlap[best]:.2f}"

    def _score(self, row: Row) -> str:
        if row.get("calibrated") is None:
            return f"score {row['score']:.4g}"
        return f"calibrated score {row['calibrated']:.4g} (raw {row['score']:.4g})"

    def _of(self, row: Row) -> str:
        threshold, group = self.threshold(row), self._group.get(self.label(row))
        names = group.classes if group else [self.label(row)]
        named = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        value = "any threshold" if threshold is None else f"the threshold {threshold:.4g}"
        return f"{value} of group {named} ({self.whence(row)})"


def _overlaps(row: Row, rivals: Sequence[Row]) -> np.ndarray:
    """IoU of an object with others of its image, of the masks where there are some; float (N,)."""
    if row.get("rle"):
        from teachers import masks

        pixels = masks.pixels(row["rle"])  # the runs of one long column are those of the image
        return masks.iou_matrix([row["rle"]], [rival["rle"] for rival in rivals], pixels, 1)[0]
    return iou_matrix(*(np.array([[r[side] for side in BOX] for r in rows]) for rows in ([row], rivals)))[0]


def _told(value: float | None) -> str:
    return "is unknown, and may not be" if value is None else f"of {value:.4g} is"


def _confidence(row: Row) -> np.float32:
    return np.float32(row["score"] if row.get("calibrated") is None else row["calibrated"])


def _at(box: Sequence[float]) -> str:
    return ", ".join(f"{side:.1f}" for side in box)


def _whence(group: Group) -> str:
    if group.rule == "precision" and group.certified:
        p = "" if group.p_value is None else f", p = {group.p_value:.2g}"
        evidence = f"{group.kept} kept, {group.correct} right on {group.units} certify images{p}"
        return f"solved for precision {group.target:g}: {evidence}"
    if group.rule == "precision":
        asked = f"precision {group.target:g}" if group.target is not None else "the precision asked for"
        why = f" ({group.reason})" if group.reason else ""
        did = "nothing of it is kept" if group.threshold is None else "this is the fallback, which is not certified"
        return f"for which {asked} could not be certified{why}: {did}"
    if group.threshold is None:
        return f"of which {group.rule} keeps nothing" + (f" ({group.reason})" if group.reason else "")
    hand = group.rule in ("score", "top_box")
    return ("set by hand" if hand else f"found by {group.rule}") + (f" ({group.reason})" if group.reason else "")
