"""What teachers claim of the labelled images, as versions that show these."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from builder.cut.left_out import NEAR_DUPLICATE
from builder.cut.samples import EMPTY
from builder.store.files import sha256_file
from builder.store.version import Version
from builder.truth.records import Truth
from students.data.streams import Pseudo
from students.tasks.base import Task
from students.train.errors import TrainError

LEFT_OUT = (EMPTY, NEAR_DUPLICATE)
"""Images that a version's manifest counts and its shards lack, though nothing is wrong with them."""


class Claims:
    """Versions that show each labelled image once, found by its SHA-256.

    Of an image that its version left out, as nothing on it was kept or as it is nearly another, nothing is known. Which
    one that was no version says, so that no more may be missing than were left out.

    Raises TrainError for labelled images that no version shows, or that several do.
    """

    def __init__(self, truth: Truth, versions: Sequence[Version], task: Task) -> None:
        self._task, self._classes = task, len(truth.classes)
        self._versions = [Pseudo([version], truth.classes, task) for version in versions]
        shown: dict[str, dict[int, int]] = {}
        for number, version in enumerate(self._versions):
            for row in range(len(version)):
                shown.setdefault(version.record(row)["sha256"], {}).setdefault(number, row)  # the first of its copies
        with ThreadPoolExecutor() as threads:
            digests = list(threads.map(sha256_file, [image.path for image in truth.images]))
        names = dict(zip(reversed(digests), [image.name for image in reversed(truth.images)], strict=True))
        left_out = sum(version.manifest.images.get(state, 0) for version in versions for state in LEFT_OUT)
        if several := [name for sha, name in names.items() if len(shown.get(sha, ())) > 1]:
            raise TrainError(
                f"{len(several)} of {len(names)} labelled images are in two versions of doubly_robust ({several[-1]} "
                "is one): give versions that share no image"
            )
        missing = [name for sha, name in names.items() if sha not in shown]
        if len(missing) > left_out:
            raise TrainError(
                f"{len(missing)} of {len(names)} labelled images are in no version of doubly_robust ({missing[-1]} is "
                f"one; these left out {left_out}): label them with a teacher that has not learned from them, and name "
                "that version, too"
            )
        self._places = [next(iter(shown.get(sha, {}).items()), None) for sha in digests]

    def marks(self, index: int, height: int, width: int) -> Any:
        """What is claimed of a labelled image of this size, as the task has it."""
        place = self._places[index]
        if place is None:
            return self._task.unknown(height, width, self._classes)
        number, row = place
        return self._versions[number].marks(row, height, width)
