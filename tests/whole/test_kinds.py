"""A kind of label is one record in each package that treats kinds differently; nothing else asks for its name."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder.browse.kinds import shown_kind
from builder.cut.kinds.choose import cut_kind
from builder.errors import BuildError
from builder.kinds import KINDS, LabelKind, kind_of
from builder.report.kinds import report_kind

ROOT = Path(__file__).parents[2]
NAMES = {kind.name for kind in KINDS}
CHOOSING = {
    "builder": {"cut/kinds/choose.py", "report/kinds.py", "browse/kinds.py"},
    "students": {"tasks/choose.py", "evaluate/measure.py", "study/kinds/choose.py"},
}
"""The files that choose by name."""
OTHERS = {
    "builder": {"truth/records.py", "label/replay/label_studio.py"},
    "students": {"evaluate/boxes.py", "augment/scene.py"},
}
"""They ask for the kind of human labels, for shapes that Label Studio has, for masks beside boxes, and for a table of
AutoAugment that is called as a kind is."""


def questions(path: Path) -> Iterator[int]:
    """Lines that compare something with the name of a kind."""
    for node in ast.walk(ast.parse(path.read_text())):
        parts: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        if isinstance(node, ast.MatchValue):
            parts = [node.value]
        inner = [one for part in parts for one in (part.elts if isinstance(part, ast.Tuple | ast.List) else [part])]
        if any(isinstance(one, ast.Constant) and one.value in NAMES for one in inner):
            yield node.lineno


@pytest.mark.parametrize("package", CHOOSING)
def test_only_the_choosing_files_ask_for_the_name_of_a_kind(package: str) -> None:
    folder = ROOT / package
    asking = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py") if list(questions(path))}
    assert asking == CHOOSING[package] | OTHERS[package]


@pytest.mark.parametrize("choose", [cut_kind, report_kind, shown_kind])
def test_every_kind_is_chosen_and_no_other(choose: Callable[[str], object]) -> None:
    assert all(choose(kind.name) is not None for kind in KINDS)
    with pytest.raises(BuildError, match="labels of kind 'keypoints' are unknown here: update tutelage"):
        choose("keypoints")


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_the_facts_of_a_kind_fit_together(kind: LabelKind) -> None:
    assert kind_of(kind.name) is kind
    assert [kind.overlaps, kind.pixels, kind.single].count(True) == 1
    assert kind.truth in NAMES and (kind.truth == kind.name or kind.outlines)
    assert set(cut_kind(kind.name).columns) >= {"label", "outcome"}


def test_the_files_of_docs_architecture_are_there_and_the_new_ones_are_not() -> None:
    files = dict[str, bool]()
    for line in (ROOT / "docs" / "architecture.md").read_text().splitlines():
        found = re.findall(r"`((?:builder|students|teachers|tests)/[\w/.]+)`", line)
        files |= {name: n > 0 or not line.startswith("| + ") for n, name in enumerate(found)}
    assert len(files) > 25 and {name: (ROOT / name).exists() for name in files} == files
