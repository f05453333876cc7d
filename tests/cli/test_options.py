"""What every command does with errors and warnings."""

from __future__ import annotations

import warnings

import click
import pytest
from click.testing import CliRunner

from builder.cli.options import sentences
from teachers.errors import TutelageWarning, warn


@click.command()
def careful() -> None:
    with sentences():
        warn("mind the gap")
        warn("mind the gap")
        warn("mind the step")
        click.echo("done")


def test_a_warning_is_a_line_on_stderr_and_stands_once() -> None:
    result = CliRunner().invoke(careful, catch_exceptions=False)
    assert (result.stdout, result.stderr) == ("done\n", "warning: mind the gap\nwarning: mind the step\n")
    with pytest.warns(TutelageWarning, match="mind the gap"):  # for Python it is a warning of the usual sort
        warn("mind the gap")


def test_warnings_of_others_stay_what_they_are() -> None:
    with sentences(), pytest.warns(UserWarning, match="theirs"):
        warnings.warn("theirs", stacklevel=1)
