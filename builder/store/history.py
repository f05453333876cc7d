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
from builder.store.files import locked, write_file

HISTORY = "history.json"


@dataclass(frozen=True)
class Event:
    """What became of a version. id: of the version; when: ISO 8601 to the second, UTC; author: who did it in this
    store; message: what for, as they said it."""

    id: str
    what: Literal["built", "pulled", "removed"]
    when: str
    author: str
    message: str = ""


EVENTS = TypeAdapter(dict[str, Event])


def read_history(root: Path) -> dict[str, Event]:
    """What became last of each version of the store in this folder, by NAME@vN; versions from before it was kept are
    not in it. Raises BuildError if the file is damaged."""
    path = root / HISTORY
    try:
        return EVENTS.validate_python(orjson.loads(path.read_bytes())) if path.exists() else {}
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise BuildError(
            f"{path} is damaged ({str(error).splitlines()[0]}): restore it from a copy, or remove it, with which "
            "dates, authors and messages are lost"
        ) from None


def record(root: Path, version: str, id: str, what: Literal["built", "pulled", "removed"], message: str = "") -> None:
    """Note what became of the version NAME@vN of the store in this folder, now, by whoever runs this."""
    now = datetime.now(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"
    event = Event(id, what, now, os.environ.get("TUTELAGE_AUTHOR") or login_name(), message.strip())
    with _alone(root):
        _write(root, {**read_history(root), version: event})


def say_what_for(root: Path, version: str, id: str, message: str) -> None:
    """Give a version that is there already another message; who made it, and when, stay. No message changes nothing."""
    if not message.strip():
        return
    with _alone(root):
        events = read_history(root)
        before = events.get(version)
        if before and before.id == id:
            _write(root, {**events, version: replace(before, message=message.strip())})
            return
    record(root, version, id, "built", message)


def _alone(root: Path) -> AbstractContextManager[None]:
    return locked(root / f".lock-{HISTORY}", f"{HISTORY} of {root}", sweep=[root], wait=True)


def _write(root: Path, events: Mapping[str, Event]) -> None:
    stored = {name: asdict(event) for name, event in events.items()}
    write_file(root / HISTORY, orjson.dumps(stored, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


def login_name() -> str:
    """Of the user; `unknown` where the system has none."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
