"""Whatever stands in a file of an annotation tool: it is taken over, or refused in a sentence."""

from __future__ import annotations

import copy
import io
import json
import os
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path
from xml.dom import expatbuilder

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.review import cvat, label_studio
from builder.review.exchange import AnnotationError, Task, collect, tasks
from builder.review.objects import overrides_of
from builder.review.read import read_annotations
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.media import images_of
from tests.helpers.mutated import mutated
from tests.helpers.reviewed import make_store

INPUTS = int(os.environ.get("TUTELAGE_INPUTS", "100"))
"""Mutated files of each of the four kinds that each run of the tests reads."""
WORDS = st.sampled_from(
    (
        "nan",
        "-1",
        "1e999",
        "48.5",
        "1_0",
        "٣",
        "",
        "cat",
        "box",
        "image",
        "polygon",
        "attribute",
        "track",
        "a#0@00000000",
    )
)
Made = tuple[Version, dict[str, bytes]]  # fmt: skip


def exports(version: Version, two: list[Task]) -> dict[str, bytes]:
    """Kind of a file -> what is in it when two images come back as they were."""
    file, xml, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    label_studio.writer(version.manifest, str)(file, two)
    found = orjson.loads(file.getvalue())
    for number, task in enumerate(found, 1):
        said = {"id": number, "was_cancelled": False, "updated_at": "2026-01-02T03:04:05Z"}
        task |= {"id": number, "annotations": [said | {"result": task["predictions"][0]["result"]}]}
        verdict = {"type": "choices", "from_name": "verdict", "value": {"choices": ["accept"]}}
        task["annotations"][0]["result"].append(verdict | {"id": task["predictions"][0]["result"][0]["id"]})
        del task["predictions"]
    cvat.writer(version.manifest, 2)(xml, two)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/a.jpg", b"x")
        archive.writestr("annotations.xml", xml.getvalue())
    return {
        "Label Studio": orjson.dumps(found),
        "CVAT": xml.getvalue(),
        "CVAT's values": xml.getvalue(),
        "ZIP": packed.getvalue(),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    store = Store(make_store(tmp_path_factory.mktemp("any"), images=8))
    version = Version(store.version("pets").folder, store.version("pets").manifest)
    every = tasks(version, [image.key for image in images_of(version)], ("kept",))
    return version, exports(version, [task for task in every if task.objects][:2])


@st.composite
def changed_xml(draw: st.DrawFn, content: bytes) -> bytes:
    """With another name, text or attribute somewhere, without an element, or with one twice."""
    root = ElementTree.fromstring(content)
    for _ in range(draw(st.integers(1, 3))):
        parent = draw(st.sampled_from([element for element in root.iter() if len(element)]))
        element = draw(st.sampled_from(list(parent)))
        value = draw(WORDS | st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=8))
        match draw(st.sampled_from(("tag", "text", "attribute", "attribute", "without", "gone", "twice", "inside"))):
            case "tag":
                element.tag = draw(st.sampled_from(("box", "image", "attribute", "tag", "polygon", "track", "a")))
            case "text":
                element.text = value
            case "attribute" if element.attrib:
                element.set(draw(st.sampled_from(sorted(element.attrib))), value)
            case "without" if element.attrib:
                del element.attrib[draw(st.sampled_from(sorted(element.attrib)))]
            case "gone":
                parent.remove(element)
            case "twice":
                parent.append(copy.deepcopy(element))
            case "inside":
                element.append(copy.deepcopy(element))
    return ElementTree.tostring(root)


def counted(data: bytes) -> tuple[int, int]:
    """Images and boxes of a file, as the standard library's readers see them."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            return counted(archive.read(next(n for n in names if n.rpartition("/")[2] == "annotations.xml")))
    if data.lstrip()[:1] == b"<":
        images = expatbuilder.parseString(data, namespaces=False).getElementsByTagName("image")  # noqa: S316
        return len(images), sum(len(image.getElementsByTagName("box")) for image in images)
    content = json.loads(data)
    said = [task["annotations"] for task in (content if isinstance(content, list) else [content])]
    last = [each[-1]["result"] for each in said if each and not each[-1].get("was_cancelled")]
    return len(last), sum(result.get("type") == "rectanglelabels" for each in last for result in each)


def check(version: Version, path: Path) -> bool:
    """Whether it is taken over: then all images and boxes of it, but for those that are said to be refused."""
    try:
        found = collect(read_annotations(path, "ann"), version)
    except AnnotationError as error:
        said = str(error)
    else:
        assert all(len(why.splitlines()) == 1 for why in found.refused.values())
        images, boxes = counted(path.read_bytes())
        assert len(found.images) + len(found.refused) == images
        assert found.refused or len(found.edited) == boxes
        assert {edit.label for edit in found.edited} <= set(version.manifest.classes)
        assert {edit.key for edit in found.edited} | set(found.looked_at) <= set(found.images)
        for x1, y1, x2, y2 in (edit.box for edit in found.edited):
            assert 0 <= x1 <= x2 <= 64
            assert 0 <= y1 <= y2 <= 48
        overrides_of(found.shown, found.edited, found.images, found.authors)
        return True
    assert len(said.splitlines()) == 1
    assert len(said) < 1000 + len(str(path))
    return False


KINDS = pytest.mark.parametrize("kind", ["Label Studio", "CVAT", "CVAT's values", "ZIP"])


@KINDS
def test_what_is_changed_is_taken_over_as_it_is(made: Made, kind: str, tmp_path: Path) -> None:
    (tmp_path / "export").write_bytes(made[1][kind])
    assert check(made[0], tmp_path / "export")


@KINDS
@settings(max_examples=INPUTS, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_file_is_taken_over_or_refused(made: Made, kind: str, tmp_path: Path, data: st.DataObject) -> None:
    version, whole = made
    change = changed_xml if kind == "CVAT's values" else mutated
    (tmp_path / "export").write_bytes(data.draw(change(whole[kind])))
    check(version, tmp_path / "export")
