"""Maps of classes in a study: labels as a folder of masks, outcomes as intersections and unions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from builder.store.manifest import Manifest
from builder.truth.masks import read_mask
from builder.truth.records import Truth
from students.evaluate.maps import Overlap
from students.study.kinds.base import Named, StudyKind, write_classes, write_columns
from teachers.base import VOID

LABELS = "stems.txt"


@dataclass(frozen=True)
class MapOutcomes:
    """intersection, union: int64 (images, classes), labelled pixels."""

    names: tuple[str, ...]
    intersection: np.ndarray
    union: np.ndarray

    def metric(self, weights: np.ndarray) -> np.ndarray:
        """mIoU for each row of `weights`, as students.evaluate.maps.map_metrics, over the classes with a pixel in
        the drawn images; NaN without any; float64 (draws,)."""
        right, union = weights @ self.intersection, weights @ self.union
        iou = np.divide(right, union, out=np.zeros(union.shape), where=union > 0)
        classes = np.count_nonzero(union, axis=1)
        return np.divide(iou.sum(axis=1), classes, out=np.full(len(weights), np.nan), where=classes > 0)


def write_map_outcomes(path: Path, names: Sequence[str], overlaps: Sequence[Overlap]) -> None:
    """overlaps: of each of the images `names`, in an order that is the same for every cell."""
    columns = {"name": ("string", names)}
    for name in Overlap._fields:
        columns[name] = ("list<int64>", [getattr(overlap, name).tolist() for overlap in overlaps])
    write_columns(path, columns)


def _write_outcomes(path: Path, truth: Truth, overlaps: Sequence[Overlap]) -> None:
    write_map_outcomes(path, [image.name for image in truth.images], overlaps)


def _read_outcomes(names: tuple[str, ...], columns: Mapping[str, list[Any]]) -> MapOutcomes:
    return MapOutcomes(names, np.array(columns["intersection"]), np.array(columns["union"]))


def _write_labels(folder: Path, truth: Truth, names: Sequence[str]) -> None:
    write_classes(folder, truth)
    (folder / LABELS).write_text("".join(f"{name.rpartition('.')[0]}\n" for name in names))
    for name, image in zip(names, truth.images, strict=True):
        place = folder / "masks" / Path(name).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(image.mask), place)


def _write_predictions(folder: Path, truth: Truth, named: Named) -> None:
    write_classes(folder, truth)
    for image, name in named:
        labels = read_mask(image, len(truth.classes))
        confidence = np.where(labels == VOID, 0, 255).astype(np.uint8)
        for part, plane in (("labels", labels), ("confidence", confidence)):
            place = folder / part / Path(name).with_suffix(".png")
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(plane).save(place)


def _share_kept(manifest: Manifest) -> float:
    return manifest.kept / max(1, manifest.objects["predicted"])


MAPS = StudyKind(
    labels=LABELS,
    write_labels=_write_labels,
    predictions="",
    listing=None,
    write_predictions=_write_predictions,
    kept=_share_kept,
    write_outcomes=_write_outcomes,
    column="intersection",
    read_outcomes=_read_outcomes,
)
