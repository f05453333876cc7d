"""When the versions of a store came to be, by whom and what for: `history.json` of the store.

It is no part of a version, whose bytes know no time and no person: it is neither hashed nor published, and what is
pulled brings none of its publisher's with it. It also knows the versions that were removed, so that no number comes to
mean another version.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from builder.errors import BuildError
from builder.store.files import locked, read_stored, seal, unseal, write_file
from builder.store.manifest import Manifest

HISTORY = "history.json"
MAX_BYTES = 1 << 26
"""Of the file: 64 MiB are a quarter of a million versions."""


@dataclass(frozen=True)
class Event:
    """What became of a version. id: of the version; when: ISO 8601 to the second, UTC; author: who did it in this
    store, as TUTELAGE_AUTHOR says, "" where it says nothing; message: what for, as they said it; manifest:
    Manifest.pin of the version, "" in events of older tools; adopted: the day on which the pin of such a version was
    noted afterwards (`tutelage fsck --adopt`): what was there before that, nobody verified."""

    id: str
    what: Literal["built", "pulled", "removed"]
    when: str
    author: str
    message: str = ""
    manifest: str = ""
    adopted: str = ""

    def is_of(self, manifest: Manifest) -> bool:
        """Whether a version is the one that it tells of; one of an older tool says so by its id alone."""
        return self.id == manifest.id and self.manifest in ("", manifest.pin)


EVENTS = TypeAdapter(dict[str, Event])


def read_history(root: Path) -> dict[str, Event]:
    """What became last of each version of the store in this folder, by NAME@vN; versions from before it was kept are
    not in it. Raises BuildError if the file is damaged."""
    path, mend = root / HISTORY, "restore it from a copy, or remove it, with which dates, authors and messages are lost"
    try:
        return EVENTS.validate_python(unseal(read_stored(path, MAX_BYTES), path, mend))
    except FileNotFoundError:
        return {}
    except (OSError, orjson.JSONDecodeError, ValidationError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise BuildError(f"{path} is damaged ({reason}): {mend}") from None


def record(
    root: Path, version: str, manifest: Manifest, what: Literal["built", "pulled", "removed"], message: str = ""
) -> None:
    """Note what became of the version NAME@vN of the store in this folder, now, by whoever runs this."""
    now = datetime.now(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
    event = Event(manifest.id, what, now, os.environ.get("TUTELAGE_AUTHOR", ""), message.strip(), manifest.pin)
    with _alone(root):
        _write(root, {**read_history(root), version: event})


def say_what_for(root: Path, version: str, manifest: Manifest, message: str) -> None:
    """Give a version that is there already another message; who made it, and when, stay. No message changes nothing,
    but notes a version that a killed build could not."""
    with _alone(root):
        events = read_history(root)
        before = events.get(version)
        if before and before.is_of(manifest):
            if message.strip():
                _write(root, {**events, version: replace(before, message=message.strip())})
            return
    record(root, version, manifest, "built", message)


def adopt(root: Path, versions: Mapping[str, Manifest]) -> None:
    """Note the manifests of versions, by NAME@vN, that an older tool noted without, or not at all; today's date says
    since when they are known."""
    today = datetime.now(UTC).date().isoformat()
    with _alone(root):
        events = read_history(root)
        for name, manifest in versions.items():
            before = events.get(name)
            if before is None or before.id != manifest.id:
                before = Event(manifest.id, "built", today, "")
            events[name] = replace(before, manifest=manifest.pin, adopted=today)
        _write(root, events)


def _alone(root: Path) -> AbstractContextManager[None]:
    return locked(root / f".lock-{HISTORY}", f"{HISTORY} of {root}", sweep=[root], wait=True)


def _write(root: Path, events: Mapping[str, Event]) -> None:
    stored = {name: asdict(event) for name, event in events.items()}
    write_file(root / HISTORY, orjson.dumps(seal(stored), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
