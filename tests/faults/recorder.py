"""What a command does to names and contents below a folder, and what of it is synced: recorded from inside of it, to be
played to what the disk may hold after a power cut (tests.faults.power)."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.faults.disk import CHANGES, writes

Names = dict[str, tuple[int, str]]
"""Of a folder: name -> a number that no other file or folder has, and `file`, `folder`, or `->TARGET` of a link."""
ALL = -1
"""What `sync` syncs."""


class Recorder:
    """Writes to the folder `out`: `events.jsonl`, a line for each change of names and each sync; `inodes/N`, a link to
    each file, which keeps what was last written to it; `synced/N`, what a file held when it was synced."""

    def __init__(self, root: Path, out: Path) -> None:
        self._root, self._out = root, out
        for name in ("inodes", "synced"):
            (out / name).mkdir(parents=True)
        self._log = os.open(out / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._turn, self._busy = threading.RLock(), False
        self._numbers: dict[int, int] = {}  # of what is there, by inode
        self._count = self._blobs = 0
        self._folders: dict[int, Names] = {}
        self.look()

    def see(self, event: str, args: tuple[Any, ...]) -> None:
        """An audit hook: called just before a change, it notes the one before."""
        if event in CHANGES and (event != "open" or writes(args)):
            with self._turn:
                if not self._busy:
                    self.look()

    def look(self, synced: int | None = None, blob: int | None = None) -> None:
        """Note which names changed since the last look; synced: what was synced since; blob: what that file held."""
        with self._turn:
            self._busy = True
            try:
                now = dict(self._walk(self._root, self._number(os.stat(self._root).st_ino)))
                known = {number for names in now.values() for number, _ in names.values()} | now.keys()
                self._numbers = {inode: number for inode, number in self._numbers.items() if number in known}
                changes = [
                    (folder, name, now.get(folder, {}).get(name))
                    for folder in sorted(now.keys() | self._folders.keys())
                    for name in sorted(now.get(folder, {}).keys() | self._folders.get(folder, {}).keys())
                    if now.get(folder, {}).get(name) != self._folders.get(folder, {}).get(name)
                    and folder in now  # what is gone has no names
                ]
                self._folders = now
                if changes or synced is not None:
                    line = {"changes": changes, "synced": synced, "blob": blob}
                    os.write(self._log, json.dumps(line).encode() + b"\n")
            finally:
                self._busy = False

    def synced(self, descriptor: int) -> None:
        """A file or folder was synced."""
        with self._turn:
            self.look()
            status = os.fstat(descriptor)
            if (number := self._numbers.get(status.st_ino)) is not None:
                self.look(number, self._keep(number) if stat.S_ISREG(status.st_mode) else None)

    def all_synced(self) -> None:
        """Everything was synced."""
        with self._turn:
            self.look()
            for number in {
                number for names in self._folders.values() for number, kind in names.values() if kind == "file"
            }:
                self.look(number, self._keep(number))
            self.look(ALL)

    def _keep(self, number: int) -> int:
        self._busy, self._blobs = True, self._blobs + 1
        shutil.copyfile(self._out / "inodes" / str(number), self._out / "synced" / str(self._blobs))
        self._busy = False
        return self._blobs

    def _number(self, inode: int) -> int:
        if inode not in self._numbers:
            self._numbers[inode] = self._count = self._count + 1
        return self._numbers[inode]

    def _walk(self, folder: Path, number: int) -> Iterator[tuple[int, Names]]:
        """The names in a folder and in those below."""
        names: Names = {}
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except FileNotFoundError:  # another thread removed it
            entries = []
        for entry in entries:
            is_new, own = entry.inode() not in self._numbers, self._number(entry.inode())
            if entry.is_symlink():
                names[entry.name] = own, f"->{os.readlink(entry.path)}"
            elif entry.is_dir():
                names[entry.name] = own, "folder"
                yield from self._walk(Path(entry.path), own)
            else:
                names[entry.name] = own, "file"
                if is_new:
                    with suppress(FileNotFoundError):  # another thread removed it
                        os.link(entry.path, self._out / "inodes" / str(own))
        yield number, names


def record(root: str, out: str) -> None:
    """Record from now on what this process does below the folder `root`."""
    recorder, fsync, sync, end = Recorder(Path(root), Path(out)), os.fsync, os.sync, os._exit

    def noted_fsync(descriptor: Any) -> None:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        fsync(number)
        recorder.synced(number)

    def noted_sync() -> None:
        sync()
        recorder.all_synced()

    def noted_end(code: int) -> None:
        recorder.look()
        end(code)

    os.fsync, os.sync, os._exit = noted_fsync, noted_sync, noted_end  # type: ignore[assignment]
    sys.addaudithook(recorder.see)
