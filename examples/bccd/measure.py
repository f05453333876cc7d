"""How good a recipe's teacher is, alone or an ensemble, and what versions keep of the pool against its hidden labels.

    python examples/bccd/measure.py RECIPE TEST POOL_TRUTH IMAGES VERSION…

TEST and POOL_TRUTH are COCO JSON of images in the folder IMAGES; VERSION, folders of versions. Prints COCO's AP of the
teacher on TEST, and of each version the share of kept boxes that are right (IoU .5) and of true objects that they find,
over all classes and for each.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from builder.truth.coco import read_coco
from builder.truth.records import Truth
from students.evaluate.coco import precision_recall, read_kept
from students.evaluate.measure import evaluate
from teachers.base import Detections


def measure(recipe: Path, test: Path, pool: Path, images: Path, versions: list[Path]) -> dict[str, object]:
    """Figures in [0, 1], by name."""
    metrics = evaluate(recipe, test, images).metrics
    figures: dict[str, object] = {name: metrics[name] for name in ("AP", "AP50", "AP75", "per_class")}
    hidden = read_coco(pool, images)
    for version in versions:
        kept = read_kept(version, hidden)
        of_class = {name: _only(n, hidden, kept) for n, name in enumerate(hidden.classes)}
        figures[f"{version.parent.name}@{version.name}"] = {"all": precision_recall(hidden, kept)} | {
            name: precision_recall(*part) for name, part in of_class.items()
        }
    return figures


def _only(label: int, truth: Truth, kept: list[Detections]) -> tuple[Truth, list[Detections]]:
    """The truth and the boxes of one class."""
    shown = []
    for image in truth.images:
        own = image.labels == label
        columns = {name: getattr(image, name)[own] for name in ("boxes", "labels", "crowd", "area", "difficult")}
        shown.append(replace(image, **columns))
    chosen = [Detections(one.boxes[mask := one.labels == label], one.scores[mask], one.labels[mask]) for one in kept]
    return replace(truth, images=shown), chosen


if __name__ == "__main__":
    if len(sys.argv) < 6:
        sys.exit(__doc__)
    first, *versions = map(Path, sys.argv[1:])
    print(json.dumps(measure(first, versions[0], versions[1], versions[2], versions[3:]), indent=2, default=float))
