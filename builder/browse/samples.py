"""Samples of a FiftyOne dataset: written as its own documents straight into MongoDB, or by its public API.

The documents are those of one version of FiftyOne, TESTED. With any other, all goes through the public API: many times
slower, with the same in the database.
"""

from __future__ import annotations

import io
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from bson import ObjectId

from builder.browse.documents import TRUTH_FIELD, Document, contents, sample
from builder.browse.pictures import Picture

TESTED = "1.22.1"
"""The FiftyOne whose documents are known: that of constraints.txt."""
INFO = "tutelage"
"""Key of `dataset.info` under which stands what the dataset was made from, once it is complete."""
WRITTEN = "tutelage_written"
"""Key of `dataset.info`: when the public API last wrote for us, and what people had changed by then."""


class Entry(NamedTuple):
    """An image, the fields that a version sets, and its tags."""

    picture: Picture
    fields: Document
    tags: Sequence[str]

    @property
    def identity(self) -> tuple[str, str, bool]:
        """By which its sample is found again: key, SHA-256, whether it is a labelled image."""
        media = self.picture.media
        return media.key, media.sha256, media.state == "truth"


class Change(NamedTuple):
    """Fields to set, tags to add, and tags to take away."""

    fields: Document
    add: Sequence[str] = ()
    remove: Sequence[str] = ()


@dataclass(frozen=True)
class Samples(ABC):
    """The samples of a dataset. A condition is MongoDB's, over fields of documents."""

    fo: Any
    dataset: Any

    @abstractmethod
    def add(self, entries: Sequence[Entry]) -> None:
        """Write new samples."""

    @abstractmethod
    def find(self, condition: Document, only: Sequence[str] = ()) -> Iterator[Document]:
        """Documents, as the database holds them; only: at least these fields of them, all by default."""

    @abstractmethod
    def update(self, changes: Mapping[ObjectId, Change]) -> None:
        """Change samples; people are not taken to have changed them."""

    @abstractmethod
    def replace(self, paths: Sequence[str], before: str, after: str) -> None:
        """Replace text in string fields (`filepath`, `pseudo.mask_path`) of all samples; as `update`."""

    @abstractmethod
    def finish(self) -> None:
        """Nothing that was done to the samples until now was done by people."""

    def merge(self, entries: Sequence[Entry]) -> None:
        """Add to samples that are there, and write those that are not. Human labels stay as they are, with what the
        first version's evaluation wrote at them."""
        condition = {"key": {"$in": [entry.picture.media.key for entry in entries]}}
        known = {
            (document["key"], document["sha256"], "truth" in document["tags"]): document["_id"]
            for document in self.find(condition, ("key", "sha256", "tags"))
        }
        self.add([entry for entry in entries if entry.identity not in known])
        self.update(
            {
                known[entry.identity]: Change(
                    {name: value for name, value in entry.fields.items() if name != TRUTH_FIELD}, entry.tags
                )
                for entry in entries
                if entry.identity in known
            }
        )

    def touched(self, condition: Document) -> Iterator[Document]:
        """Those of the samples that people changed."""
        changed: Document = {"$expr": {"$ne": ["$created_at", "$last_modified_at"]}}
        if written := self.dataset.info.get(WRITTEN):
            ids = [ObjectId(id) for id in written["touched"]]
            changed = {"$or": [{"last_modified_at": {"$gt": written["at"]}}, {"_id": {"$in": ids}}]}
        yield from self.find({"$and": [changed, condition]})


class PrivateSamples(Samples):
    """As documents of FiftyOne TESTED: without its objects, which take most of the time."""

    def add(self, entries: Sequence[Entry]) -> None:
        if entries:
            documents = [sample(*entry, self.dataset._doc.id, _now()) for entry in entries]
            self.dataset._sample_collection.insert_many(documents, ordered=True)

    def find(self, condition: Document, only: Sequence[str] = ()) -> Iterator[Document]:
        yield from self.dataset._sample_collection.find(condition, dict.fromkeys(only, 1) or None)

    def update(self, changes: Mapping[ObjectId, Change]) -> None:
        from pymongo import UpdateOne

        operations = []
        for id, (fields, add, remove) in changes.items():
            if fields or add:
                adding = {"$addToSet": {"tags": {"$each": list(add)}}} if add else {}
                operations.append(UpdateOne({"_id": id}, ({"$set": fields} if fields else {}) | adding))
            if remove:
                operations.append(UpdateOne({"_id": id}, {"$pullAll": {"tags": list(remove)}}))
        if operations:
            self.dataset._sample_collection.bulk_write(operations)

    def replace(self, paths: Sequence[str], before: str, after: str) -> None:
        for path in paths:
            change = {"$replaceOne": {"input": f"${path}", "find": before, "replacement": after}}
            self.dataset._sample_collection.update_many({path: {"$type": "string"}}, [{"$set": {path: change}}])

    def finish(self) -> None:
        """Its samples were never modified since they were created."""


