"""Boxes on their way to an annotation tool and back: what builder.review.label_studio and builder.review.cvat have in
common.

A box that goes out carries a mark, `KEY#N@ID8`: its id (builder.review.objects.Shown) and the version it is of. Where
it comes back without one, since a tool dropped it or a person drew it anew, it is recognised by overlap.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from builder.errors import BuildError, brief
from builder.kinds import kind_of
from builder.review.objects import Edited, Shown, on_image, shown_objects
from builder.rules.overrides import Box
from builder.store.files import new_file, new_tree, write_file
from builder.store.manifest import Manifest
from builder.store.version import Version
from builder.versions.media import ShardImage, file_name, images_of
from teachers.boxes import iou_matrix

MARK = re.compile(r"(?P<id>(?P<key>[A-Za-z0-9_/-]{1,90})#\d{1,9})@(?P<version>[0-9a-f]{8})")
OVERLAP = 0.5
"""IoU from which on a box without a mark is taken for a kept one that lost it."""
SAME = 0.5
"""Pixels by which tools may round the sides of a box."""
LARGEST = 1e6
"""Pixels: beyond this a coordinate is a mistake."""
SAME_CLASS = 1e-3
"""Of IoU: by how much less a box of the same class may overlap and still come first."""
Verdict = Literal["accept", "reject"]


class AnnotationError(BuildError):
    """A file of an annotation tool that cannot be taken over, and what to do about it."""


class OfOneImage(AnnotationError):
    """What a person said of one image that cannot be taken over: the others can."""


@dataclass(frozen=True)
class Task:
    """An image to look at. objects: to show on it. audited: ids of objects that an audit drew."""

    image: ShardImage
    objects: Sequence[Shown]
    audited: Collection[str] = ()


Writer = Callable[[IO[bytes], Iterable[Task]], int]
"""Writes tasks as a stream, and returns how many they were."""


@dataclass(frozen=True)
class Given:
    """A box as a tool gives it back. mark: as it stands there, None without one; box: xyxy pixels."""

    mark: str | None
    label: str
    box: Box
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Answer:
    """An image as a tool gives it back. where: in the file, for messages; version: the beginning of the id it states,
    "" if none; sizes: all widths and heights it states; looked_at: whether a person declared it finished; problem: why
    what it says cannot be taken over, "" if it can."""

    key: str
    where: str
    version: str
    sizes: Collection[tuple[int, int]]
    boxes: Sequence[Given]
    looked_at: bool
    author: str
    problem: str = ""


@dataclass(frozen=True)
class Returned:
    """What came back of a version. version: its id; images: SHA-256 by key of all images that did; looked_at: keys of
    those that a person declared finished; shown: all objects of these images, dropped ones too; authors: by key, who
    went through the image; touched: keys of those that a person went through, as far as is known. refused: by name of
    the image, why what was said of it cannot be taken over; nothing else here is about it."""

    edited: Sequence[Edited]
    images: Mapping[str, str]
    looked_at: Collection[str]
    shown: Sequence[Shown]
    authors: Mapping[str, str]
    touched: Collection[str]
    version: str
    refused: Mapping[str, str] = field(default_factory=dict)


def mark_of(shown: Shown, manifest: Manifest) -> str:
    """What a box carries out and back."""
    return f"{shown.id}@{manifest.id[:8]}"


def tasks(
    version: Version, keys: Collection[str], outcomes: Collection[str], audited: Collection[str] = ()
) -> Iterator[Task]:
    """The images of these keys in the order of the shards, with their objects of these outcomes; a stream. Raises
    BuildError if the version cannot be read, or an image is not in its shards."""
    wanted = set(keys)
    objects = shown_objects(version, wanted)
    here = next(objects, None)
    for image in images_of(version):
        if image.key not in wanted:
            continue
        wanted.remove(image.key)
        shown: Sequence[Shown] = ()
        if here and here[0].key == image.key:  # both streams are in the order of the shards
            shown, here = here, next(objects, None)
        yield Task(image, [object for object in shown if object.outcome in outcomes], audited)
    if wanted or here:
        key = min(wanted) if wanted else here[0].key if here else ""
        raise BuildError(
            f"image {key} is not where it should be in {version.folder}: run `tutelage verify --repair` on it"
        )


def write_out(
    path: Path, queued: Iterable[Task], extension: str, write: Writer, beside: tuple[Path, bytes], *, images: bool
) -> int:
    """Write what a tool imports to `path`, a file of settings `beside` it, and, if `images`, the image files into the
    folder `PATH.images`; all of it or nothing. Returns the number of images.

    Raises BuildError if one of them is there with other contents: people may have begun with it.
    """
    folder = images_folder(path)
    if images and path.exists() and not folder.exists():
        raise BuildError(f"{path} is already there: remove it, or give another --out")
    with new_file(path, over=False) as file:
        if images:
            with new_tree(folder) as temporary:
                count = write(file, _with_files(queued, temporary, extension))
        else:
            count = write(file, queued)
        write_file(*beside)
    return count


def _with_files(queued: Iterable[Task], folder: Path, extension: str) -> Iterator[Task]:
    for task in queued:
        data = task.image.image.read()
        (folder / file_name(task.image.key, extension)).write_bytes(data)
        yield task


def images_folder(path: Path) -> Path:
    return path.with_name(f"{path.name}.images")


def collect(answers: Iterable[Answer], version: Version) -> Returned:
    """What a tool gave back, checked against the version it was made of. Images with a class that the version does not
    have, a box without area, or another shape are `refused`; the others count.

    Raises AnnotationError, naming the place, for an image that the version does not have, one that stands twice,
    another size, a mark of another version or object, and where all images would be refused.
    """
    manifest = version.manifest
    by_key: dict[str, Answer] = {}
    for answer in answers:
        if answer.key in by_key:
            raise AnnotationError(
                f"{answer.where} is about image {brief(answer.key)}, and so is {by_key[answer.key].where}: export one "
                "project, in which it stands once"
            )
        by_key[answer.key] = answer
    places = {image.key: image for image in images_of(version) if image.key in by_key} if by_key else {}
    for key, answer in by_key.items():
        _check(answer, places.get(key), version)
    shown = {objects[0].key: objects for objects in shown_objects(version, by_key)} if by_key else {}
    edited, refused = list[Edited](), dict[str, str]()
    for key, answer in sorted(by_key.items()):
        try:
            _check_objects(answer, version)
            edited += list(_edited(answer, shown.get(key, []), manifest))
        except OfOneImage as error:
            if len(refused) + 1 == len(by_key):
                raise
            refused[places[key].name] = str(error)
            by_key.pop(key)
            shown.pop(key, None)
    if not any(answer.looked_at or answer.boxes for answer in by_key.values()) and any(
        object.outcome == "kept" for objects in shown.values() for object in objects
    ):
        raise AnnotationError(
            f"none of the {len(by_key)} images that came back has a box, and none is tagged as finished: upload the "
            "file of the queue in CVAT and export again, or tag images `reviewed` to reject all their boxes"
        )
    sides = {key: (image.width, image.height) for key, image in places.items()}
    finished = {key for key, answer in by_key.items() if answer.looked_at}
    return Returned(
        [replace(edit, box=on_image(edit.box, *sides[edit.key])) for edit in edited],
        {key: places[key].sha256 for key in sorted(by_key)},
        finished,
        [object for key in sorted(shown) for object in shown[key]],
        {key: answer.author for key, answer in by_key.items()},
        finished,
        manifest.id,
        refused,
    )


def _check(answer: Answer, image: ShardImage | None, version: Version) -> None:
    manifest = version.manifest
    stated = {answer.version} | {m["version"] for box in answer.boxes if box.mark and (m := MARK.fullmatch(box.mark))}
    if other := next((id for id in sorted(stated) if not manifest.id.startswith(id)), None):
        raise AnnotationError(
            f"{answer.where} was made of a version with id {brief(other)}, and {version.ref} has "
            f"{manifest.id[:12]}: give the version that it was queued from"
        )
    if image is None:
        raise AnnotationError(
            f"{answer.where} is about image {brief(repr(answer.key))}, which is not in {version.ref}: give the version "
            "and the file names that it was queued with"
        )
    for width, height in answer.sizes:
        if (width, height) != (image.width, image.height):
            raise AnnotationError(
                f"{answer.where} says that image {answer.key} is {width} x {height} pixels, and it is {image.width} x "
                f"{image.height}: use the image files that the queue wrote"
            )


def _check_objects(answer: Answer, version: Version) -> None:
    if answer.problem:
        raise OfOneImage(answer.problem)
    classes, noun = version.manifest.classes, "the" if kind_of(version.manifest.kind).single else "a box of"
    for box in answer.boxes:
        if box.label not in classes:
            raise OfOneImage(
                f"{answer.where} has {noun} class {brief(repr(box.label))}, which {version.ref} does not know "
                f"({brief(', '.join(classes))}): correct it there and export again"
            )


def _edited(answer: Answer, shown: Sequence[Shown], manifest: Manifest) -> Iterator[Edited]:
    """The boxes of one image, each with the object that it was; of several with the same mark, which a tool copies with
    a box, the closest has it."""
    known = {mark_of(object, manifest): object for object in shown}
    owner: dict[str, int] = {}
    for n, given in enumerate(answer.boxes):
        was = known.get(given.mark or "")
        if was is None and given.mark and _is_of(given.mark, answer.key):
            raise AnnotationError(
                f"{answer.where} has a box marked {brief(given.mark)}, which image {answer.key} does not have: export "
                "it again without changing marks"
            )
        if was and (was.id not in owner or _away(was, given) < _away(was, answer.boxes[owner[was.id]])):
            owner[was.id] = n
    was_of = {n: id for id, n in owner.items()}
    unmarked = [n for n in range(len(answer.boxes)) if n not in was_of]
    kept = [object for object in shown if object.outcome == "kept" and object.id not in owner]
    was_of |= _by_overlap(answer.boxes, unmarked, kept)
    boxes = {object.id: object.box for object in shown}
    for n, given in enumerate(answer.boxes):
        before = boxes.get(was_of.get(n, ""))
        _check_box(given.box, before, answer)
        yield Edited(was_of.get(n), answer.key, given.label, given.box, given.verdict, answer.author)


def _is_of(mark: str, key: str) -> bool:
    """Whether a mark is of this image; one that a tool copied from another image says nothing."""
    match = MARK.fullmatch(mark)
    return match is None or match["key"] == key


def _away(was: Shown, now: Given) -> tuple[float, bool]:
    return max(abs(a - b) for a, b in zip(was.box, now.box, strict=True)), was.label != now.label


def _by_overlap(boxes: Sequence[Given], left: Sequence[int], shown: Sequence[Shown]) -> dict[int, str]:
    """For boxes without a mark the kept objects that they are: one to one, the greatest IoU first."""
    if not left or not shown:
        return {}
    left = sorted(left, key=lambda n: (boxes[n].box, boxes[n].label))
    given = [boxes[n] for n in left]
    overlap = iou_matrix(*(np.array([box.box for box in side], np.float64) for side in (given, shown)))
    same = np.array([[box.label == other.label for other in shown] for box in given])
    overlap = np.where(overlap >= OVERLAP, overlap + SAME_CLASS * same, -1)
    matches: dict[int, str] = {}
    while overlap.max() >= OVERLAP:
        n, m = np.unravel_index(int(overlap.argmax()), overlap.shape)
        matches[left[int(n)]] = shown[int(m)].id
        overlap[n, :] = overlap[:, m] = -1
    return matches


def _check_box(box: Box, before: Box | None, answer: Answer) -> None:
    if before and max(abs(a - b) for a, b in zip(box, before, strict=True)) <= SAME:
        return
    if not (box[0] < box[2] and box[1] < box[3] and all(abs(side) < LARGEST for side in box)):
        raise OfOneImage(
            f"{answer.where} has the box {', '.join(f'{side:g}' for side in box)} on image {answer.key}, which has no "
            "area or is far away: delete it there and export again"
        )


def xml_attribute(value: str) -> str:
    """Quoted, for XML. Raises AnnotationError for characters that XML cannot hold."""
    return quoteattr(_xml(value))


def xml_text(value: str) -> str:
    """Escaped, for XML. Raises AnnotationError for characters that XML cannot hold."""
    return escape(_xml(value))


def _xml(value: str) -> str:
    if re.search("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", value):
        raise AnnotationError(f"class {value!r} holds a character that XML cannot hold: rename it in the teacher")
    return value
