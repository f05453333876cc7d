"""Fixtures shared by all tests: where the real data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, labels and models (`TUTELAGE_DATA`, else `../shared/data`), or a skip."""
    folder = Path(os.environ.get("TUTELAGE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found at {folder}: set TUTELAGE_DATA")
    return folder.resolve()
