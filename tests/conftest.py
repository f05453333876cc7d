"""Fixtures shared by all tests: where the real data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests import ROOT

# The same inputs each time, so that a change is judged by what it changed; TUTELAGE_INPUTS=N draws N others
settings.register_profile("same", derandomize="TUTELAGE_INPUTS" not in os.environ, deadline=None)
settings.load_profile("same")

LONG = (
    "test_readme.py",
    "test_cluster.py",
    "test_resume.py",
    "test_leaks.py",
    "test_golden.py",
    "test_two_processes.py",
)
"""Files that take long begin first, so that no process is alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, labels and models (`TUTELAGE_DATA`, else `../shared/data`), or a skip."""
    folder = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set TUTELAGE_DATA")
    return folder.resolve()
