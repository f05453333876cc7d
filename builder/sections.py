"""What recipes and records on disk are made of: pydantic models that refuse a key they do not know."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]


class Section(BaseModel):
    """A part of a recipe, or of a record on disk. An unknown key is an error; values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
