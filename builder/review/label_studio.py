"""Tasks for Label Studio, and its JSON export.

Image classes are one choice an image (labelstud.io/tags/choices). Boxes are percent of the image's sides, from the top
left corner (labelstud.io/tags/rectanglelabels). They go out as a
prediction, which a person's annotation begins with. Label Studio cuts region ids at `#`, so a region is called `KEY.N`;
its mark goes out and back in its `meta`. A submitted annotation declares its whole image finished.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import orjson

from builder.errors import BuildError, brief
from builder.kinds import kind_of
from builder.review.exchange import AnnotationError, Answer, Given, OfOneImage, Task, Verdict, mark_of, xml_attribute
from builder.review.objects import Shown
from builder.rules.overrides import Box
from builder.store.manifest import Manifest
from builder.store.text import read_json
from builder.versions.media import file_name

REGION = re.compile(r"(?P<key>[A-Za-z0-9_/-]{1,90})\.(?P<row>\d{1,9})")
NO_BOXES = {"choices", "textarea", "rating", "number"}
"""Results beside boxes: of them only the choices `verdict` and CLASS are read."""
CLASS = "class"
"""The choice that names the class of an image."""
LONG_AGO = "0001-01-01T00:00:00+00:00"


def config(classes: Sequence[str], *, single: bool = False) -> str:
    """The labelling interface (XML) of these classes: with a verdict for every box; single: with one choice for
    an image."""
    if single:
        choices = "\n".join(f"    <Choice value={xml_attribute(name)}/>" for name in classes)
        return f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <Choices name="{CLASS}" toName="image" choice="single">
{choices}
  </Choices>
</View>
"""
    labels = "\n".join(f"    <Label value={xml_attribute(name)}/>" for name in classes)
    return f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <RectangleLabels name="label" toName="image" canRotate="false">
{labels}
  </RectangleLabels>
  <Choices name="verdict" toName="image" perRegion="true">
    <Choice value="accept"/>
    <Choice value="reject"/>
  </Choices>
