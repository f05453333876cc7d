"""Sums beside files: as coreutils reads them, checked before a file is read, and never torn."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.store.files import new_folder
from builder.store.sums import SUMS, check_sum, forget_checked, new_summed_file, read_checked, read_sums, write_sums

MEND = "make it again"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with new_folder(tmp_path / "chunk") as temporary:
        (temporary / "a.parquet").write_bytes(b"a" * 1000)
        (temporary / "maps of b.tar").write_bytes(b"b" * 3000)
        write_sums(temporary, "unverified before 2026-11-30")
    return tmp_path / "chunk"


def test_sums_are_those_of_coreutils(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", SUMS], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "a.parquet: OK\nmaps of b.tar: OK\n")


def test_what_fits_is_read_and_what_has_no_sums_is_read_unverified(folder: Path, tmp_path: Path) -> None:
    assert read_checked(folder / "a.parquet", MEND) == b"a" * 1000
    check_sum(folder / "maps of b.tar", MEND)
    (tmp_path / "of before").write_bytes(b"x")
    assert read_checked(tmp_path / "of before", MEND) == b"x" and read_sums(tmp_path, MEND) is None


def damaged(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    "damage",
    [
        damaged("a.parquet", lambda data: data[:-1] + b"b"),
        damaged("a.parquet", lambda data: data[:-1]),
        damaged(SUMS, lambda data: data.replace(b"a.parquet", b"b.parquet")),
        damaged(SUMS, lambda data: data.replace(b"  a", b" *a")),
        damaged(SUMS, lambda data: data.replace(b"# ", b"! ")),
        damaged(SUMS, lambda data: data.upper()),
        damaged(SUMS, lambda data: data + b"\xff"),
        damaged(SUMS, lambda data: b""),
    ],
)
def test_other_bytes_and_other_sums_are_refused(damage: Callable[[Path], None], folder: Path) -> None:
    damage(folder)
    for read in (read_checked, check_sum):
        with pytest.raises(BuildError, match="make it again"):
            read(folder / "a.parquet", MEND)


def test_a_file_is_hashed_again_when_it_changed_or_all_is_to_be(folder: Path) -> None:
    path = folder / "a.parquet"
    check_sum(path, MEND)
    path.write_bytes(b"c" * 999)
    with pytest.raises(BuildError, match="is damaged"):
        check_sum(path, MEND)
    path.write_bytes(b"a" * 1000)
    forget_checked()
    assert read_checked(path, MEND) == b"a" * 1000


def test_a_file_that_takes_the_place_of_another_is_never_without_its_sum(tmp_path: Path) -> None:
    path = tmp_path / "pool.parquet"
    for data in (b"one", b"two", b"two"):
        with new_summed_file(path) as file:
            file.write(data)
        assert read_checked(path, MEND) == data and len((tmp_path / SUMS).read_text().splitlines()) == 1
    with pytest.raises(TypeError), new_summed_file(path) as file:
        file.write("half")  # type: ignore[arg-type]
    assert read_checked(path, MEND) == b"two" and {p.name for p in tmp_path.iterdir()} == {path.name, SUMS}


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_writer_that_is_killed_between_sum_and_file_leaves_what_is_read(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pool.parquet"
    with new_summed_file(path) as file:
        file.write(b"one")
    import os

    steps, replace = [0], os.replace

    def killed(old: Path, new: Path) -> None:
        steps[0] += 1
        if steps[0] == failing + 1:
            raise KeyboardInterrupt
        replace(old, new)

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt), new_summed_file(path) as file:
        file.write(b"two")
    forget_checked()
    assert read_checked(path, MEND) == (b"two" if failing == 3 else b"one")
