"""What a version is made of, and its id. `manifest.json` is written last: a folder with one is complete.

Formats: 1 names its shards by the SHA-256 of their files, and nothing covers the manifest itself; 2 states the digest
of the rest of itself, and its id is made of what lies in the shards (`ShardRecord.contents`); 3 is that of a version
which holds labels only, its images being shared (builder.store.shared). All are read.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import Field, ValidationError, field_serializer

from builder.errors import BuildError, brief
from builder.kinds import kind_of
from builder.sections import Section
from builder.store.files import digest, is_sealed, read_stored, seal, unseal, write_file
from builder.store.keys import original
from builder.store.provenance import Json, Provenance
from builder.store.shards import EXTENSION, KEY, Count, ShardRecord, TarRecord
from teachers.files import read_regular

MANIFEST = "manifest.json"
FORMAT, SHARED_FORMAT = 2, 3
"""Of the manifests that are written now: of versions that hold their images, and of those that share them."""
REPORT = "report/index.html"
"""The page that `tutelage report` may add to a version that has none."""
CLAIM = "claim"
"""The digest of the inputs, by which a build finds its version again."""
MAX_BYTES = 1 << 27
"""Of a manifest: 128 MiB are a hundred million images, or a million tombstones."""
MAX_DEPTH = 64
"""Of what is nested in it; a recipe has eight levels, and what writes JSON gives up at 254."""
HASH = re.compile("[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
VERSION = re.compile(r"v[1-9][0-9]*")
NAMES = {
    "dataset": NAME,
    "version": VERSION,
    "class": re.compile(r"[^\x00-\x1f\x7f-\x9f]+"),
    "member": EXTENSION,
    "shard": re.compile(r"train-[0-9]{6}\.tar"),
    "file of labels": re.compile(r"train-[0-9]{6}\.labels\.tar"),
    "file": re.compile(
        r"labels\.parquet|index\.parquet|overrides\.json|left_out\.csv|README\.md|report/\w[\w.-]{0,127}", re.ASCII
    ),
    "tombstone": KEY,
}
"""What may have which name in a version. No name of a file leads out of it, and none is one that the store makes."""
NEEDED = ("labels.parquet", "index.parquet", "README.md")
OUTCOMES = ("predicted", "kept", "ignored")
"""What `per_class` counts."""
MEND = "remove it, then build or pull the version again"
NOT_PREDICTED = ("predicted", "added")
"""Of `objects`: the sum, and what people drew."""


class Manifest(Section):
    """The whole description of a version. No times and no paths of a machine are in it: equal inputs give equal
    manifests.

    Attributes:
        format: of this file.
        name, version: NAME and vN of NAME@vN.
        id: SHA-256 over kind, classes, features, the contents of the shards in order, and tombstones (`id_of`). All
            else explains the bytes and is no part of it.
        kind: of its labels: detection, instance, semantic or classification.
        classes: names; positions in it are the ids.
        features: extensions of every sample's members, e.g. `["jpg", "json"]`.
        shards: its tars, in order.
        tombstones: keys of images that left the pool after a version before this one; their samples stay in the shards,
            to be skipped.
        images: images by what became of them: written, tombstone, empty, failed, duplicate, …; `pool` is their sum.
        objects: raw predictions by reason (builder.rules.reasons.REASONS), tombstoned images left out; `predicted` is
            their sum, without the `added` ones, which people drew.
        per_class: class name -> predicted, kept, ignored; tombstoned images left out.
        files: SHA-256 of each other file of the version by its name.
        provenance: how it was made (builder.store.provenance).
    """

    format: int = 1
    name: str
    version: str
    id: str
    kind: str
    classes: list[str]
    features: list[str]
    shards: list[ShardRecord]
    tombstones: list[str] = Field(default_factory=list)
    images: dict[str, Count]
    objects: dict[str, Count]
    per_class: dict[str, dict[str, Count]]
    files: dict[str, str]
    provenance: Provenance

    @field_serializer("provenance")
    def _stored(self, provenance: Provenance) -> Json:
        return provenance.stored()

    def written(self) -> Json:
        """JSON-ready as it is written, but for the digest: what was read, without the defaults of a later Tutelage, so
        that `pin` stays."""
        value: Json = orjson.loads(orjson.dumps(self.model_dump(exclude_unset=True)))
        return value

    @property
    def pin(self) -> str:
        """Digest of all that the manifest says, but for the page that `tutelage report` may add later. Tags, children
        and the history hold it: the manifest's own digest stops accidents, not an editor who makes it anew."""
        value = self.written()
        value["files"].pop(REPORT, None)
        return digest(value)

    @property
    def is_shared(self) -> bool:
        """Whether it holds labels only, its images lying in the image tars of its store."""
        return self.format == SHARED_FORMAT

    @property
    def tars(self) -> Iterator[tuple[ShardRecord, TarRecord]]:
        """The files of its shards below `data/`, each with its shard."""
        for shard in self.shards:
            yield shard, shard.labels or TarRecord(name=shard.name, bytes=shard.bytes, sha256=shard.sha256)

    @property
    def stored(self) -> int:
        """Samples in the shards, those of tombstoned images included: what a reader meets who skips none."""
        return sum(shard.samples for shard in self.shards)

    @property
    def samples(self) -> int:
        """Samples that readers are to use."""
        return self.stored - len(self.tombstones)

    @property
    def distinct(self) -> int:
        """Images that they show; a sample may be the copy of another (builder.cut.balance)."""
        return self.images.get("written", self.samples) if kind_of(self.kind).single else self.samples

    @property
    def kept(self) -> int:
        """Objects kept on them, of maps pixels; copies do not count."""
        return sum(shard.kept - shard.skipped_kept for shard in self.shards)

    @property
    def ignored(self) -> int:
        """Ignore regions on them; of image classes, images that are left out for being a little less sure."""
        if kind_of(self.kind).single:
            return sum(counts["ignored"] for counts in self.per_class.values())
        return sum(shard.ignored - shard.skipped_ignored for shard in self.shards)


