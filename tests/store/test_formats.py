"""Versions of older formats, as the tools of their time wrote them, in today's hands.

`formats/format1.zip` is a small store of boxes made by the code of commit 468f86c, with its pool, labels and recipe:
pets@v1 with a tag and a near-duplicate left out, pets@v2, its child without an image that left the pool, and pets@v3
with two corrections.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from builder.cli.main import main
from builder.store.store import Store
from builder.versions.verify import problems

HERE = Path(__file__).parent / "formats"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with zipfile.ZipFile(HERE / "format1.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path


def run(folder: Path, *arguments: object) -> Any:
    given = [*map(str, arguments), "--store", str(folder / "store"), "--json"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_store_of_format_1_is_read_and_gone_on_from(folder: Path) -> None:
    store = Store(folder / "store")
    assert store.version("pets@first").manifest.format == 1
    for number in (1, 2, 3):
        version = store.version(f"pets@v{number}")
        assert problems(version) == [] and not version.has("index.parquet")
        assert version.manifest.id in json.dumps(run(folder, "show", version.ref))
    assert [entry["state"] for entry in run(folder, "log")["versions"]] == ["complete"] * 3
    run(folder, "export", "pets@v3", folder / "out", "--format", "coco")
    run(folder, "build", folder / "recipe.yaml", "--set", "parent=pets@v3", "--no-report")
    child = store.version("pets@v4")
    assert child.manifest.format == 2 and child.manifest.provenance.parent is not None
    assert child.manifest.provenance.parent.id == store.version("pets@v3").manifest.id
    assert problems(child) == []
