"""Versions with their dates, rules, authors and messages; and their removal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from builder.cli.main import main
from builder.errors import BuildError
from builder.store.history import HISTORY, read_history
from builder.store.manifest import read_manifest
from builder.store.store import Store
from builder.versions.history import rule_text
from builder.versions.removal import remove
from tests.helpers.pools import tree, write_images, write_recipe, write_results


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions; the second is the child of the first."""
    folder = tmp_path_factory.mktemp("removal")
    write_results(folder, write_images(folder / "pool", 8))
    recipe = write_recipe(folder, shards={"max_images": 4})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_AUTHOR", "ann")
        run(folder / "store", "build", recipe, "-m", "a first try")
        run(folder / "store", "build", recipe, "--set", "parent=pets@v1", "--set", "images.drop_empty=true")
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    shutil.copytree(made / "store", tmp_path / "store")
    return Store(tmp_path / "store")


def run(store: Path, *arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments), "--store", str(store)])
    assert result.exit_code == code, result.output
    return result


def test_the_log_says_when_by_what_rule_by_whom_and_what_for(store: Store) -> None:
    first, second = json.loads(run(store.root, "log", "--json").stdout)["versions"]
    assert (first["author"], first["message"], first["what"]) == ("ann", "a first try", "built")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first["when"]) and first["rule"] == "score 0.5"
    assert (second["author"], second["message"]) == ("ann", "")
    text = run(store.root, "log").output
    assert "a first try" in text and first["when"][:10] in text and "score 0.5" in text
    for folder in store.versions("pets"):  # none of it is in a version
        for name, data in tree(folder).items():
            assert b"a first try" not in data and b'"ann"' not in data, name


def test_a_build_that_finds_its_version_takes_the_message(made: Path, store: Store) -> None:
    before = read_history(store.root)["pets@v1"]
    run(store.root, "build", made / "recipe.yaml", "-m", "the one to train on")
    assert read_history(store.root)["pets@v1"] == replace(before, message="the one to train on")
    run(store.root, "build", made / "recipe.yaml")
    assert read_history(store.root)["pets@v1"].message == "the one to train on"


def test_a_narrow_terminal_gets_a_paragraph_for_each_version(store: Store) -> None:
    terminal, ours = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-c", "from builder.cli.main import main; main()", "log", "--store", str(store.root)]
    subprocess.run(command, stdout=ours, env=environment, check=True)
    first, *lines = os.read(terminal, 4096).decode().splitlines()
    for end in (terminal, ours):
        os.close(end)
    assert re.fullmatch(r"pets@v1  \w{12}  \d{4}-\d\d-\d\d  ann", first) and lines[0] == "    a first try"
    assert len(lines) == 6 and max(map(len, lines)) <= 80
    assert re.search(r"score 0.5, certified: unknown, \d+ kept, \d+ samples, ", lines[2])


def test_a_version_without_history_and_a_damaged_history(store: Store, tmp_path: Path) -> None:
    (store.root / HISTORY).unlink()
    assert json.loads(run(store.root, "log", "--json").stdout)["versions"][0]["when"] == ""
    (store.root / HISTORY).write_text("{")
    assert "is damaged" in run(store.root, "log", code=1).output


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ({"score": {"cat": 0.4, "*": 0.6}}, "score 0.4 to 0.6"),
        ({"precision": {"target": 0.8}}, "precision 0.8: 0.4 to 0.6"),
        ({"top_box": 0.7}, "top_box 0.7: 0.4 to 0.6"),
    ],
)
def test_rules_in_words(store: Store, keep: dict[str, object], words: str) -> None:
    manifest = read_manifest(store.datasets / "pets" / "v1")
    stored = manifest.provenance.model_dump()
    stored["inputs"]["keep"] = keep
    (group,) = stored["thresholds"][:1]
    stored["thresholds"] = [group | {"threshold": 0.4}, group | {"threshold": 0.6}, group | {"threshold": None}]
    provenance = type(manifest.provenance).model_validate(stored)
    assert rule_text(manifest.model_copy(update={"provenance": provenance})) == words


def test_a_version_is_removed_and_its_number_is_not_used_again(made: Path, store: Store) -> None:
    first, second = store.versions("pets")
    before = tree(store.root)
    told = json.loads(run(store.root, "rm", "pets@v2", "--dry-run", "--json").stdout)
    assert told["removed"] is False and tree(store.root) == before and told["bytes"] > 0
    done = json.loads(run(store.root, "rm", "pets@v2", "--json").stdout)
    assert done == told | {"removed": True} and not second.exists() and first.exists()
    assert read_history(store.root)["pets@v2"].what == "removed"
    assert "no version 'pets@v2'" in run(store.root, "rm", "pets@v2", code=1).output
    run(store.root, "build", made / "recipe.yaml", "--set", "keep.score=0.9")
    assert [folder.name for folder in store.versions("pets")] == ["v1", "v3"]
    run(store.root, "gc")
    assert store.ids(store.pools)  # the last scan of a source, and v1, need it


def test_what_others_need_is_not_removed(store: Store) -> None:
    assert "pets@v2 was made from pets@v1" in run(store.root, "rm", "pets@v1", code=1).output
    assert "say which version of pets to remove" in run(store.root, "rm", "pets", code=2).output
    run(store.root, "tag", "pets@v2", "good")
    assert "has the tag good: remove that first" in run(store.root, "rm", "pets@latest", code=1).output
    run(store.root, "tag", "--delete", "pets@good")
    with store.in_use(), pytest.raises(BuildError, match="is working on store"):
        remove(store.version("pets@v2"), store)
    assert len(store.versions("pets")) == 2


def test_shards_that_another_version_shares_are_not_counted_as_freed(store: Store) -> None:
    shutil.rmtree(store.datasets / "pets/v2/data")
    shutil.copytree(
        store.datasets / "pets/v1/data",
        store.datasets / "pets/v2/data",
        copy_function=lambda a, b: Path(b).hardlink_to(a),
    )
    shards = sum(path.stat().st_size for path in (store.datasets / "pets/v2/data").iterdir())
    removed = remove(store.version("pets@v2"), store, dry_run=True)
    assert removed.shared == shards
