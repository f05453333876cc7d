"""The process that commands are forked from: it imports everything heavy, opens no thread of Python, and forks."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

MODULES = (
    *("numpy", "pyarrow.parquet", "pyarrow.compute", "pyarrow.dataset", "duckdb", "PIL.Image", "simplejpeg"),
    *("torch", "torchvision.transforms.v2", "timm", "safetensors.torch", "accelerate", "pycocotools.cocoeval"),
    *("scipy.optimize", "scipy.stats", "matplotlib.pyplot", "rich.progress", "rich.table"),
    *("builder.build", "builder.measure", "builder.export", "builder.review", "builder.hub", "builder.versions"),
    *("students.train.loop", "students.evaluate.measure", "students.data.loader", "students.tasks.choose"),
    *("builder.cut.version", "builder.report.page", "builder.label.load", "teachers.load", "builder.cli.main"),
)
"""What commands import. (onnxruntime is not among them: it starts a thread; nor fiftyone: it starts a database.)"""
NO_RIGHTS = 0x20080522
"""The version of the kernel's structure of capabilities that `capset` is told."""


def serve(connection: socket.socket) -> NoReturn:
    """Fork a command for each line of JSON, answer with its process id, and write `ended` (its code and its peak of
    resident memory, bytes) in its folder when it has ended."""
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    places: dict[int, Path] = {}
    requests = b""
    while True:
        ready = select.select([connection.fileno(), wake], [], [])[0]
        if wake in ready:
            os.read(wake, 4096)
            _reap(places)
        if connection.fileno() in ready:
            if not (data := connection.recv(1 << 20)):
                os._exit(0)  # libraries would say what they leave behind
            requests += data
            while b"\n" in requests:
                line, _, requests = requests.partition(b"\n")
                request = json.loads(line)
                if (pid := os.fork()) == 0:
                    connection.close()
                    _command(request)
                places[pid] = Path(request["place"])
                connection.sendall(b"%d\n" % pid)


def _reap(places: dict[int, Path]) -> None:
    while places:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if (place := places.pop(pid, None)) is not None and place.is_dir():
            (place / "ending").write_text(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024]))
            (place / "ending").rename(place / "ended")


def _command(request: dict[str, Any]) -> None:
    """In the child: become `tutelage ARGS`, as a fresh process would be, and end."""
    signal.set_wakeup_fd(-1)
    for sign in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    _streams(Path(request["place"]), request["closed"])
    code = 1
    try:
        before = {name: value for name, value in os.environ.items() if name.startswith("HF_")}
        os.environ.clear()
        os.environ.update(request["env"])
        if before != {name: value for name, value in os.environ.items() if name.startswith("HF_")}:
            for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
                del sys.modules[name]  # it reads them when it is imported
        sys.argv = ["tutelage", *request["args"]]
        tempfile.tempdir = None
        os.chdir(request["cwd"])
        if request["humble"]:
            _drop_rights()
        if request["kill_at"] is not None or request["trace"] is not None:
            from tests.faults.disk import watch

            watch(request["kill_at"], request["sign"], request["trace"])
        if request["record"] is not None:
            from tests.faults.recorder import record

            record(*request["record"])
        for name, value in request["limits"].items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
        code = _main(request["args"])
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        _end(code)


def _main(args: list[str]) -> int:
    from builder.cli.main import main

    try:
        main(args, prog_name="tutelage")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)  # noqa: T201 as Python itself does
    return 1


def _end(code: int) -> None:
    """As the interpreter ends: the exit handlers, then the streams; then at once, without the server's own memory."""
    import atexit
    import threading

    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                code = code or 120  # as Python has it
    finally:
        os._exit(code)


def _streams(place: Path, closed: list[int]) -> None:
    """Standard input is empty, the others are files."""
    names = {0: os.devnull, 1: str(place / "stdout"), 2: str(place / "stderr")}
    for number, name in names.items():
        descriptor = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", closefd=False, encoding="utf-8", errors="backslashreplace", buffering=1)
    for number in closed:
        os.close(number)
        setattr(sys, "stdout" if number == 1 else "stderr", None)  # as Python starts then


def _drop_rights() -> None:
    """Root without its rights over files: permissions hold for it as for anybody."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(NO_RIGHTS, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
