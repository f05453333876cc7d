"""Tables and aligned lines that commands print."""

from __future__ import annotations

import pytest

from builder.cli.output import MOST_CLASSES, class_table, rows, say, table


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


def test_nothing_that_acts_unseen_reaches_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """ESC moves the cursor and sets titles, U+202E turns what follows, and a name may have lines of its own."""
    name = "a\x1b]0;b\x07\u202egpj.exe\x9b\udc80\nError: c"
    say(name)
    say(name, err=True)
    table(("name",), [(name,)], framed=False)
    said = capsys.readouterr()
    shown = "a\\u001b]0;b\\u0007\\u202egpj.exe\\u009b\\udc80"
    assert said.err == f"{shown}\nError: c\n"
    assert said.out.count(shown) == 2 and said.out.count("\nError: c") == 1
