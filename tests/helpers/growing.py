"""Builds of a pool that grows, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from builder.cli.main import main
from builder.store.manifest import Manifest, read_manifest
from builder.store.shards import read_samples


def run(*arguments: object, store: Path) -> Result:
    quick = ["--no-report"] if arguments[0] == "build" else []
    return CliRunner().invoke(main, [*map(str, arguments), *quick, "--store", str(store)])


def build(folder: Path, *more: object) -> Manifest:
    result = run("build", folder / "recipe.yaml", "--json", *more, store=folder / "store")
    assert result.exit_code == 0, result.output
    return read_manifest(Path(json.loads(result.stdout)["path"]))


def version(folder: Path, number: int) -> Path:
    return folder / "store" / "datasets" / "pets" / f"v{number}"


def keys(path: Path) -> set[str]:
    return {sample.key for tar in sorted((path / "data").glob("*.tar")) for sample in read_samples(tar)}
