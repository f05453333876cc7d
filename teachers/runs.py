"""The runs of COCO's compressed run-length codes, read with NumPy alone, and whether they are of an image at all."""

from __future__ import annotations

import numpy as np

from teachers.base import TeacherError


def covers(code: bytes, height: int, width: int) -> bool:
    """Whether the runs of a code, of unknown origin, are of at least 0 pixels and add up to the image's: pycocotools
    itself does not look, and writes beyond its memory if they do not."""
    try:
        return pixels(code) == height * width
    except TeacherError:
        return False


def pixels(code: bytes) -> int:
    """Of the whole image that a code, of unknown origin, is of. Raises TeacherError for what is no code."""
    try:
        runs = runs_of(code)
        if (runs < 0).any() or (runs >> 32).any():
            raise ValueError("its counts hold a number that is negative or too large")
    except ValueError as error:
        raise TeacherError(f"a run-length code is no mask ({error}): get it again from where it came") from None
    return int(runs.sum())


def runs_of(code: bytes) -> np.ndarray:
    """Lengths of the runs of a code, int64, by turns outside and inside the mask, columns first: base 32, lowest digit
    first, 32 marks a digit that is not the last, 16 in the last a negative number; from the fourth run on the
    difference to the run before the last. (cocoapi's rleFrString.) Raises ValueError."""
    digit = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    if ((digit < 0) | (digit > 63)).any():
        raise ValueError("its counts hold a character that is no digit")
    last = digit < 32
    if not digit.size or not last[-1]:
        raise ValueError("its counts end within a number")
    end = np.flatnonzero(last)
    start = np.append(0, end[:-1] + 1)
    length = end - start + 1
    if length.max() > 7:  # 32 bits: what pycocotools reads
        raise ValueError("its counts hold a number that is too large")
    place = np.arange(len(digit)) - np.repeat(start, length)
    runs = np.add.reduceat((digit & 31) << 5 * place, start) - np.where(digit[end] & 16, 1 << 5 * length, 0)
    runs[1::2], runs[2::2] = runs[1::2].cumsum(), runs[2::2].cumsum()
    return runs
