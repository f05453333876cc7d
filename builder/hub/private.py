"""What a version must not tell the world: paths of this machine, who works on it and what it is called, and where
photographs were taken."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import pyarrow.parquet as pq

from builder.engine import run
from builder.errors import BuildError, brief
from builder.scan.metadata import has_location
from builder.store.labels import read_label
from builder.store.manifest import MANIFEST, Manifest
from builder.store.shards import Sample, ShardRecord
from builder.store.version import DATA, LABELS, Version

ROOTS = "home|Users|root|mnt|media|tmp|var|opt|srv|private|Volumes|scratch|work|workspace|data"
PATH = re.compile(rf"(?<![\w./<-])/(?:{ROOTS})/[^\s\"'<>,;)]+|(?<!\w)[A-Za-z]:\\\\?\w[^\s\"'<>,;)]*|file://[^\s\"'<>]+")
"""Absolute paths of Unix and Windows, as texts quote them."""
EMBEDDED = re.compile(r"base64,[A-Za-z0-9+/=]+")
COMMON = frozenset("root user admin ubuntu debian runner docker jovyan build ci localhost".split())
"""Names that tell nothing of anybody."""
SHORTEST = 4
"""Characters of a user's or a host's name that is looked for."""


@dataclass(frozen=True)
class Told:
    """What a version tells. texts: (file, what); places: keys of images that say where they were taken, the first ones;
    located: how many do."""

    texts: list[tuple[str, str]]
    places: list[str]
    located: int


def check_private(
    version: Version, *, allow_private: bool = False, allow_gps: bool = False, workers: int | None = None
) -> None:
    """Raise BuildError for a version in whose files, keys or labels stands a path, the user's or the host's name, or
    whose images say where they were taken, unless that is allowed."""
    if allow_private and allow_gps:
        return
    told = look_for_private(version, workers)
    if told.texts and not allow_private:
        file, what = told.texts[0]
        raise BuildError(
            f"{file} of {version.ref} holds {brief(repr(what))}, which is of this machine or its user: write the "
            "recipe (and a pool's list) with relative paths and build again, or publish it all the same with "
            "--allow-private"
        )
    if told.located and not allow_gps:
        raise BuildError(
            f"{told.located} images of {version.ref} say where they were taken ({', '.join(told.places)}): build "
            "with shards.strip_metadata: true, or publish them all the same with --allow-gps"
        )


def look_for_private(version: Version, workers: int | None = None) -> Told:
    """What a version tells of this machine and of places; every file is read once."""
    names = _names()
    texts = []
    for name in sorted({*version.manifest.files, MANIFEST}):
        if name == LABELS:
            found = _in_table(version.folder / name, names)
        else:
            raw = (version.folder / name).read_bytes()
            found = _first(EMBEDDED.sub("", raw.decode(errors="replace")), names)
        if found:
            texts.append((name, found))
    shards, unchecked = version.manifest.shards, replace(version, trust=None)
    places, located = list[str](), 0

    def look(shard: ShardRecord, stop: Event) -> tuple[str, list[str]]:
        return _in_shard(unchecked.samples(shard), version.manifest, names)

    for shard, (found, keys) in zip(shards, run(look, shards, workers), strict=True):
        texts += [(f"{DATA}/{shard.name}", found)] if found else []
        located += len(keys)
        places += keys[: 3 - len(places)]
    return Told(texts, places, located)


def _names() -> list[str]:
    """What stands for this machine and its user in a text."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # nobody has this number
        user = ""
    home = os.path.expanduser("~").strip("/")
    words = {user, socket.gethostname(), socket.gethostname().partition(".")[0]}
    named = [word for word in sorted(words) if len(word) >= SHORTEST and word.lower() not in COMMON]
    return [rf"(?<!\w){re.escape(word)}(?!\w)" for word in named] + ([re.escape(home)] if "/" in home else [])


def _first(text: str, names: Sequence[str]) -> str:
    """The first path or name in a text; "" if there is none."""
    patterns = [PATH, *map(re.compile, names)]
    return next((match[0] for pattern in patterns if (match := pattern.search(text))), "")


def _in_table(path: Path, names: Sequence[str]) -> str:
    with pq.ParquetFile(path) as file:
        columns = [field.name for field in file.schema_arrow if str(field.type) in ("string", "large_string")]
        for batch in file.iter_batches(columns=columns):
            for column in batch.columns:
                if found := _first("\n".join(filter(None, column.unique().to_pylist())), names):
                    return found
    return ""


def _in_shard(samples: Iterable[Sample], manifest: Manifest, names: Sequence[str]) -> tuple[str, list[str]]:
    """What the label JSONs tell, and the keys of images that say where they were taken."""
    found, keys = "", []
    for sample in samples:
        if not found:
            found = _first("\n".join(_strings(read_label(sample, manifest))), names)
        if has_location(sample.read(manifest.features[0])):
            keys.append(sample.key)
    return found, keys


def _strings(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _strings(item)
        case dict():
            for key, item in value.items():
                yield key
                yield from _strings(item)
