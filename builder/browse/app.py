"""Versions in FiftyOne: connecting to it, its App, and what people did there. The only import of fiftyone."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from builder.browse.database import URI, database
from builder.browse.documents import Names, reviewable
from builder.browse.kinds import shown_kind
from builder.browse.samples import INFO, samples_of
from builder.errors import BuildError
from builder.review.objects import Edited, shown_objects
from builder.store.files import digest
from builder.store.store import Store
from builder.store.version import Version

QUIET = {
    "FIFTYONE_DO_NOT_TRACK": "true",
    "FIFTYONE_DATABASE_VALIDATION": "false",
    "FIFTYONE_LOGGING_LEVEL": "ERROR",
    "FIFTYONE_SHOW_PROGRESS_BARS": "false",
}
LOOPBACK = "127.0.0.1"
READY = 60.0
"""Seconds to wait for the App's server."""


def database_folder(store: Store) -> Path:
    """Where a database of ours keeps what people say of the store's versions: no cache, so `gc` leaves it alone."""
    return store.root / "fiftyone"


@contextmanager
def connected(store: Store) -> Iterator[Any]:
    """The fiftyone module, connected to a database as long as the block lasts; nothing is told to anyone."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    before = os.environ.get(URI)
    with database(database_folder(store)) as uri:
        os.environ[URI] = uri  # for FiftyOne's server, too, which is a process of its own
        try:
            import fiftyone as fo
            from fiftyone.core.odm import database as connection

            if fo.config.database_uri != uri:
                _disconnect()
                fo.config.database_uri = uri
            connection._connect()
            fo.config.do_not_track, fo.config.show_progress_bars = True, False
            try:
                yield fo
            finally:
                if before != uri:  # else someone around us goes on with it
                    _disconnect()
                    fo.config.database_uri = before
                # else it would look, at exit, for datasets in a database that is gone
                atexit.unregister(connection._delete_non_persistent_datasets_if_allowed)
        finally:
            os.environ.pop(URI)
            if before is not None:
                os.environ[URI] = before


def _disconnect() -> None:
    """Let go of the database, and of the collections of it that FiftyOne holds on to."""
    from fiftyone.core.odm import database as connection
    from fiftyone.factory import repo_factory

    connection._disconnect()
    repo_factory.RepositoryFactory.repos.clear()
    repo_factory._db = None


@contextmanager
def app(fo: Any, dataset: str, log: Path, address: str = LOOPBACK, port: int = 5151) -> Iterator[str]:
    """The App as long as the block lasts; yields the address of the dataset's page. log: what the server prints.

    The server is FiftyOne's own; a session, which would only tell this process what is selected, is not made: it takes
    ten seconds to connect. Raises BuildError if something else listens there, or the server does not start.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            reason = error.strerror or error
            raise BuildError(f"{address}:{port} cannot be used ({reason}): give another --port") from None
    environment = {**os.environ, "FIFTYONE_DISABLE_SERVICES": "1", "FIFTYONE_DO_NOT_TRACK": "1"}
    # FiftyOne's guard of its services: it ends the server when our end of its stdin closes, whatever becomes of us,
    # and shields it from Ctrl-C, which is for us
    guard = [sys.executable, str(Path(fo.__file__).parent / "service" / "main.py"), "--51-service", "server"]
    command = [*guard, sys.executable, "main.py", "--port", str(port), "--address", address]
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as out:
        server = subprocess.Popen(
            command, cwd=fo.constants.SERVER_DIR, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out
        )
    try:
        if not _is_up(server, address, port):
            raise BuildError(f"FiftyOne's server did not start: {log} says why")
        yield f"http://{address}:{port}/datasets/{dataset}"
    finally:
        if server.stdin:
            server.stdin.close()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _is_up(server: subprocess.Popen[bytes], address: str, port: int) -> bool:
    """Whether the server answers before READY."""
    end = time.monotonic() + READY
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as probe:
            probe.settimeout(1)
            if not probe.connect_ex((address, port)):
                return True
        time.sleep(0.1)
    return False


def read_edits(store: Store, version: Version, author: str) -> tuple[list[Edited], dict[str, str]]:
    """What people did in the App to the objects of a version, and the images that they touched: SHA-256 by key.

    In every dataset that holds the version; of an image touched in several, the one touched last. Tags `accept` and
    `reject` on an object are verdicts on it, on an image on all its kept objects. Images that nobody touched do not
    come back. Raises BuildError if the version was never browsed.
    """
    manifest = version.manifest
    with connected(store) as fo:
        latest: dict[str, tuple[Any, Names, dict[str, Any]]] = {}
        browsed = False
        for name in fo.list_datasets("tutelage-*"):
            dataset = fo.load_dataset(name)
            for loaded in (dataset.info.get(INFO) or {}).get("versions", []):
                if loaded["id"] == manifest.id and loaded["files"] == digest(manifest.files):
                    browsed = True
                    names = Names(loaded["suffix"])
                    for sample in samples_of(fo, dataset).touched(reviewable(names)):
                        when = sample["last_modified_at"]
                        if sample["key"] not in latest or when > latest[sample["key"]][0]:
                            latest[sample["key"]] = when, names, sample
    if not browsed:
        ref = version.ref
        raise BuildError(f"{ref} was not browsed yet: run `tutelage browse {ref}`, and review it there")
    edited: list[Edited] = []
    read = shown_kind(manifest.kind).edits
    touched = {key: sample["sha256"] for key, (_, _, sample) in latest.items()}
    pending = set(latest)
    for objects in shown_objects(version, latest, touched) if latest else ():
        _, names, sample = latest[objects[0].key]
        edited += read(sample, names, {one.id: one for one in objects}, author)
        pending.discard(objects[0].key)
    for key in sorted(pending):  # images of which nothing was predicted
        _, names, sample = latest[key]
        edited += read(sample, names, {}, author)
    return edited, touched
