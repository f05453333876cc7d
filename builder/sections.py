"""What recipes and records on disk are made of: pydantic models that refuse a key they do not know."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from builder.errors import brief

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]


class Section(BaseModel):
    """A part of a recipe, or of a record on disk. An unknown key is an error; values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def complaint(error: ValidationError, under: str = "") -> str:
    """The first complaint of pydantic about a record on disk, as a clause with the key, below `under`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = brief(".".join(map(str, (*([under] if under else ()), *first["loc"]))) or "it")
    return f"{key}: {brief(first['msg'][:1].lower() + first['msg'][1:])}"