</View>
"""


def writer(manifest: Manifest, address: Callable[[str], str]) -> Callable[[IO[bytes], Iterable[Task]], int]:
    """What writes tasks as the JSON that Label Studio imports. address: of an image, by its file name."""

    def write(file: IO[bytes], queued: Iterable[Task]) -> int:
        count = 0
        for count, task in enumerate(queued, 1):
            file.write(b",\n" if count > 1 else b"[\n")
            file.write(orjson.dumps(_task(task, manifest, address)))
        file.write(b"\n]\n" if count else b"[]\n")
        return count

    return write


def local_files(folder: str) -> Callable[[str], str]:
    """The addresses of images in a folder below LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT."""
    return lambda name: f"/data/local-files/?d={quote(f'{folder}/{name}')}"


def prefixed(prefix: str) -> Callable[[str], str]:
    """The addresses of images that begin with `prefix`."""
    joint = "" if prefix.endswith(("/", "=")) else "/"
    return lambda name: f"{prefix}{joint}{quote(name)}"


def _task(task: Task, manifest: Manifest, address: Callable[[str], str]) -> dict[str, Any]:
    version = f"{manifest.name}@{manifest.version}"
    image = task.image
    data: dict[str, Any] = {
        "image": address(file_name(image.key, manifest.features[0])),
        "key": image.key,
        "name": image.name,
        "version": version,
        "id": manifest.id[:12],
    }
    if kind_of(manifest.kind).single:
        data |= {"width": image.width, "height": image.height}
        regions = [_choice(shown, manifest) for shown in task.objects]
    else:
        regions = [_region(task, shown, manifest) for shown in task.objects]
    return {"data": data, "predictions": [{"model_version": version, "result": regions}]}


def _choice(shown: Shown, manifest: Manifest) -> dict[str, Any]:
    return {
        "id": shown.id.replace("#", "."),
        "type": "choices",
        "from_name": CLASS,
        "to_name": "image",
        "score": shown.score,
        "meta": {"tutelage": mark_of(shown, manifest)},
        "value": {"choices": [shown.label]},
    }


def _region(task: Task, shown: Shown, manifest: Manifest) -> dict[str, Any]:
    width, height = task.image.width, task.image.height
    x1, y1, x2, y2 = shown.box
    note = [shown.outcome] if shown.outcome != "kept" else []
    note += ["audit"] if shown.id in task.audited else []
    return {
        "id": shown.id.replace("#", "."),
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": shown.score,
        "meta": {"tutelage": mark_of(shown, manifest)} | ({"text": note} if note else {}),
        "value": {
            "x": 100 * x1 / width,
            "y": 100 * y1 / height,
            "width": 100 * (x2 - x1) / width,
            "height": 100 * (y2 - y1) / height,
            "rotation": 0,
            "rectanglelabels": [shown.label],
        },
    }


def read_label_studio(path: Path, author: str) -> Iterator[Answer]:
    """The images of a JSON export that a person submitted: of several annotations of a task the one updated last;
    skipped tasks and those nobody annotated are left out. author: who it was; whom the file names is not taken over.

    Raises AnnotationError for what is no such export, or no box, naming the task.
    """
    try:
        content = read_json(path)
    except BuildError as error:
        raise AnnotationError(str(error)) from None
    if not isinstance(content, list):
        content = [content]
    for number, task in enumerate(content, 1):
        where = f"{path}: task {task['id'] if isinstance(task, dict) and 'id' in task else number}"
        answer = _answer(task, brief(where), author)
        if answer:
            yield answer


def _answer(task: Any, where: str, author: str) -> Answer | None:
    given = task.get("annotations") if isinstance(task, dict) else None
    if not isinstance(given, list) or not all(isinstance(annotation, dict) for annotation in given):
        raise AnnotationError(f"{where} has no list of annotations: export the project as JSON, not as JSON-MIN or CSV")
    data = task.get("data")
    key, version = (data.get(name) if isinstance(data, dict) else None for name in ("key", "id"))
    if not isinstance(key, str) or not isinstance(version, str) or not version:
        raise AnnotationError(
            f"{where} does not say of which image it is: only tasks that `tutelage review queue --to labelstudio` "
            "wrote can come back"
        )
    flags = [annotation.get("was_cancelled") or False for annotation in given]
    if not set(map(type, flags)) <= {bool}:
        raise AnnotationError(f"{where} has the was_cancelled {brief(repr(flags))}, not true or false: export it again")
    submitted = [annotation for annotation, cancelled in zip(given, flags, strict=True) if not cancelled]
    if not submitted:
        return None
    last = max(submitted, key=lambda annotation: _order(annotation, where))
    results = last.get("result")
    if not isinstance(results, list) or not all(isinstance(annotation, dict) for annotation in results):
        raise AnnotationError(f"{where} has an annotation without a list of results: export the project as JSON again")
    boxes, sizes, problem = list[Given](), set[tuple[int, int]](), ""
    try:
        _read_results(results, data, version, where, boxes, sizes)
    except OfOneImage as error:
        problem = str(error)
    return Answer(key, where, version, sizes, boxes, True, author, problem)


def _read_results(
    results: Sequence[Mapping[str, Any]],
    data: Mapping[str, Any],
    version: str,
    where: str,
    boxes: list[Given],
    sizes: set[tuple[int, int]],
) -> None:
    """Add the boxes of an annotation, and the sizes of the image that they state."""
    verdicts = _verdicts(results, where)
    for result in results:
        if result.get("type") == "choices" and result.get("from_name") == CLASS:
            boxes.append(_chosen(result, data, where))
        if str(result.get("type")) in NO_BOXES:
            continue
        size = tuple(_number(result.get(f"original_{side}"), where, f"original_{side}") for side in ("width", "height"))
        sizes.add((round(size[0]), round(size[1])))
        label, box = _box(result, (size[0], size[1]), where)
        boxes.append(Given(_mark(result, version), label, box, verdicts.get(str(result.get("id")))))


def _chosen(result: Mapping[str, Any], data: Mapping[str, Any], where: str) -> Given:
    """The class of an image, whose box is all of it; which object it was is told by that."""
    value = result.get("value")
    match value.get("choices") if isinstance(value, dict) else None:
        case [str(label)]:
            width, height = (_number(data.get(side), where, side) for side in ("width", "height"))
            return Given(None, label, (0.0, 0.0, width, height))
        case other:
            raise OfOneImage(f"{where} has the classes {brief(repr(other))}: choose exactly one")


def _order(annotation: Mapping[str, Any], where: str) -> tuple[datetime, datetime, str]:
    def time(name: str) -> datetime:
        value = annotation.get(name) or LONG_AGO
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            raise AnnotationError(
                f"{where} has the {name} {brief(repr(value))}, which is no time: correct it"
            ) from None
        return moment if moment.tzinfo else moment.replace(tzinfo=datetime.fromisoformat(LONG_AGO).tzinfo)

    return time("updated_at"), time("created_at"), str(annotation.get("id")).zfill(20)


def _verdicts(results: Sequence[Mapping[str, Any]], where: str) -> dict[str, Verdict]:
    """What the choice `verdict` says, by region id."""
    verdicts: dict[str, Verdict] = {}
    for result in results:
        if result.get("type") == "choices" and result.get("from_name") == "verdict":
            value = result.get("value")
            match value.get("choices") if isinstance(value, dict) else None:
                case ["accept"]:
                    verdicts[str(result.get("id"))] = "accept"
                case ["reject"]:
                    verdicts[str(result.get("id"))] = "reject"
                case other:
                    raise AnnotationError(
                        f"{where} has the verdict {brief(repr(other))}: choose accept or reject there"
                    )
    return verdicts


def _mark(result: Mapping[str, Any], version: str) -> str | None:
    meta, id = result.get("meta"), REGION.fullmatch(str(result.get("id")))
    mark = meta.get("tutelage") if isinstance(meta, dict) else None
    if isinstance(mark, str):
        return mark
    return f"{id['key']}#{id['row']}@{version[:8]}" if id else None


def _box(result: Mapping[str, Any], size: tuple[float, float], where: str) -> tuple[str, Box]:
    """Class and box of a region."""
    if result.get("type") != "rectanglelabels":
        raise OfOneImage(
            f"{where} has a region of type {brief(repr(result.get('type')))}: only rectangles with a class can come "
            "back, so draw it as one"
        )
    value = result.get("value")
    value = value if isinstance(value, dict) else {}
    match value.get("rectanglelabels"):
        case [str(label)]:
            pass
        case other:
            raise OfOneImage(f"{where} has a box of the classes {brief(repr(other))}: give it exactly one")
    x, y, width, height = (_number(value.get(name), where, name) / 100 for name in ("x", "y", "width", "height"))
    if _number(value.get("rotation", 0), where, "rotation") or _number(result.get("image_rotation", 0), where, "turn"):
        raise OfOneImage(f"{where} has a {brief(label)} box that is turned: draw it upright")
    return label, (x * size[0], y * size[1], (x + width) * size[0], (y + height) * size[1])


def _number(value: Any, where: str, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AnnotationError(f"{where} has the {name} {brief(repr(value))}, which is no number: export it again")
    return float(value)
