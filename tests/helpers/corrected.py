"""Versions of every kind, what people may say of them, and the versions that come of it at home and elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from builder.cut.basis import Basis
from builder.cut.recall import new_version
from builder.cut.version import Cut, cut_version
from builder.label.labelling import label_pool
from builder.label.model import ModelLabeller
from builder.recipe.recipe import load_recipe
from builder.review.objects import shown_objects
from builder.rules.overrides import Override, add_overrides
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from builder.store.version import Version
from tests.helpers.kinds import SIZE, Says, boxes, instances, probabilities, semantic
from tests.helpers.pools import write_images, write_recipe

SAYS = {"detection": boxes, "instance": instances, "semantic": semantic, "classification": probabilities}


def built(folder: Path, kind: str, *, mixed: bool = False, start: int = 0, **sections: Any) -> Cut:
    """A version of this kind of 14 images, in chunks of 3 and shards of about 5."""
    store = Store(folder / "store")
    write_images(folder / "pool", 14, start=start, size=SIZE)
    if mixed:
        write_images(folder / "pool", 3, start=50, size=SIZE, suffix=".png")
        for n in (60, 61):
            turned = Image.fromarray(np.random.default_rng(n).integers(0, 255, (SIZE[0], SIZE[1], 3), np.uint8))
            exif = Image.Exif()
            exif[0x0112] = 6
            turned.save(folder / "pool" / f"turned_{n}.jpg", exif=exif)
    pool = scan_pool(str(folder / "pool"), store, chunk_size=3)
    done = label_pool(pool, ModelLabeller(Says(kind, SAYS[kind]), 2), store, spec="says")
    recipe = load_recipe(
        write_recipe(folder, **{"keep": {"score": 0.5, "ignore": 0.3}, "shards": {"max_images": 5}} | sections)
    )
    basis = Basis(pool, store.predictions / done.predictions, recipe, "says")
    return cut_version(basis, store, name="pets", workers=2, report=False)


def corrections(version: Version, seed: int, share: float = 0.5) -> list[Override]:
    """What people may say of the objects on a version's images, at random: the same of equal versions."""
    rng = np.random.default_rng(seed)
    overrides: list[Override] = []
    for objects in shown_objects(version):
        for shown in objects:
            if rng.random() > share:
                continue
            actions = ("accept", "reject", "relabel", "move", "add")
            action = str(rng.choice(actions[: 3 if version.manifest.kind == "classification" else 5]))
            label = str(rng.choice(version.manifest.classes)) if action in ("relabel", "move", "add") else shown.label
            x, y, w, h = (float(v) for v in rng.uniform((0, 0, 4, 4), (40, 30, 24, 18)))
            drawn = (x, y, x + w, y + h) if action in ("move", "add") else None
            was = "" if label == shown.label or action == "add" else shown.label
            if action == "relabel" and not was:
                continue
            box = drawn if action == "add" and drawn else shown.box
            overrides.append(Override(shown.sha256, box, action, label, drawn, "ann", was))  # type: ignore[arg-type]
    return overrides


def elsewhere(version: Version, root: Path, name: str = "pets") -> Version:
    """The version as a pull puts it into an empty store: its files alone."""
    target = root / "datasets" / name / version.manifest.version
    shutil.copytree(version.folder, target, ignore=shutil.ignore_patterns("claim", ".*"))
    return Version.open(target)


def corrected(version: Version, store: Store, overrides: Sequence[Override]) -> Cut:
    add_overrides(store, version.dataset, overrides, version.manifest.classes)
    return new_version(store, version, 2, report=False)
