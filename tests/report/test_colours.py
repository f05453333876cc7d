"""One palette: what is kept, ignored, dropped or human has one colour wherever a person sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.browse.load import COLOURS
from builder.report import colours
from builder.report.page import page

BUILDER = Path(__file__).parents[2] / "builder"
CLASSES = BUILDER / "report" / "paint.py"
"""Has the colours of a map's classes, which may be any."""


@pytest.mark.parametrize("name", ["KEPT", "IGNORED", "DROPPED", "HATCH", "HUMAN", "INK", "FAINT", "GRID", "BACKDROP"])
def test_a_colour_is_written_down_once(name: str) -> None:
    value = getattr(colours, name)
    files = [path for path in BUILDER.rglob("*.py") if value in path.read_text() and path != CLASSES]
    assert files == [BUILDER / "report" / "colours.py"]


def test_page_and_app_have_the_palette() -> None:
    css = page("", []).decode()
    for outcome, colour in colours.OUTCOMES.items():
        assert f"--{outcome}:{colour};" in css
    assert COLOURS == {
        "pseudo": colours.KEPT,
        "ignored": colours.IGNORED,
        "teacher": colours.DROPPED,
        "ground_truth": colours.HUMAN,
    }


def test_dropped_stands_out_on_white() -> None:
    """At 3 : 1, which WCAG 2 (1.4.11) asks of graphics."""
    linear = [((c / 255 + 0.055) / 1.055) ** 2.4 for c in bytes.fromhex(colours.DROPPED[1:])]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert 1.05 / (luminance + 0.05) >= 3
