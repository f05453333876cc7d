"""What a name in the store stands for: a version, predictions or a pool, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from builder.hub.remote import open_version
from builder.label.predictions import describe as describe_predictions
from builder.label.predictions import find_predictions
from builder.scan.pool import describe as describe_pool
from builder.scan.pool import find_pool
from builder.store.store import Store
from builder.store.version import Version


@dataclass(frozen=True)
class Shown:
    """What is in a version, in predictions or in a pool. facts: counts and names, JSON-ready; of a version its
    manifest. version: None for the others."""

    kind: Literal["version", "predictions", "pool"]
    facts: Mapping[str, Any]
    version: Version | None = None


def show(ref: str, store: Store) -> Shown:
    """Describe what a name stands for.

    Args:
        ref: NAME, NAME@v3, NAME@TAG, the folder or the address of a version; an id prefix of predictions or of a pool.
        store: holds it.

    Returns:
        What is in it.

    Raises:
        BuildError: nothing in the store has this name, or several things have.
    """
    if store.match(store.predictions, ref):
        return Shown("predictions", describe_predictions(store, find_predictions(store, ref)))
    if store.match(store.pools, ref):
        return Shown("pool", describe_pool(find_pool(store, ref)))
    version = open_version(ref, store)
    return Shown("version", version.manifest.model_dump(mode="json"), version)
