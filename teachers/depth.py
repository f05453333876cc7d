"""How bytes become pixels where there is more than one way: files that are damaged, and pixels of more than 8 bits.

A camera's 12 bits in a file of 16 would be a black picture if the whole range of the type were taken for black to
white, and each image would have its own exposure if its own range were. So the range is stated, or taken for the
type's where an image uses that; an image that does not is an error that asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

ROWS_AT_A_TIME = 256
DARK = 4
"""The share of its type's range, one in so many, that an image's brightest pixel must pass for the range to be taken
for the type's unasked."""


@dataclass(frozen=True)
class Reading:
    """damaged: whether images that a decoder found damaged are left out or taken for what could be decoded of them.
    range: what is white in pixels of more than 8 bits: the largest number of their `type`, of the `data` of each image
    (and the smallest is black), or a number, such as 4095 for 12 bits. None: the type's, and an image that uses no more
    than the darkest quarter of it is an error."""

    damaged: Literal["drop", "keep"] = "drop"
    range: Literal["type", "data"] | float | None = None

    @property
    def description(self) -> dict[str, Any]:
        """What of it is not the default, for the fingerprint of a teacher that sees images so."""
        default = Reading()
        stated = {"damaged": self.damaged, "range": self.range}
        return {name: value for name, value in stated.items() if value != getattr(default, name)}


PLAIN = Reading()


def to_8_bits(values: np.ndarray, full: int | None, reading: Reading) -> np.ndarray:
    """Grey values of more than 8 bits as uint8 (H, W).

    Args:
        values: (H, W), integers or floats.
        full: the largest number of their type, None where it says nothing: 32 bits, and floats.
        reading: its `range`.

    Raises:
        ValueError: the clause why they cannot be, and what to state.
    """
    if not values.size:
        return values.astype(np.uint8)
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("has pixels that are no finite numbers: correct it")
    if reading.range == "data":
        return _scaled(values, float(low), float(high))
    if low < 0:
        raise ValueError(
            f"has pixels below 0, {low} among them: say `images.range: data` to scale each image by its own"
        )
    if isinstance(reading.range, str) or reading.range is None:
        if full is None:
            raise ValueError(f"has {_kind(values)} pixels up to {high}: say with images.range which number is white")
        if reading.range is None and 0 < high <= full // DARK:
            raise ValueError(
                f"has no pixel above {high} of {full}: say with images.range which number is white "
                f"({2 ** int(high).bit_length() - 1} perhaps, or `type`)"
            )
        white = float(full)
    else:
        if high > reading.range:
            raise ValueError(f"has pixels up to {high}, above images.range: {reading.range:g}")
        white = reading.range
    if white in (255, 65535) and values.dtype.kind in "iu":
        return (values >> (0 if white == 255 else 8)).astype(np.uint8)  # as Pillow does of colours
    return _scaled(values, 0.0, float(white))


def check_colours(brightest: int, reading: Reading) -> None:
    """Raise ValueError for an image of 16-bit colours, of which only the high bytes are read, that the range does not
    fit. brightest: of those high bytes."""
    if reading.range is None and brightest < 256 // DARK:
        raise ValueError(
            f"has 16-bit colours of which none is above {256 * brightest + 255} of 65535: say `images.range: type` if "
            "it is as dark as that, or convert it to 8 bits"
        )
    if reading.range not in (None, "type", 65535):
        raise ValueError(
            f"has 16-bit colours, which images.range: {reading.range} cannot scale: convert it to 8 bits, or say `type`"
        )


def _kind(values: np.ndarray) -> str:
    return "floating-point" if values.dtype.kind == "f" else f"{8 * values.dtype.itemsize}-bit"


def _scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
    """uint8, rounded, a few rows at a time: an image is not to be in memory as float64."""
    out = np.zeros(values.shape, np.uint8)
    if white > black:
        for row in range(0, len(values), ROWS_AT_A_TIME):
            part = values[row : row + ROWS_AT_A_TIME].astype(np.float64)
            out[row : row + ROWS_AT_A_TIME] = ((part - black) * (255 / (white - black)) + 0.5).astype(np.uint8)
    return out
