"""What every command does with errors and warnings."""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from builder.cli.options import SIGNALS, sentences
from builder.scan.pool import find_pool
from builder.store.store import Store
from teachers.errors import TutelageWarning, warn
from tests.helpers.pools import write_images


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


@pytest.mark.parametrize("sign", SIGNALS)
def test_a_signal_that_asks_to_end_gets_a_sentence_and_its_own_exit_code(sign: signal.Signals) -> None:
    @click.command()
    def patient() -> None:
        with sentences():
            try:
                signal.raise_signal(sign)
            except KeyboardInterrupt as stop:
                stop.add_note("2 of 3 chunks are kept")
                assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL  # a second one ends it at once
                raise

    before = signal.getsignal(sign)
    result = CliRunner().invoke(patient)
    assert result.exit_code == 130
    assert result.stderr == "stopped: run the same command again to go on; 2 of 3 chunks are kept\n"
    assert signal.getsignal(sign) is before
    signal.signal(sign, signal.SIG_IGN)  # as nohup does
    try:
        with sentences():
            signal.raise_signal(sign)
    finally:
        signal.signal(sign, before)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_take_nothing_from_files(closed: str, tmp_path: Path) -> None:
    """Else the first file that is opened has the number of standard output, and gets what is printed."""
    write_images(tmp_path / "pool", 3)
    shell = f'exec "$0" -m builder.cli scan pool {closed}'
    done = subprocess.run(["bash", "-c", shell, sys.executable], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(list(find_pool(Store(tmp_path / "store"), str(tmp_path / "pool")).images())) == 3
