"""Annotations for CVAT, and its export, as "CVAT for images 1.1" XML (docs.cvat.ai, XML annotation format).

Boxes are pixels, two digits after the point, as CVAT rounds them itself. Their marks are an attribute `tutelage`, which
a task keeps only if its labels have it: `labels` writes them for CVAT's raw label editor. CVAT does not say which
images a person has finished: the tag `reviewed` on an image does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import orjson

from builder.errors import BuildError, brief
from builder.review.exchange import (
    AnnotationError,
    Answer,
    Given,
    Task,
    Verdict,
    Writer,
    mark_of,
    xml_attribute,
    xml_text,
)
from builder.review.objects import Shown
from builder.store.manifest import Manifest
from builder.store.markup import open_packed, parse_xml
from builder.versions.media import file_name

MARK, VERDICT, AUDIT, REVIEWED = "tutelage", "verdict", "audit", "reviewed"
VERDICTS: dict[str, Verdict] = {"accept": "accept", "reject": "reject"}
SHAPES = ("polygon", "polyline", "points", "cuboid", "mask", "ellipse", "skeleton")


def labels(classes: Sequence[str]) -> bytes:
    """The labels of a CVAT task, as its raw label editor takes them (JSON)."""
    attributes = [_attribute(MARK, "text", "", [""]), _attribute(VERDICT, "select", "none", ["none", *VERDICTS])]
    attributes.append(_attribute(AUDIT, "checkbox", "false", ["false"]))
    specification: list[dict[str, Any]] = [
        {"name": name, "type": "rectangle", "attributes": attributes} for name in classes
    ]
    specification.append({"name": REVIEWED, "type": "tag", "attributes": []})
    return orjson.dumps(specification, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _attribute(name: str, kind: str, default: str, values: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "mutable": False, "input_type": kind, "default_value": default, "values": values}


def writer(manifest: Manifest, count: int) -> Writer:
    """What writes tasks as XML that a CVAT task of `count` images takes up. Raises AnnotationError for a class that the
    tag `reviewed` would be taken for."""
    if REVIEWED in manifest.classes:
        raise AnnotationError(f"class {REVIEWED!r} has the name of the tag that CVAT needs: use --to labelstudio")

    def write(file: IO[bytes], queued: Iterable[Task]) -> int:
        file.write(_head(manifest, count).encode())
        number = 0
        for number, task in enumerate(queued, 1):
            file.write(_image(task, number - 1, manifest).encode())
        file.write(b"</annotations>\n")
        return number

    return write


def _head(manifest: Manifest, count: int) -> str:
    named = [(name, "rectangle") for name in manifest.classes] + [(REVIEWED, "tag")]
    listed = "".join(
        f"<label><name>{xml_text(name)}</name><type>{kind}</type><attributes/></label>" for name, kind in named
    )
    name = xml_text(f"{manifest.name}@{manifest.version} {manifest.id[:12]}")
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
        f"      <name>{name}</name>\n      <size>{count}</size>\n      <mode>annotation</mode>\n"
        f"      <labels>{listed}</labels>\n    </task>\n  </meta>\n"
    )


def _image(task: Task, number: int, manifest: Manifest) -> str:
    name = xml_attribute(file_name(task.image.key, manifest.features[0]))
    boxes = "".join(_box(task, shown, manifest) for shown in task.objects)
    size = f'width="{task.image.width}" height="{task.image.height}"'
    return f'  <image id="{number}" name={name} {size}>\n{boxes}  </image>\n'


def _box(task: Task, shown: Shown, manifest: Manifest) -> str:
    sides = zip(("xtl", "ytl", "xbr", "ybr"), shown.box, strict=True)
    box = " ".join(f'{side}="{value:.2f}"' for side, value in sides)
    attributes = {MARK: mark_of(shown, manifest), VERDICT: "none", AUDIT: str(shown.id in task.audited).lower()}
    listed = "".join(
        f"      <attribute name={xml_attribute(name)}>{xml_text(value)}</attribute>\n"
        for name, value in attributes.items()
    )
    label = xml_attribute(shown.label)
    return f'    <box label={label} source="auto" occluded="0" {box} z_order="0">\n{listed}    </box>\n'


def read_cvat(path: Path, author: str) -> Iterator[Answer]:
    """The images of an export, a ZIP or its `annotations.xml`. Names are those of the queue's files, in any folder.

    Raises AnnotationError for what is no such export, for a DOCTYPE (which may hide entities), and for shapes that are
    no upright boxes, naming the image. Nothing is extracted from a ZIP.
    """
    reader = _Reader(path, author)
    try:
        with open_packed(path, "annotations.xml") as file:
            for _ in parse_xml(file, path, reader.start, reader.end, reader.text):
                yield from reader.taken()
    except AnnotationError:
        raise
    except BuildError as error:
        raise AnnotationError(str(error)) from None


class _Reader:
    """Events of the XML to answers."""

    def __init__(self, path: Path, author: str) -> None:
        self._path, self._author = path, author
        self._depth = 0
        self._image: Mapping[str, str] | None = None
        self._box: Mapping[str, str] | None = None
        self._attribute: str | None = None
        self._attributes: dict[str, str] = {}
        self._boxes: list[Given] = []
        self._looked_at = False
        self._problem = ""
        self._done: list[Answer] = []

    def taken(self) -> list[Answer]:
        """The images that were completed since the last call."""
        done, self._done = self._done, []
        return done

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth == 1 and tag != "annotations":
            raise AnnotationError(
                f"{self._path} is no export of CVAT but <{brief(tag)}>: export as CVAT for images 1.1"
            )
        if tag == "track":
            raise AnnotationError(f"{self._path} holds tracks: export as CVAT for images 1.1, not for video")
        if (tag == "image" and self._image is not None) or (tag in ("image", "box") and self._box is not None):
            raise AnnotationError(f"{self._where} holds <{tag}> in another box or image: export it again")
        if tag == "image":
            self._image, self._boxes, self._looked_at, self._problem = attributes, [], False, ""
        elif self._image is not None and tag in SHAPES:
            self._problem = f"{self._where} has a {tag}: only boxes can come back, so draw it as one"
        elif self._image is not None and tag == "tag":
            self._looked_at |= attributes.get("label") == REVIEWED
        elif self._image is not None and tag == "box":
            self._box, self._attributes = attributes, {}
        elif self._box is not None and tag == "attribute":
            self._attribute = attributes.get("name", "")

    def text(self, text: str) -> None:
        if self._attribute is not None:
            self._attributes[self._attribute] = self._attributes.get(self._attribute, "") + text

    def end(self, tag: str) -> None:
        self._depth -= 1
        if tag == "attribute":
            self._attribute = None
        elif tag == "box" and self._box is not None:
            self._boxes.append(self._given(self._box))
            self._box = None
        elif tag == "image" and self._image is not None:
            self._done.append(self._answer(self._image))
            self._image = None

    @property
    def _where(self) -> str:
        return f"{self._path}: image {brief(self._image.get('name', '')) if self._image else ''}"

    def _given(self, box: Mapping[str, str]) -> Given:
        if self._number(box.get("rotation", "0"), "rotation") % 360:
            self._problem = f"{self._where} has a {brief(box.get('label', ''))} box that is turned: draw it upright"
        x1, y1, x2, y2 = (self._number(box.get(side), side) for side in ("xtl", "ytl", "xbr", "ybr"))
        attributes = {name: value.strip() for name, value in self._attributes.items()}
        return Given(
            attributes.get(MARK) or None,
            box.get("label", ""),
            (x1, y1, x2, y2),
            VERDICTS.get(attributes.get(VERDICT, "")),
        )

    def _answer(self, image: Mapping[str, str]) -> Answer:
        name = image.get("name", "").replace("\\", "/").rpartition("/")[2]
        key = name.rpartition(".")[0].replace(".", "/")  # as builder.versions.media.file_name makes it
        size = tuple(int(self._number(image.get(side), side)) for side in ("width", "height"))
        return Answer(
            key, self._where, "", {(size[0], size[1])}, self._boxes, self._looked_at, self._author, self._problem
        )

    def _number(self, text: str | None, what: str) -> float:
        try:
            value = float(text or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise AnnotationError(
                f"{self._where} has the {what} {brief(repr(text))}, which is no number: export it again"
            )
        return value
