"""Only regular files are opened: nothing else can make a command wait for ever."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from teachers.files import check_regular, open_regular, read_regular, regular_only


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link_to_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(os.path.relpath(path))  # a socket's path is short


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_pipe, "it is a pipe, not a file"),
        (_link_to_pipe, "it is a pipe, not a file"),
        (_socket, "it is a socket, not a file"),
        (_device, "it is a device, not a file"),
        (Path.mkdir, "it is a folder, not a file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: None, "No such file or directory"),
    ],
)
def test_what_is_no_regular_file_is_refused_and_named(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.jpg"
    make(path)
    for read in (open_regular, read_regular, check_regular, regular_only):
        with pytest.raises(OSError) as error:
            read(path)
        assert (error.value.strerror, error.value.filename) in ((reason, str(path)), (reason, path))


def test_regular_files_are_read_also_through_links(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("data")
    assert read_regular(tmp_path / "link", most=3) == b"abc"
    with (
        open_regular(tmp_path / "link") as file,
        open(tmp_path / "data", encoding="utf-8", opener=regular_only) as text,
    ):
        assert (file.read(), text.read()) == (b"abc", "abc")
    check_regular(tmp_path / "data")


def test_a_file_above_its_limit_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(6 << 30)
    with pytest.raises(OSError, match=f"it has {6 << 30} bytes, more than 1000"):
        read_regular(tmp_path / "sparse.jpg", most=1000)
