"""Names of classes in the files that come with labels: a YAML with `names`, or a text file with a name a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builder.errors import BuildError, brief
from builder.store.names import canonical, first_repeated
from builder.store.text import read_text, read_yaml
from builder.truth.records import NO_CLASSES, TruthError

YAML = (".yaml", ".yml")


def read_settings(file: Path) -> dict[str, Any]:
    """The mapping in a data set's YAML, its values (and keys) as text, lists and mappings: as written, where YAML would
    make `no` false and `1.0` a number. Raises TruthError for what is none, and for a key that stands twice."""
    try:
        content = read_yaml(file, as_written=True)
    except BuildError as error:
        raise TruthError(str(error)) from None
    if not isinstance(content, dict):
        raise TruthError(f"{file} is no mapping of keys to values, such as names: [cat, dog]: correct it")
    return content


def read_names(file: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Numbers and names of the classes, of a YAML's `names` or of the lines of a text file (`obj.names`,
    `classes.txt`), counted from 0. Raises TruthError for a name that is missing or stands twice, and where `nc` is
    another number."""
    if file.suffix not in YAML:
        classes = read_class_lines(file)
        return tuple(range(len(classes))), classes
    return names_in(read_settings(file), file)


def names_in(settings: dict[str, Any], file: Path) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """`read_names` of the settings that were read from a YAML."""
    names = settings.get("names")
    if isinstance(names, list):
        names = {str(number): name for number, name in enumerate(names)}
    if not isinstance(names, dict) or not names or not all(number.isdecimal() for number in names):
        raise TruthError(f"{file} has no names, a list or a mapping from numbers to classes: add them")
    wrong = next((number for number, name in names.items() if not isinstance(name, str) or not name), None)
    if wrong is not None:
        what = "no name" if names[wrong] == "" else "a list or a mapping as its name"
        raise TruthError(f"{file}: class {wrong} has {what}: give it a text")
    _check_names(list(names.values()), file)
    stated = settings.get("nc", str(len(names)))
    if stated != str(len(names)):
        raise TruthError(f"{file} says nc: {brief(stated)}, but has {len(names)} names: correct one of them")
    return tuple(map(int, names)), tuple(map(canonical, names.values()))


def read_class_lines(file: Path) -> tuple[str, ...]:
    """The classes of a text file, a name a line. Raises TruthError for an empty line before the last name, which would
    give the names below it other numbers, and for a name that stands twice."""
    try:
        lines = [line.strip() for line in read_text(file).rstrip().splitlines()]
    except BuildError as error:
        raise TruthError(str(error)) from None
    if not all(lines):
        raise TruthError(f"{file}: line {lines.index('') + 1} is empty, but classes are counted by lines: remove it")
    _check_names(lines, file)
    return tuple(map(canonical, lines))


def _check_names(names: list[str], file: Path) -> None:
    if (name := first_repeated(name for name in names if name not in NO_CLASSES)) is not None:
        raise TruthError(f"{file}: two classes have the name {brief(repr(name))}: rename one")