class PublicSamples(Samples):
    """By the public API of any FiftyOne, which marks whatever it writes as modified: so what people had changed before
    is written down."""

    def add(self, entries: Sequence[Entry]) -> None:
        if entries:
            made = [self.fo.Sample(**self._values(contents(*entry))) for entry in entries]
            self.dataset.add_samples(made, progress=False)

    def find(self, condition: Document, only: Sequence[str] = ()) -> Iterator[Document]:
        for stored in self.dataset.match(condition):
            yield stored.to_mongo_dict(include_id=True)

    def update(self, changes: Mapping[ObjectId, Change]) -> None:
        if not changes:
            return

        def change(shown: Any) -> None:
            fields, add, remove = changes[ObjectId(shown.id)]
            for name, value in self._values(fields).items():
                shown[name] = value
            shown.tags = [tag for tag in dict.fromkeys([*shown.tags, *add]) if tag not in remove]

        self._write(self.dataset.select([str(id) for id in changes]), change)
        empty: dict[str, dict[str, list[Any]]] = {}  # lists, which a sample does not save
        for id, (fields, _, _) in changes.items():
            for name in (name for name, value in fields.items() if value == []):
                empty.setdefault(name, {})[str(id)] = []
        for name, values in empty.items():
            self.dataset.set_values(name, values, key_field="id", progress=False)

    def replace(self, paths: Sequence[str], before: str, after: str) -> None:
        def change(shown: Any) -> None:
            for path in paths:
                root, _, leaf = path.partition(".")
                holder, name = (shown[root], leaf) if leaf else (shown, root)
                if holder is not None and holder[name]:
                    holder[name] = holder[name].replace(before, after, 1)

        self._write(self.dataset, change)

    def _write(self, view: Any, change: Any) -> None:
        """Change samples one by one, and write down anew what people changed, before or meanwhile."""
        complete = INFO in self.dataset.info
        touched = {document["_id"] for document in self.touched({})} if complete else set()
        ours: dict[ObjectId, datetime] = {}
        for shown in view:
            change(shown)
            shown.save()
            ours[ObjectId(shown.id)] = _whole(shown.last_modified_at)
        if complete:
            at = _now()
            later = {d["_id"] for d in self.touched({}) if ours.get(d["_id"]) != d["last_modified_at"]}
            self._note(at, touched | later)

    def finish(self) -> None:
        self._note(_now(), set())

    def _note(self, at: datetime, touched: set[ObjectId]) -> None:
        self.dataset.info[WRITTEN] = {"at": at, "touched": sorted(map(str, touched))}
        self.dataset.save()

    def _values(self, fields: Document) -> dict[str, Any]:
        return {name: _public(self.fo, value) for name, value in fields.items()}


def samples_of(fo: Any, dataset: Any) -> Samples:
    """The quick way where FiftyOne is the one that was tested, else the public one."""
    return PublicSamples(fo, dataset) if untested(fo) else PrivateSamples(fo, dataset)


def untested(fo: Any) -> str:
    """What to say of a FiftyOne that is not the one that was tested; "" of that one."""
    if fo.__version__ == TESTED:
        return ""
    return (
        f"FiftyOne {fo.__version__} is installed, and Tutelage knows the database of {TESTED}: samples are written "
        "by FiftyOne's public API, which takes longer"
    )


def _now() -> datetime:
    """UTC, as FiftyOne writes it."""
    return _whole(datetime.now(UTC).replace(tzinfo=None))


def _whole(time: datetime) -> datetime:
    """In milliseconds, as MongoDB keeps it."""
    return time.replace(microsecond=time.microsecond // 1000 * 1000)


def _public(fo: Any, value: Any) -> Any:
    """A value of a document as an object of FiftyOne's: labels by their `_cls`, arrays of masks and maps decoded."""
    if isinstance(value, list):
        return [_public(fo, item) for item in value]
    if isinstance(value, bytes):
        return np.load(io.BytesIO(zlib.decompress(value)), allow_pickle=False)
    if not isinstance(value, dict):
        return value
    given = {name: _public(fo, item) for name, item in value.items() if name not in ("_id", "_cls", "attributes")}
    return getattr(fo, value["_cls"])(**given)
