"""Teacher, supervised baseline and student on the same test images, and the pseudo-labels against hidden labels.

    python examples/compare.py RUNS VERSION TEST POOL_TRUTH [IMAGES]

RUNS holds the run folders `teacher`, `supervised` and `student`; TEST and POOL_TRUTH are labels with boxes (COCO JSON,
VOC, YOLO); IMAGES, where the image files of both lie.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from builder.truth.read import read_detection
from students.evaluate.bootstrap import paired_bootstrap
from students.evaluate.coco import evaluate_detections, precision_recall, read_kept
from students.evaluate.measure import evaluate
from teachers import load_teacher
from teachers.base import Detections, TeacherOptions


def compare(
    runs: Path, version: Path, test_labels: Path, pool_labels: Path, images: Path | None = None
) -> dict[str, object]:
    """AP of each run; the 90 % interval, over test images, of student minus supervised; precision and recall (IoU .5)
    of the boxes that the version keeps."""
    test = read_detection(test_labels, images)
    found: dict[str, list[Detections]] = {}
    for name in ("teacher", "supervised", "student"):
        model = load_teacher(f"checkpoint:{runs / name}", TeacherOptions(floor=0.01, batch_size=16))
        found[name] = [*evaluate(model, test).detections]
    figures = {f"{name}_ap": evaluate_detections(test, detections)["AP"] for name, detections in found.items()}
    low, high = paired_bootstrap(test, found["supervised"], found["student"], draws=1000, level=0.9)
    pool = read_detection(pool_labels, images)
    precision, recall = precision_recall(pool, read_kept(version, pool))
    figures |= {"pseudo_precision": precision, "pseudo_recall": recall, "gain_low": low, "gain_high": high}
    return {name: round(value, 4) for name, value in figures.items()}


if __name__ == "__main__":
    if not 5 <= len(sys.argv) <= 6:
        sys.exit(__doc__)
    print(json.dumps(compare(*map(Path, sys.argv[1:])), indent=2))
