"""Records of a manifest with other contents."""

from __future__ import annotations

from typing import Any, TypeVar

from builder.store.provenance import Record

Kind = TypeVar("Kind", bound=Record)


def changed(record: Kind, **changes: Any) -> Kind:
    """The record with other values of these keys, which may be as they stand in the file."""
    stored = {name: value.stored() if isinstance(value, Record) else value for name, value in changes.items()}
    return record.model_validate(record.stored() | stored)
