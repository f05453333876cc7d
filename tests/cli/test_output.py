"""Tables and aligned lines that commands print."""

from __future__ import annotations

import pytest

from builder.cli.output import MOST_CLASSES, class_table, rows, table


def test_rows_are_aligned() -> None:
    assert rows(("a", 1), ("long", "x")) == "a     1\nlong  x"


def test_a_table_shows_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich would take [bold] for markup."""
    table(("name", "count"), [("[bold]", 7), ("b", 12)], numbers=("count",), framed=False)
    assert capsys.readouterr().out.splitlines() == ["name    count", "[bold]      7", "b          12"]


@pytest.mark.parametrize("framed", [True, False])
def test_a_table_keeps_to_its_width(framed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    table(("name",), [("x" * 300,)], framed=framed, width=50, title="t")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 50 and lines[0].strip() == "t"
    assert "".join(lines).count("x") == (300 if not framed else 45)  # folded, or cut with an ellipsis


@pytest.mark.parametrize("classes", [0, MOST_CLASSES, MOST_CLASSES + 3])
def test_the_first_classes_are_shown_and_the_others_counted(classes: int, capsys: pytest.CaptureFixture[str]) -> None:
    class_table(("class", "n"), [(f"class{n}", n) for n in range(classes)])
    out = capsys.readouterr().out
    assert out.count("class") - 1 - ("more classes" in out) == min(classes, MOST_CLASSES)
    assert ("and 3 more classes" in out) == (classes > MOST_CLASSES)
