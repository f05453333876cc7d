"""Images that the disk has changed since they were scanned: a row with its reason, not a version born damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from builder.cli.main import main
from builder.cut.left_out import read_left_out
from builder.store.store import Store
from builder.versions.verify import problems
from tests.helpers.pools import write_images, write_recipe, write_results


def run(store: Path, *arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments), "--store", str(store)])
    assert result.exit_code == code, result.output
    return result


def build(folder: Path) -> dict[str, Any]:
    result = run(folder / "store", "build", folder / "recipe.yaml", "--no-report", "--json")
    return json.loads(result.stdout) | {"said": result.stderr}


def rot(path: Path) -> bytes:
    """Flip a bit as a failing disk does: size and time stay. What was there."""
    status, whole = path.stat(), path.read_bytes()
    path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return whole


def test_a_changed_image_is_left_out_and_mended_in_the_next_version(tmp_path: Path) -> None:
    names = write_images(tmp_path / "pool", 8)
    write_results(tmp_path, names)
    write_recipe(tmp_path, pool={"source": "pool", "chunk": 2}, shards={"max_images": 4})
    store = Store(tmp_path / "store")
    run(store.root, "build", tmp_path / "recipe.yaml", "--only", "label")
    bad = tmp_path / "pool" / names[2]
    whole = rot(bad)
    first = build(tmp_path)
    version = store.version("pets@v1")
    (sha256,) = version.manifest.provenance.inputs.changed
    assert version.manifest.images["changed"] == 1 and version.manifest.samples == 7
    assert (
        "1 changed" in run(store.root, "show", "pets@v1").output and "1 images of pets@v1 are left out" in first["said"]
    )
    assert read_left_out(version.left_out).changed[sha256].startswith(f"{names[2]}: its bytes are no longer those")
    assert problems(version) == []
    again = build(tmp_path)
    assert (again["version"], again["shards_written"]) == (first["version"], 0), "still damaged: it is this one"
    status = bad.stat()
    bad.write_bytes(whole)
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    build(tmp_path)
    mended = store.version("pets@v2")
    assert mended.manifest.samples == 8 and mended.manifest.provenance.inputs.changed == []
    assert build(tmp_path)["shards_written"] == 0 and len(store.versions("pets")) == 2
    rot(bad)
    build(tmp_path)
    assert len(store.versions("pets")) == 2, "the first of the two again"


def test_a_killed_build_looks_again_at_what_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = write_images(tmp_path / "pool", 4)
    write_results(tmp_path, names)
    write_recipe(tmp_path, pool={"source": "pool", "chunk": 2}, shards={"max_images": 2})
    store = Store(tmp_path / "store")
    run(store.root, "build", tmp_path / "recipe.yaml", "--only", "label")
    bad = tmp_path / "pool" / names[1]
    whole, status = rot(bad), bad.stat()
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("builder.cut.version.join_labels", killed)
        CliRunner().invoke(main, ["build", str(tmp_path / "recipe.yaml"), "--no-report", "--store", str(store.root)])
    bad.write_bytes(whole)
    os.utime(bad, ns=(status.st_atime_ns, status.st_mtime_ns))
    build(tmp_path)
    version = store.version("pets@v1")
    assert version.manifest.samples == 4 and version.manifest.provenance.inputs.changed == [] and not problems(version)
