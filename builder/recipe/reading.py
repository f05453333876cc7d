"""YAML with `--set` overrides, and pydantic's errors as one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from builder.errors import BuildError, brief
from builder.recipe.keys import likeliest
from builder.rules.keep import BY_CLASS, NUMBER
from builder.store.text import parse_yaml, read_yaml

SHORT = {"pool": "source", "teacher": "spec", "truth": "source", "test": "source", "labelled": "source"}
"""Sections that may be written as one string -> the key that the string stands for."""

UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
SECTION = frozenset({"model_type", "model_attributes_type", "dataclass_type"})
EXPECTED = {
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "a number"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    "dict_type": "a mapping",
    "string_pattern_mismatch": "other characters",
    "string_type": "text (in quotes, if it looks like something else)",
}
"""pydantic's kinds of errors -> what is expected; those of a section that is none are in SECTION."""
EXAMPLES = {
    **dict.fromkeys(SHORT, "a path, or a section such as {source: data/images}"),
    "truth.certify": "a path, or a section such as {source: data/new.json}",
    "name": "letters, digits, - and _, at most 64, the first a letter or digit",
    "teacher": 'a spec, or a section such as {spec: "onnx:model.onnx"}',
    "teacher.ensemble": 'a list such as [{spec: "onnx:a.onnx"}, {spec: "checkpoint:runs/b", weight: 2}]',
    "teacher.tta": "a section such as {flip: true, scales: [0.8, 1.0, 1.25]}",
    "teacher.prompts": "a mapping such as {a red car: car}",
    "keep": "a section such as {score: 0.5}",
    "keep.score": 'a number, or a mapping such as {cat: 0.6, "*": 0.5}',
    "keep.ignore": 'a number, a mapping such as {cat: 0.4, "*": 0.3}, or null',
    "keep.precision": "a number, or a section such as {target: 0.8}",
    "keep.classes": "a section such as {map: {car: vehicle}, drop: [person]}",
    "keep.classes.map": "a mapping such as {car: vehicle, truck: vehicle}",
    "keep.density": "a section such as {share: 0.2}",
    "keep.balance": "a section such as {images: 100}",
    "keep.mixture": "a section such as {few: ignore}",
    "images": "a section such as {near_duplicates: 4}",
    "shards": "a section such as {max_mb: 256}",
    "gates": "a section such as {on_leak: fail}",
    "gates.density": "a section such as {warn: 2, fail: null} (null: never)",
}
"""Keys of a recipe -> what is expected there."""
REFERENCE, BY_EXAMPLE = "Recipe reference", "On your own data"
"""Sections of the README that list the keys of recipes, and show those of pre-training and studies."""


def read_mapping(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with `key.key=value` overrides. Raises BuildError, with the line for what is no
    YAML."""
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise BuildError(f"{path} must be a mapping of keys to values, such as name: cells")
    for override in overrides:
        with_settings(content, override)
    return content


def explain(error: ValidationError, model: type, section: str = REFERENCE) -> str:
    """The first complaint of pydantic, unknown keys before others, as a clause with the key, the value and what is
    expected there. model: what the error is of; section: of the README, where its keys are listed."""
    complaints = error.errors(include_url=False)
    first = next((complaint for complaint in complaints if complaint["type"] in UNKNOWN), complaints[0])
    key = ".".join(str(part) for part in first["loc"] if part not in ("options", NUMBER, BY_CLASS))
    if first["type"] in UNKNOWN:
        path = ".".join(part for part in key.split(".") if not part.isdigit())
        meant = likeliest(path, model)
        return f"unknown key {key!r}: {f'did you mean {meant!r}? ' if meant else ''}See {section!r} in the README"
    if first["type"] == "missing":
        return f"{key!r} is missing: add it"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in EXPECTED or first["type"] in SECTION:
        message = f"expected {EXAMPLES.get(key) or EXPECTED.get(first['type'], 'a section of keys and values')}"
    elif message.startswith("Input should be "):
        message = f"must be {message[16:]}"
    if not key:
        return message
    return f"{key} = {_shown(first['input'])}: {message[0].lower()}{message[1:]}"


def _shown(value: object) -> str:
    """A value of a YAML file as it stands there, as far as that is known."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false (YAML reads off and no as false)"}[value]
    return brief(repr(value))


def with_settings(content: dict[str, Any], override: str) -> None:
    """Set the key of one override, `key.key=value`, in the content of a recipe. Raises BuildError."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise BuildError(f"override {override!r} must be KEY=VALUE, such as keep.score=0.6")
    section = content
    *path, last = key.split(".")
    short = {**SHORT, "precision": "target"}
    for part in path:
        inner = section.setdefault(part, {})
        if part in short and not isinstance(inner, dict):
            inner = section[part] = {short[part]: inner}
        if not isinstance(inner, dict):
            raise BuildError(f"override {override!r}: {part!r} is {brief(repr(inner))}, not a section")
        section = inner
    section[last] = parse_yaml(value, f"override {brief(repr(override))}: {brief(repr(value))}")
