"""What the command line offers to choose from, written out there so that help is light, is what the library knows."""

from __future__ import annotations

from typing import get_args

import click
import pytest

from builder.cli.main import main
from builder.export.ignored import Ignored
from builder.kinds import Format as ExportFormat
from builder.review.queues import Tool
from builder.truth.records import Format as TruthFormat


@pytest.mark.parametrize(
    ("path", "option", "known"),
    [
        ("calibrate", "--format", {*get_args(TruthFormat)}),
        ("sweep", "--format", {*get_args(TruthFormat)}),
        ("export", "--format", {*get_args(ExportFormat)}),
        ("export", "--ignored", {*get_args(Ignored)}),
        ("review queue", "--to", {"list", "app", *get_args(Tool)}),
    ],
)
def test_choices(path: str, option: str, known: set[str]) -> None:
    command: click.Command = main
    for name in path.split():
        assert isinstance(command, click.Group)
        command = command.commands[name]
    (parameter,) = [parameter for parameter in command.params if option in parameter.opts]
    assert isinstance(parameter.type, click.Choice)
    assert {*parameter.type.choices} == known
