"""The YAML file beside an ONNX model, read: found, completed by what the model says of itself, and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from teachers.base import TeacherError
from teachers.errors import brief, nearest
from teachers.from_onnx.spec import DECODERS, NO_CLASS, READER, Model, ModelSpec
from teachers.text import read_text, read_yaml

YAML = (".yaml", ".yml")


def locate(path: Path, weights: str | None) -> tuple[Path, dict[str, Any], Path]:
    """The YAML file, its content ({} if there is none) and the model file, from a path to either and the option
    `weights`. Raises TeacherError for a file that is missing or wrong."""
    is_yaml = path.suffix in YAML
    spec_path = path if is_yaml else path.with_suffix(".yaml")
    model = Path(weights) if weights is not None else path
    if model != spec_path and not model.is_file():
        raise TeacherError(f"model file {model} not found")
    content = _content(spec_path) if is_yaml or spec_path.exists() else {}
    if model != spec_path:
        return spec_path, content, model
    if content.get("model") is None:
        raise TeacherError(f"{spec_path} lacks the key model: name the ONNX file there or in the option weights")
    model = spec_path.parent / str(content["model"])
    if not model.is_file():
        raise TeacherError(f"model file {model}, named in {spec_path}, not found: put it there or set option weights")
    return spec_path, content, model


def read_spec(path: Path, content: Mapping[str, Any]) -> ModelSpec:
    """What a YAML file says, checked. Raises TeacherError, with `path` and the key."""
    try:
        return READER.validate_python(content)
    except ValidationError as error:
        raise TeacherError(f"{path} {_reason(error)}") from error


def output_names(spec_path: Path, spec: ModelSpec) -> tuple[tuple[str, ...], tuple[str, ...], np.ndarray]:
    """The name of each output, the classes among them, and each output's position in these: int (outputs,), -1 for one
    that is no class. Raises TeacherError if there are none or two of one name."""
    if (spec.classes is None) == (spec.classes_from is None):
        raise TeacherError(f"{spec_path} must have one of the keys classes and classes_from")
    names = spec.classes if spec.classes is not None else _names_from(spec_path, str(spec.classes_from))
    is_class = np.array([name not in NO_CLASS for name in names], bool)
    classes = tuple(name for name in names if name not in NO_CLASS)
    if not classes:
        raise TeacherError(f"{spec_path} names no classes")
    if not all(name.strip() for name in classes):
        raise TeacherError(f"{spec_path} has a class without a name: write one for each output")
    (most, times), *_ = Counter(classes).most_common(1)
    if times > 1:
        raise TeacherError(f"{spec_path} names the class {brief(repr(most))} more than once")
    return names, classes, np.where(is_class, np.cumsum(is_class) - 1, -1)


def names_in_order(names: Any) -> tuple[str, ...] | None:
    """Names of a list, or of a mapping from 0, 1, … as in a data.yaml and in Ultralytics' models; None for anything
    else."""
    if isinstance(names, Mapping):
        by_place = {str(place): name for place, name in names.items()}
        names = [by_place.get(str(n)) for n in range(len(by_place))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def _names_from(spec_path: Path, name: str) -> tuple[str, ...]:
    source = spec_path.parent / name
    try:
        if source.suffix not in YAML:
            return _name_lines(read_text(source), source)
        content = read_yaml(source, as_written=True)
    except TeacherError as error:
        raise TeacherError(f"classes_from in {spec_path}: {error}") from error
    names = names_in_order(content.get("names") if isinstance(content, dict) else None)
    if names is None:
        raise TeacherError(f"{source}, named by classes_from in {spec_path}, has no list of names: write names: [a, b]")
    return names


def _name_lines(text: str, source: Path) -> tuple[str, ...]:
    """A name a line. Raises TeacherError for an empty line before the last name: the names below it would be of other
    outputs."""
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if not all(names):
        raise TeacherError(
            f"{source}: line {names.index('') + 1} is empty, but classes are counted by lines: remove it"
        )
    return names


def _content(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise TeacherError(f"{path} not found: write this YAML file with input, decoder and classes")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise TeacherError(f"{path} must be a YAML mapping with the keys {', '.join(Model.model_fields)}, decoder")
    if "classes" in content:  # the classes [yes, no] are no truth values
        names = names_in_order(read_yaml(path, as_written=True).get("classes"))
        content["classes"] = content["classes"] if names is None else list(names)
    return content


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][1:])  # the first part names the decoder
    match first["type"]:
        case "union_tag_not_found":
            return f"lacks the key decoder: write one of {', '.join(DECODERS)}"
        case "union_tag_invalid":
            return (
                f"has an unknown decoder {brief(repr(first['input']['decoder']))}: write one of {', '.join(DECODERS)}"
            )
        case "missing":
            return f"lacks the key {key}: add it"
        case "extra_forbidden":
            sections = READER.json_schema()["$defs"].values()
            known = {name for section in sections for name in section.get("properties", ())}
            meant = nearest(key.rpartition(".")[2], known - {key})
            hint = f"did you mean {meant}? " if meant else ""
            return f"has an unknown key {brief(key)}: {hint}Remove it or correct its name"
        case "value_error":
            return f"cannot be used: {first['msg'].removeprefix('Value error, ')}"
        case _:
            return f"has {key}: {brief(repr(first['input']))}, but {first['msg'][0].lower()}{first['msg'][1:]}"
