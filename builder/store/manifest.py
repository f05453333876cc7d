"""What a version is made of, and its id. `manifest.json` is written last: a folder with one is complete."""

from __future__ import annotations

from pathlib import Path

import orjson
from pydantic import Field, NonNegativeInt, ValidationError, field_serializer

from builder.errors import BuildError
from builder.kinds import kind_of
from builder.sections import Section
from builder.store.files import digest, write_file
from builder.store.provenance import Json, Provenance

MANIFEST = "manifest.json"


class ShardRecord(Section):
    """One tar: its name below `data/`, size and SHA-256 of the file, samples, objects kept and ignored in them.

    tombstones: how many of the samples are to be skipped (0 in versions from before this was recorded); skipped_kept,
    skipped_ignored: how many of these objects are on them."""

    name: str
    bytes: NonNegativeInt
    sha256: str
    samples: NonNegativeInt
    kept: NonNegativeInt
    ignored: NonNegativeInt
    tombstones: int = 0
    skipped_kept: int = 0
    skipped_ignored: int = 0
    chunks: tuple[int, int] = (0, 0)
    """First chunk of the pool in it, and the one past its last."""
    inputs: str = ""
    """Digest of all that decides its bytes: a child version with the same takes the file as it is."""


class Manifest(Section):
    """The whole description of a version. No times and no paths of a machine are in it: equal inputs give equal
    manifests.

    Attributes:
        format: of this file.
        name, version: NAME and vN of NAME@vN.
        id: SHA-256 over classes, features, the hashes of the shards in order, and tombstones. All else explains the
            bytes and is no part of it.
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
    images: dict[str, int]
    objects: dict[str, int]
    per_class: dict[str, dict[str, int]]
    files: dict[str, str]
    provenance: Provenance

    @field_serializer("provenance")
    def _stored(self, provenance: Provenance) -> Json:
        return provenance.stored()

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
    """SHA-256 of what a reader of the version can see."""
    return digest({"classes": classes, "features": features, "shards": shard_hashes, "tombstones": tombstones})


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_file(folder / MANIFEST, _dump(manifest))


def as_read(manifest: Manifest) -> Manifest:
    """The manifest as it will be read again: its mappings in the order of their keys."""
    return Manifest.model_validate(orjson.loads(_dump(manifest)))


def _dump(manifest: Manifest) -> bytes:
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(manifest.model_dump(), option=options)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete version. Raises BuildError if there is none, or if it is not one."""
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate(orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        raise BuildError(f"{folder} has no {MANIFEST}: it is no version, or its build has not finished") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        key = ".".join(map(str, first["loc"])) or "it"
        raise BuildError(
            f"{path} is damaged ({key}: {first['msg'][0].lower()}{first['msg'][1:]}): build or pull the version again"
        ) from None
    except orjson.JSONDecodeError as error:
        raise BuildError(f"{path} is damaged ({error}): build or pull the version again") from None
    expected = version_id(manifest.classes, manifest.features, [s.sha256 for s in manifest.shards], manifest.tombstones)
    if manifest.id != expected:
        raise BuildError(f"{path} states id {manifest.id[:12]} but its contents have {expected[:12]}: it was edited")
    return manifest
