"""A complete version as all that another is made from: its images, and what its teacher and its rules said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builder.cut.basis import Basis
from builder.cut.left_out import LeftOut
from builder.cut.parent import OF
from builder.cut.restored import Restored
from builder.errors import BuildError
from builder.label.predictions import BOX, OPTIONAL
from builder.rules.apply import decide, outcomes
from builder.rules.calibrator import Calibrator
from builder.rules.class_map import Mapped
from builder.rules.keep import class_map
from builder.rules.labelled import LabelledPool
from builder.rules.objects import Decision, Objects, Thresholds
from builder.rules.reasons import BY_KEY, Reason
from builder.scan.pool import OK, Chunk
from builder.store.labels import BOX_BEFORE, RLE_BEFORE

HUMAN = [reason.key for reason in Reason if reason.by_people]


@dataclass(frozen=True)
class RestoredPool(LabelledPool):
    """A pool whose labels are read from a version's own table. anew: whether rules decide again, among the images that
    are in its shards; else all is as they decided when it was built."""

    restored: Restored = field(kw_only=True)
    anew: bool = field(default=False, kw_only=True)

    def load(self, chunks: Sequence[Chunk], boxes: bool = True) -> tuple[Objects, list[str]]:
        objects, _, states = self._loaded(chunks)
        return objects, states

    def decided(
        self, chunks: Sequence[Chunk], thresholds: Thresholds, boxes: bool = True
    ) -> tuple[Objects, Decision, list[str]]:
        objects, reason, states = self._loaded(chunks)
        if self.anew:
            return objects, decide(objects, self.keep, thresholds, self.classes), states
        return objects, Decision(outcomes(reason, self.keep), reason), states

    def probabilities(self, chunk: Chunk, positions: Sequence[int]) -> np.ndarray:
        return self.restored.probabilities(chunk, positions)

    @cached_property
    def mapped(self) -> Mapped | None:
        return class_map(self.keep, self.restored.version.manifest.provenance.teacher.description)

    @property
    def looked_at(self) -> list[str]:
        return ["key", *super().looked_at]

    def _loaded(self, chunks: Sequence[Chunk]) -> tuple[Objects, np.ndarray, list[str]]:
        """The teacher's objects of these chunks, the reason that rules gave each (uint8), and the images' states."""
        table = self.restored.labels([chunk.index for chunk in chunks])
        table = table.filter(pc.not_equal(table["reason"], Reason.ADDED.key))
        keys = pa.chunked_array([chunk.rows["key"].combine_chunks() for chunk in chunks], pa.string())
        states = [state for chunk in chunks for state in self.states(chunk, [OK] * len(chunk))]
        size = np.concatenate([np.stack([chunk.rows[s] for s in ("width", "height")], axis=1) for chunk in chunks])
        image = pc.index_in(table["key"].cast(pa.string()), value_set=keys.combine_chunks()).to_numpy()
        if self.anew:
            states = [
                "empty" if state == OK and not side else state for state, side in zip(states, size[:, 0], strict=True)
            ]
        usable = np.array([state == OK for state in states], bool)[image]
        table, image = table.filter(pa.array(usable)), image[usable].astype(np.int64)
        reason = self._reasons(table)
        optional: dict[str, Any] = {name: column for name in OPTIONAL if (column := _optional(table, name)) is not None}
        if self.mapped:
            aside = np.isin(reason, (Reason.CLASS_IGNORED, Reason.CLASS_DROPPED))
            optional["aside"] = np.where(aside, reason, 0).astype(np.uint8)
            optional["teacher_label"] = table["teacher_label"].to_numpy()
        names = [name for chunk in chunks for name in chunk.rows["name"].to_pylist()] if self.keep.where else []
        boxes = np.stack([_before(table, *sides) for sides in zip(BOX, BOX_BEFORE, strict=True)], axis=1)
        unknown = size[image, 0] == 0  # an image that is in no shard is as large as its boxes need
        if unknown.any():
            size = size.copy()
            np.maximum.at(size, image[unknown], np.ceil(boxes[unknown, 2:]).astype(size.dtype))
        calibrated = table["calibrated"].to_numpy() if self.calibrate else None
        label, score = _before(table, "label", "label_before"), table["score"].to_numpy()
        return (
            Objects(image, label, score, boxes.astype(np.float32), size, names, calibrated=calibrated, **optional),
            reason,
            states,
        )

    def _reasons(self, table: pa.Table) -> np.ndarray:
        """What rules made of each object, before people and chance did."""
        reason = table["reason"].cast(pa.string())
        if "reason_before" in table.column_names:
            human = pc.is_in(reason, value_set=pa.array(HUMAN))
            reason = pc.if_else(human, table["reason_before"].cast(pa.string()), reason)
        codes = np.array([BY_KEY[key] for key in reason.to_pylist()], np.uint8)
        return np.where(codes == Reason.THINNED, np.uint8(Reason.KEPT), codes)


def _before(table: pa.Table, name: str, before: str) -> np.ndarray:
    """A column as the teacher said it."""
    column = table[name] if before not in table.column_names else pc.coalesce(table[before], table[name])
    return column.to_numpy()


def _optional(table: pa.Table, name: str) -> np.ndarray | None:
    """A column that not every teacher gives; what an object lacks is NaN, 0 or an empty mask."""
    if name not in table.column_names or (len(table) and table[name].null_count == len(table)):
        return None
    column = table[name]
    if name == "rle" and RLE_BEFORE in table.column_names:
        column = pc.coalesce(table[RLE_BEFORE], column)
    if not pa.types.is_floating(OPTIONAL[name]):
        column = pc.fill_null(column, pa.scalar(b"" if name == "rle" else 0, OPTIONAL[name]))
    return column.to_numpy()


@dataclass(frozen=True)
class FromVersion(Basis):
    """A basis of which no more is there than the version that is its parent."""

    restored: Restored = field(kw_only=True)
    restored_left_out: LeftOut = field(kw_only=True)

    @property
    def stored(self) -> bool:
        return True

    @property
    def meta(self) -> dict[str, Any]:
        return self._inherited.manifest.provenance.teacher.stored()

    @property
    def guarded(self) -> dict[str, Any]:
        return {}  # what leaked was found when the parent was built; corrections bring no image

    def left_out(self) -> LeftOut:
        return self.restored_left_out

    def labelled(self, calibration: Calibrator | None, left_out: LeftOut) -> LabelledPool:
        keep, anew = self.options.keep, not self.takes_over
        states = left_out.states
        return RestoredPool(
            self.pool, self.predictions, self.classes, keep, calibration, states, restored=self.restored, anew=anew
        )

    @property
    def _inherited(self) -> Any:
        if self.parent is None:
            raise BuildError("a version is cut from itself as a child of itself: give it as the parent")
        return self.parent

    def _unlabelled(self) -> str:
        unlabelled: str = self._inherited.inputs.unlabelled
        return unlabelled

    def _reference_ids(self) -> dict[str, str]:
        if not self.takes_over:
            return {}
        parent = self._inherited
        return {
            name if OF in name else f"{name}{OF}{parent.ref}": id
            for name, id in sorted(parent.inputs.references.items())
        }
