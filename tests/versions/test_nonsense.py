"""What a version from elsewhere says of itself, under hashes that fit, and can be none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from builder.cli.main import main
from builder.store.store import Store
from builder.versions.history import DAMAGED, log
from tests.helpers.corrected import built
from tests.helpers.hostile import put, reseal


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nonsense")
    built(folder, "detection")
    return folder / "store"


NONSENSE: list[tuple[tuple[str, ...], Any]] = [
    (("provenance", "inputs", "keep", "precision"), {"target": "high"}),
    (("provenance", "inputs", "keep", "score"), {"cat": 7}),
    (("provenance", "inputs", "keep", "ignore"), [[]]),
    (("provenance", "inputs", "pool"), "../../../etc"),
    (("provenance", "teacher", "description", "classes"), 7),
    (("provenance", "teacher", "description", "floor"), {}),
]


@pytest.mark.parametrize(("place", "value"), NONSENSE, ids=lambda value: str(value)[:40])
def test_what_a_pulled_version_says_of_itself(made: Path, tmp_path: Path, place: tuple[str, ...], value: Any) -> None:
    """Every command says it in a sentence, and one bad version hides no other from `tutelage log`."""
    store = tmp_path / "store"
    shutil.copytree(made, store)
    evil = store / "datasets/evil/v1"
    shutil.copytree(store / "datasets/pets/v1", evil, ignore=shutil.ignore_patterns("claim", ".*"))
    reseal(evil, lambda manifest: put(manifest, place, value))
    good, bad = sorted(log(Store(store)), key=lambda entry: entry.dataset == "evil")
    assert good.state == "complete" and bad.state == DAMAGED and place[-1] in bad.note
    for command in (["show", "evil"], ["diff", "pets", "evil"], ["recut", "evil", "--set", "keep.score=0.7"]):
        result = CliRunner().invoke(main, [*command, "--store", str(store)])
        assert result.exit_code == 1 and result.stderr.startswith("Error: "), result.output
        assert len(result.stderr.strip().splitlines()) == 1 and isinstance(result.exception, SystemExit)
