"""Versions in FiftyOne's App, from loading them to the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from builder.cut.recall import check_cut_again, lacks
from builder.engine import Track, silent
from builder.errors import BuildError
from builder.hub.remote import open_version
from builder.hub.repository import PREFIX
from builder.kinds import kind_of
from builder.store.store import Store
from builder.store.version import Version

LOOPBACK, PORT = "127.0.0.1", 5151


@dataclass(frozen=True)
class Session:
    """Versions that can be looked at. dataset: its name in FiftyOne; samples: images in it; page: the App's address,
    None where it was not started."""

    dataset: str
    samples: int
    page: str | None


@contextmanager
def browse(
    versions: Sequence[str],
    store: Store,
    *,
    limit: int | None = None,
    reload: bool = False,
    launch: bool = True,
    address: str = LOOPBACK,
    port: int = PORT,
    track: Track = silent,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Session]:
    """Load versions into FiftyOne and serve its App while the block is open.

    Args:
        versions: NAME, NAME@v3, NAME@TAG, a folder or hf://ORG/NAME@v3; of several, each says what it says of the
            same images.
        store: holds the versions, and the database of what people do to them.
        limit: only so many images of each version, evenly spread.
        reload: load again; tags and edits made in the App are lost.
        launch: start the App.
        address, port: where it listens.
        track: reports progress.
        note: called with a sentence that a person should read.

    Returns:
        A context manager that gives the session.

    Raises:
        BuildError: no such version, versions that cannot be shown together, or an App that does not start.
    """
    from builder.browse.app import app, connected, database_folder
    from builder.browse.load import load

    opened = [open_version(version, store) for version in versions]
    for version in opened:
        if remark := _remark(store, version):
            note(remark)
    with connected(store) as fo:
        dataset = load(fo, store, opened, limit=limit, reload=reload, track=track, note=note)
        samples = len(fo.load_dataset(dataset))
        if not launch:
            yield Session(dataset, samples, None)
            return
        with app(fo, dataset, database_folder(store) / "app.log", address, port) as page:
            yield Session(dataset, samples, page)


def _remark(store: Store, version: Version) -> str:
    """What people should know who are about to correct a version in the App; "" for nothing."""
    if kind_of(version.manifest.kind).pixels:
        return f"{version.ref} holds maps: what is changed on them in the App cannot be taken over"
    if version.is_remote:
        name = version.ref.removeprefix(PREFIX)
        return f"{version.ref} can be looked at; to correct it, run `tutelage pull {name}` first"
    try:
        check_cut_again(store, version)
    except BuildError as error:
        return f"{version.ref} can be looked at, not corrected here: {error}"
    return lacks(store, version)