def version_id(classes: list[str], features: list[str], shard_hashes: list[str], tombstones: list[str]) -> str:
    """The id of a version of format 1: SHA-256 of what a reader of it can see."""
    return digest({"classes": classes, "features": features, "shards": shard_hashes, "tombstones": tombstones})


def id_of(manifest: Manifest) -> str:
    """The id that a manifest of its format is to have. In format 2 it needs no tar, only what its members say: versions
    with the same samples have the same id, however these are stored."""
    if manifest.format == 1:
        hashes = [shard.sha256 for shard in manifest.shards]
        return version_id(manifest.classes, manifest.features, hashes, manifest.tombstones)
    return digest(
        {
            "kind": manifest.kind,
            "classes": manifest.classes,
            "features": manifest.features,
            "shards": [shard.contents for shard in manifest.shards],
            "tombstones": manifest.tombstones,
        }
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_file(folder / MANIFEST, manifest_bytes(manifest))


def as_read(manifest: Manifest) -> Manifest:
    """The manifest as it will be read again: its mappings in the order of their keys."""
    return Manifest.model_validate(unseal(orjson.loads(manifest_bytes(manifest)), MANIFEST))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The file of a manifest."""
    value = manifest.written()
    value = seal(value) if manifest.format > 1 else value
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def read_manifest(folder: Path, *, claimed: bool = True, told: str = "", mend: str = MEND) -> Manifest:
    """The manifest of a complete version, with all of it that can be checked without its files: the digest of itself,
    the id, names, numbers that must agree (`faults`) and, but for those who mend it, the claim beside it. told, mend:
    what messages call it, if not by its path, and the next step. Raises BuildError if there is none, or if it is not
    one."""
    told = told or str(folder / MANIFEST)
    value = _parsed(folder / MANIFEST, told, mend)
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = brief(".".join(map(str, first["loc"])) or "it")
        raise _damaged(told, f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}", mend) from None
    expected = id_of(manifest)
    if manifest.id != expected:
        stated = brief(manifest.id[:12])
        raise BuildError(f"{told} states id {stated} but its contents have {expected[:12]}, so it was edited: {mend}")
    if wrong := next(faults(manifest), "") or (other_claim(folder, manifest) if claimed else ""):
        raise _damaged(told, wrong, mend)
    return manifest


def faults(manifest: Manifest) -> Iterator[str]:
    """What cannot be in a manifest, in words: names that lead out of the version or stand twice, and numbers that
    contradict one another."""
    yield from _bad_names(manifest)
    if manifest.format > 1:  # older ones counted otherwise here and there
        yield from _bad_numbers(manifest)


def _bad_names(manifest: Manifest) -> Iterator[str]:
    lists = {
        "class": manifest.classes,
        "member": manifest.features,
        "shard": [shard.name for shard in manifest.shards],
        "file of labels": [shard.labels.name for shard in manifest.shards if shard.labels],
        "file": list(manifest.files),
        "tombstone": manifest.tombstones,
    }
    for what, names in lists.items():
        for name in names:
            if not NAMES[what].fullmatch(name):
                yield f"no {what} can be named {brief(repr(name))}"
        if len(set(names)) < len(names):
            yield f"{what} {brief(repr(Counter(names).most_common(1)[0][0]))} stands twice"
    for what, name in (("dataset", manifest.name), ("version", manifest.version)):
        if not NAMES[what].fullmatch(name):
            yield f"no {what} can be named {brief(repr(name))}"
    images = [tar for shard in manifest.shards for tar in shard.images]
    for hashed in (
        *manifest.files.values(),
        *(tar.sha256 for _, tar in manifest.tars),
        *(tar.sha256 for tar in images),
    ):
        if not HASH.fullmatch(hashed):
            yield f"{brief(repr(hashed))} is no SHA-256"
    for tar in images:
        if not HASH.fullmatch(tar.name):
            yield f"no image tar can be named {brief(repr(tar.name))}"
    for shard in manifest.shards:
        if (shard.labels is not None) != manifest.is_shared or bool(shard.images) != manifest.is_shared:
            yield f"{shard.name} is not as format {manifest.format} has it"


def _bad_numbers(manifest: Manifest) -> Iterator[str]:
    """Of format 2, in which each of these is counted in two ways."""
    single, gone, shards = kind_of(manifest.kind).single, manifest.tombstones, manifest.shards
    images, objects, per_class = manifest.images, manifest.objects, manifest.per_class
    of = {name: sum(counts.get(name, 0) for counts in per_class.values()) for name in OUTCOMES}
    agree = [
        ("images", images.get("pool"), sum(n for state, n in images.items() if state != "pool")),
        ("tombstones", len(gone), sum(shard.tombstones for shard in shards)),
        ("images.tombstone", images.get("tombstone", 0), len({original(key) for key in gone})),
        ("objects", objects.get("predicted"), sum(n for reason, n in objects.items() if reason not in NOT_PREDICTED)),
        ("objects kept", of["kept"], sum(shard.kept - shard.skipped_kept for shard in shards)),
    ]
    if not single:  # of these an image may be several samples
        agree.append(("images.written", images.get("written", 0), manifest.samples))
    for what, stated, counted in agree:
        if stated != counted:
            yield f"{what}: {stated} in one place, {counted} in another"
    if sorted(per_class) != sorted(manifest.classes):
        yield "per_class has other classes than the version"
    if any(sorted(counts) != sorted(OUTCOMES) for counts in per_class.values()):
        yield f"per_class does not count {', '.join(OUTCOMES)}"
    yield from (f"it lists no {name}" for name in NEEDED if name not in manifest.files)
    for shard in shards:
        if not HASH.fullmatch(shard.contents) or shard.chunks[0] >= shard.chunks[1]:
            yield f"{shard.name} has no contents"


def _parsed(path: Path, told: str, mend: str) -> Json:
    """The JSON of a manifest, without its digest. Raises BuildError where it is not what that says, is of a format that
    this Tutelage does not know, or too large or deep to be one."""
    try:
        value = read_stored(path, MAX_BYTES)
    except FileNotFoundError:
        raise BuildError(f"{path.parent} has no {MANIFEST}: it is no version, or its build has not finished") from None
    except (OSError, orjson.JSONDecodeError) as error:
        raise _damaged(told, str(getattr(error, "strerror", None) or error), mend) from None
    if not isinstance(value, dict):
        raise _damaged(told, "it is no JSON object", mend)
    if _depth(value) > MAX_DEPTH:
        raise _damaged(told, f"it is nested more than {MAX_DEPTH} levels deep", mend)
    format = value.get("format", 1)
    if type(format) is not int or format < 1:
        raise _damaged(told, f"its format is {brief(repr(format))}", mend)
    if format > SHARED_FORMAT:
        raise BuildError(
            f"{told} is of format {format}, made by a newer Tutelage, and this one knows {SHARED_FORMAT}: update "
            "tutelage"
        )
    if format > 1 and not is_sealed(value):
        raise _damaged(told, "it states no digest of itself", mend)
    return unseal(value, told, mend)


def _depth(value: Any) -> int:
    """Levels of what is nested in a JSON value."""
    level, number = [value], 0
    while level:
        parts = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level, number = [part for each in parts for part in each], number + 1
    return number


def other_claim(folder: Path, manifest: Manifest) -> str:
    """What is wrong with the claim beside a manifest, where there is one: a version that was pulled has none."""
    try:
        claim = read_regular(folder / CLAIM, 1 << 10)
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{CLAIM} beside it cannot be read: {error.strerror}"
    expected = digest(manifest.provenance.inputs.claimed())
    return (
        ""
        if claim == expected.encode()
        else f"{CLAIM} beside it is not the digest of its inputs, which `tutelage verify --repair` mends"
    )


def _damaged(told: str, what: str, mend: str) -> BuildError:
    return BuildError(f"{told} is damaged ({what}): {mend}")
