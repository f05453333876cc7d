"""What `--help` shows: whole summaries, in usual words."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from builder.cli.main import main
from builder.cli.review import review

ODD = re.compile(r"\b(say|says|said|told|tells)\b", re.IGNORECASE)
"""Words of speech, which no command does."""


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_build_pseudo_has_the_same_help(option: str) -> None:
    """In a process of its own: click keeps the help option of a command from when it was first asked for."""
    call = (
        f"import sys; sys.argv = ['build-pseudo', {option!r}]; from builder.cli.main import build_pseudo_main as m; m()"
    )
    ended = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and ended.stdout.startswith("Usage: build-pseudo [OPTIONS] RECIPE"), ended.stderr


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("group", [main, review])
def test_summaries_are_whole(group: click.Group, width: int) -> None:
    shown = CliRunner().invoke(group, ["--help"], terminal_width=width).output
    listed = shown.partition("Commands:\n")[2].splitlines()
    assert len(listed) == len(group.commands)
    for line in listed:
        assert line.endswith(".") and not line.endswith("..."), line


@pytest.mark.parametrize("command", [*commands(main)], ids=lambda command: command.name)
def test_a_summary_is_a_verb_and_its_words_are_usual(command: click.Command) -> None:
    assert command.help
    first = command.help.split()[0]
    assert first[0].isupper() and first.isalpha(), first
    texts = [
        command.help,
        *(parameter.help or "" for parameter in command.params if isinstance(parameter, click.Option)),
    ]
    assert [text for text in texts if ODD.search(text)] == []
