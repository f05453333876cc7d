"""Peers whose pins clash with ours, in an environment of their own: `.venv-peers`, made when it is first needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from _compare import ROOT

FOLDER = ROOT / ".venv-peers"
PINS = ROOT / "benchmarks" / "peers.txt"
THEIRS = ROOT / "benchmarks" / "_theirs.py"
PYTHON = FOLDER / "bin" / "python"


def seconds_of(work: str, *arguments: str | int | Path) -> float:
    """Seconds that a function of _theirs.py takes, measured inside a process of the peers' environment."""
    _ready()
    command = [PYTHON, THEIRS, work, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    return float(done.stdout.split()[-1])


def _ready() -> None:
    """Install what peers.txt pins, unless that was done. Raises SystemExit where it cannot be."""
    stamp, pins = FOLDER / "installed", PINS.read_text()
    if stamp.exists() and stamp.read_text() == pins:
        return
    uv = Path(sys.executable).with_name("uv")
    for step in (
        ["venv", "--clear", "--python", sys.executable, FOLDER],
        ["pip", "install", "--python", PYTHON, "-r", PINS],
    ):
        if subprocess.run([uv, *step, "--quiet"], check=False).returncode:
            raise SystemExit(f"cannot make {FOLDER} of {PINS}: see uv's message, and `make setup`")
    stamp.write_text(pins)
