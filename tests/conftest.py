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


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, labels and models (`TUTELAGE_DATA`, else `../shared/data`), or a skip."""
    folder = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set TUTELAGE_DATA")
    return folder.resolve()
