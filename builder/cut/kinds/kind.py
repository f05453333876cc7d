"""What one kind of label needs of a version's samples. A new kind adds a file with a Kind, and a line in choose.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from builder.rules.labelled import LabelledPool
from builder.rules.objects import Decision, Objects, Thresholds
from builder.rules.overrides import Override
from builder.rules.overruling import Overruled
from builder.scan.pool import Chunk

SOURCES = ("teacher", "human")
"""Who decided what becomes of an object."""
HUMAN = SOURCES[1]


class Checked(NamedTuple):
    """What a sample holds: kept and ignored objects (of maps pixels), and a sum over all that it says of them, uint64,
    which those of the same rows of labels.parquet add up to."""

    kept: int
    ignored: int
    checksum: np.uint64


@dataclass(frozen=True)
class Kind:
    """How labels of one kind are decided on, written and checked (its facts and words: builder.kinds.LabelKind).

    decide: (pool, chunks, thresholds) -> the objects of the chunks' images, what rules make of them, and the state of
    each image.
    overrule: (objects, decision, overrides by position of their image, classes) -> what people make of that.
    samples: (pool, chunks, thresholds, what was made of them, positions of images, rising) -> for each of these images
    what the kind adds to its label JSON, and the bytes of the kind's member (LabelKind.member; b"" without one).
    remember: (pool, chunks, what was made of them) -> by row of the objects, the probabilities that they had before
    people named another class (builder.cut.label_table.SOFT_BEFORE).
    check: (label JSON, bytes of the member, number of classes) -> what is wrong with the sample, in words, or what is
    in it. Raises KeyError, TypeError and ValueError for a label that is not of this form.
    columns: of labels.parquet, from which `row_sums` is made: uint64 (N,), what each row adds to its image's checksum.
    """

    decide: Callable[[LabelledPool, Sequence[Chunk], Thresholds], tuple[Objects, Decision, list[str]]]
    overrule: Callable[[Objects, Decision, Mapping[int, Sequence[Override]], Sequence[str]], Overruled]
    samples: Callable[
        [LabelledPool, Sequence[Chunk], Thresholds, Overruled, Sequence[int]], Iterator[tuple[dict[str, Any], bytes]]
    ]
    check: Callable[[Mapping[str, Any], bytes, int], str | Checked]
    columns: tuple[str, ...]
    row_sums: Callable[[Mapping[str, np.ndarray]], np.ndarray]
    remember: Callable[[LabelledPool, Sequence[Chunk], Overruled], Mapping[int, np.ndarray]] = (
        lambda labelled, chunks, made: {}
    )


def mixed(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Columns of N numbers as one, uint64 (N,), that another row hardly ever has."""
    mix = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        mix = (mix ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)  # wraps, as it should
        mix ^= mix >> np.uint64(29)
    return mix
