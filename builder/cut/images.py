"""Samples as they are written: images in their form, in a shard or in image tars that versions share, and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson

from builder.buckets.address import is_remote
from builder.buckets.files import IN_FLIGHT
from builder.buckets.line import RemoteError
from builder.cut.results import Written
from builder.engine import in_order
from builder.errors import BuildError
from builder.scan.metadata import MetadataError, without_metadata
from builder.scan.pool import OK, REMOVED, Chunk, PoolImage
from builder.store.files import digest
from builder.store.keys import original
from builder.store.shards import Part, ShardFile, TarRecord, write_shard
from builder.store.shared.joined import joined_bytes, joined_rows, labels_name
from builder.store.shared.tars import ImageTar, ImageTars, Packed
from teachers.depth import PLAIN, Reading
from teachers.images import ImageError, encode_upright, is_damaged, is_deep

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 64 << 20
"""Bytes of remote images that are read ahead for a shard."""
FORMAT = 1
"""Raised when the same images would give other bytes of an image tar."""


class OtherBytes(Exception):
    """Images are not what was scanned, though their size and time are: a disk has changed them, not a person. names: by
    SHA-256."""

    def __init__(self, names: dict[str, str]) -> None:
        super().__init__(names)
        self.names = names


def others(images: Iterable[PoolImage]) -> dict[str, str]:
    """Those of these images of which that is so: SHA-256 -> name. Raises ImageChanged."""
    return {i.sha256: i.name for i in images if hashlib.sha256(i.read()).hexdigest() != i.sha256}


def not_here(key: str, ref: str) -> BuildError:
    """For an image of which a version has only the labels, and which is to be written."""
    return BuildError(
        f"nothing was kept on image {key}, and so its picture is not in {ref}: correct it in the store that it was "
        "built in, or take back what was said of it"
    )


@dataclass(frozen=True)
class Form:
    """How a version's images are written. extension: of all of them. stored: whether they were brought to that form
    already, in a shard that was hashed. strip: without metadata. reading: how their bytes become pixels; what readers
    of the version would read in different ways, more than 8 bits and damage, is written anew."""

    extension: str
    stored: bool = False
    strip: bool = False
    reading: Reading = PLAIN

    @property
    def description(self) -> list[Any]:
        """JSON-ready, all of it that decides bytes."""
        return [FORMAT, self.extension, self.stored, self.strip, self.reading.description]


def stated(image: PoolImage, reencoded: str) -> dict[str, Any]:
    """What every label JSON says of an image."""
    return {
        "key": image.key,
        "name": image.name,
        "sha256": image.sha256,
        "width": image.width,
        "height": image.height,
        "reencoded": reencoded,
    }


def packed(image: PoolImage, form: Form) -> Packed:
    """An image as it is written; its SHA-256 is stated where its bytes are those that were scanned. Raises OtherBytes,
    and BuildError for an image whose file is another one, or that cannot be written so."""
    data = image.read()
    if not form.stored and hashlib.sha256(data).hexdigest() != image.sha256:
        raise OtherBytes({image.sha256: image.name})
    reencoded = "format" if image.format != form.extension else "upright" if image.orientation != 1 else "none"
    if not form.stored:
        try:
            if reencoded == "none" and (is_deep(data) or (form.reading.damaged == "keep" and is_damaged(data))):
                reencoded = "format"
            if reencoded != "none":
                data = encode_upright(data, form.extension, image.pixels, form.reading)
        except ImageError as error:
            raise BuildError(f"{image.uri} cannot be re-encoded: it {error}") from None
    if form.strip and reencoded == "none":
        reencoded = "stripped"
        try:
            data = without_metadata(data, form.extension)
        except MetadataError as error:
            raise BuildError(f"the metadata of {image.uri} cannot be taken out: {error}") from None
    return Packed(image.key, data, image.sha256 if reencoded == "none" and not form.stored else "", reencoded)


def image_tar(
    tars: ImageTars, chunk: Chunk, form: Form, needed: Collection[str], changed: Mapping[str, str]
) -> ImageTar:
    """The tar that holds the images of a chunk with the `needed` keys. One that was written before images of it left
    the pool serves on; where there is none it is written, with all others of the chunk that can be, so that other
    versions find theirs. changed: SHA-256 of images whose bytes are others by now. Raises as `packed` for one that is
    needed, and BuildError for a tar that holds other images."""
    before = [i for i in chunk.images if i.state in (OK, REMOVED) and i.sha256 not in changed]
    tries = [before, [image for image in before if image.state == OK or image.key in needed]]
    while True:
        images = tries.pop(0)
        name = digest([form.description, [(image.key, image.sha256) for image in images]])
        if found := tars.find(name):
            _check(found, images, tars.path(name))
            return found
        if tries and not tars.is_wanted(name):
            continue
        try:
            return tars.write(name, form.extension, _packed(images, form, needed))
        except _Unreadable as error:  # a tar is named by what is in it, or one would take the place of a larger one
            if not tries:
                tries.append([image for image in images if image.key not in error.keys])


class _Unreadable(Exception):
    """Images that are not needed, and cannot be written."""

    def __init__(self, keys: set[str]) -> None:
        super().__init__(keys)
        self.keys = keys


def _packed(images: Sequence[PoolImage], form: Form, needed: Collection[str]) -> Iterator[Packed]:
    """Raises _Unreadable when all were looked at."""

    def tried(image: PoolImage) -> Packed | None:
        try:
            return packed(image, form)
        except RemoteError:
            raise
        except (BuildError, OtherBytes):
            if image.key in needed:
                raise
            return None

    lost: set[str] = set()
    for image, made in zip(images, ahead(tried, images, lambda image: image), strict=True):
        if made is None:
            lost.add(image.key)
        elif not lost:
            yield made
    if lost:
        raise _Unreadable(lost)


def _check(tar: ImageTar, images: Iterable[PoolImage], path: Path) -> None:
    """Raise BuildError for a tar which, by what is said of it, holds other images than its name says."""
    expected = {image.key: image.sha256 for image in images}
    same = all(s.sha256 == expected.get(key) for key, s in tar.images.items() if s.reencoded == "none")
    if tar.images.keys() != expected.keys() or not same:
        raise BuildError(
            f"{path} holds other images than those that were scanned: it was edited or replaced, so run `tutelage fsck "
            "--repair`, and `tutelage gc` if no version shares it"
        )


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], image: Callable[[Item], PoolImage]
) -> Iterator[Result]:
    """`work(item)` for each item, results in order. Where the first item's image is remote many are under way at once,
    so that none waits for the network alone; a disk needs no such thing."""
    waiting = iter(items)
    for first in waiting:
        rest = chain([first], waiting)
        if is_remote(image(first).uri):
            return in_order(work, rest, IN_FLIGHT, 2 * IN_FLIGHT, lambda item: image(item).bytes, AHEAD)
        return map(work, rest)
    return iter(())


class Said(NamedTuple):
    """What a sample holds beside its image: fields of the label JSON beyond those that are `stated`, and members."""

    image: PoolImage
    key: str
    fields: Mapping[str, Any]
    more: Sequence[Part]

    def label(self, reencoded: str) -> Part:
        """The member that is its label JSON."""
        label = stated(self.image, reencoded) | {"key": self.key, **self.fields}
        return "json", orjson.dumps(label, option=orjson.OPT_SERIALIZE_NUMPY)


def write_inside(path: Path, said: Iterable[Said], form: Form) -> Written:
    """A shard with its images. Raises as `packed`."""

    def made(copies: list[Said]) -> tuple[list[Said], Packed]:
        return copies, packed(copies[0].image, form)

    def samples() -> Iterator[tuple[str, list[Part]]]:
        copies = (list(same) for _, same in groupby(said, attrgetter("image.key")))
        for same, image in ahead(made, copies, lambda same: same[0].image):
            part: Part = (form.extension, image.data, image.sha256) if image.sha256 else (form.extension, image.data)
            for sample in same:
                yield sample.key, [part, sample.label(image.reencoded), *sample.more]

    return Written(write_shard(path, samples()))


def write_shared(path: Path, said: Iterable[Said], form: Form, tars: Sequence[ImageTar]) -> Written:
    """A shard of labels, whose images are in these tars. path: of the tar that both would make."""
    stored = {key: image for tar in tars for key, image in tar.images.items()}
    labels = path.with_name(labels_name(path.name))
    members = ((sample.key, [sample.label(stored[sample.image.key].reencoded), *sample.more]) for sample in said)
    file = write_shard(labels, members)
    rows = tuple(joined_rows(file.rows, [stored[original(row.key)] for row in file.rows], form.extension))
    used = {original(row.key) for row in rows}
    return Written(
        ShardFile(file.samples, joined_bytes(rows), "", rows),
        TarRecord(name=labels.name, bytes=file.bytes, sha256=file.sha256),
        tuple(tar.record for tar in tars if used & tar.images.keys()),
    )
