"""What recipes and records on disk are made of: pydantic models that refuse a key they do not know."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from builder.errors import BuildError, brief

if TYPE_CHECKING:  # of a private module, which only the type checker needs by its name
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What torch takes."""


class _Spoken(ModelMetaclass):
    """Of a section that is made by hand what is wrong is said in a sentence; pydantic itself does not come by here."""

    def __call__(cls, *args: Any, **values: Any) -> Any:
        if args:
            raise BuildError(f"{cls.__name__} takes its keys by name: write {cls.__name__}(key=value)")
        try:
            return super().__call__(**values)
        except ValidationError as error:
            raise BuildError(f"{cls.__name__}: {complaint(error)}") from None


class Section(BaseModel, metaclass=_Spoken):
    """A part of a recipe, or of a record on disk. An unknown key is an error; values do not change, and true and false
    are no numbers. Raises BuildError where it is made by hand, `Keep(score=2)`, and pydantic's ValidationError from
    `model_validate`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any) -> Any:
        if isinstance(value, dict) and (place := _truth_value(value, cls)):
            raise ValueError(f"{place} is true or false, which means nothing there")
        return value


def complaint(error: ValidationError, under: str = "") -> str:
    """The first complaint of pydantic, as a clause with the key, below `under`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = brief(".".join(map(str, (*([under] if under else ()), *first["loc"]))) or "it")
    message = brief(first["msg"].removeprefix("Value error, "))
    return f"{key}: {message[0].lower()}{message[1:]}"


def fields_of(model: type) -> Iterator[tuple[str, Any]]:
    """Name and type of each field of a model or a dataclass."""
    if issubclass(model, BaseModel):
        yield from ((name, info.annotation) for name, info in model.model_fields.items())
    elif dataclasses.is_dataclass(model):
        hints = get_type_hints(model, include_extras=True)
        yield from ((field.name, hints[field.name]) for field in dataclasses.fields(model))


def parts_of(type: Any) -> Iterator[Any]:
    """A type, or those that it is made of."""
    if not get_args(type):
        yield type
    for part in get_args(type):
        yield from parts_of(part)


@cache
def _kinds(model: type) -> dict[str, tuple[type | None, bool]]:
    """Fields that may hold a number, which true and false would be taken for -> the dataclass that they hold instead,
    and whether numbers stand there at all. (Sections ask for themselves.)"""
    kinds: dict[str, tuple[type | None, bool]] = {}
    for name, annotation in fields_of(model):
        parts = list(parts_of(annotation))
        if any(part in (bool, Any, object) or part is True or part is False for part in parts):
            continue
        inner = [part for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)]
        if inner or int in parts or float in parts:
            kinds[name] = (inner[0] if inner else None), int in parts or float in parts
    return kinds


def _truth_value(value: dict[Any, Any], model: type) -> str:
    """The first key below which true or false stands where a number is meant; "" if there is none."""
    for name, (inner, is_number) in _kinds(model).items():
        given = value.get(name)
        if isinstance(given, dict) and inner is not None:
            if place := _truth_value(given, inner):
                return f"{name}.{place}"
        elif is_number and _holds_truth(given):
            return name
    return ""


def _holds_truth(value: Any) -> bool:
    if isinstance(value, dict | list | tuple):
        return any(isinstance(item, bool) for item in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, bool)
