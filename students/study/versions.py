"""What a cell learns beside human labels: versions that its teacher makes, or that say what people said, as if by a
teacher that is always right."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import orjson
from PIL import Image

from builder.build import build_pseudo
from builder.label.section import TeacherSection
from builder.recipe.recipe import PoolOptions, Recipe
from builder.store.files import canonical_json, digest, locked, new_folder, write_file
from builder.store.store import Store
from builder.truth.folders import IGNORE, read_mask
from builder.truth.records import LabelledImage, Truth
from students.study.data import coco, table

CROWD = 0.4
"""Score of a region full of uncounted objects: below the usual threshold of .5, above .3: it is to be ignored."""


@dataclass(frozen=True)
class Made:
    """A version in the study's store. folder: its own. images: that it shows. kept: labels on them (objects or images;
    of maps the share of all pixels). seconds: that scanning, labelling and cutting took."""

    folder: str
    images: int
    kept: float
    seconds: float


def make(recipe: Recipe, store: Store) -> Made:
    """The version of this recipe, made by whichever worker comes first, while others wait. Raises BuildError."""
    note = store.root / "made" / f"{digest(recipe.model_dump(mode='json'))}.json"
    # one after the other for each teacher: two builds cannot write the same predictions at a time
    teacher = digest(recipe.teacher.model_dump(mode="json"))[:16]
    with locked(note.parent / f".lock-{teacher}", f"the labels of {recipe.name}", sweep=[], wait=True):
        if note.is_file():
            return Made(**orjson.loads(note.read_bytes()))
        before = time.perf_counter()
        cut = build_pseudo(recipe, store, workers=1, report=False).cut
        assert cut is not None  # nothing but the whole build was asked for
        manifest = cut.manifest
        share = manifest.objects["predicted"] if manifest.kind == "semantic" else 1
        made = Made(str(cut.folder), manifest.samples, manifest.kept / max(1, share), time.perf_counter() - before)
        write_file(note, canonical_json(asdict(made)))
        return made


def told(
    name: str, classes: Truth, pairs: Sequence[tuple[LabelledImage, str]], pool: PoolOptions, store: Store
) -> Made:
    """The version of a pool on which people's labels are pseudo-labels of score 1. pairs: labelled images of `classes`
    and their names in the pool."""
    folder = store.root / "told" / name
    with locked(folder.with_name(f".lock-{name}"), f"the labels of {name}", sweep=[folder.parent], wait=True):
        if not folder.is_dir():
            with new_folder(folder) as new:
                _write(new, classes, pairs)
    match classes.kind:
        case "classification":
            spec, images = folder / "predictions.csv", None
        case "semantic":
            spec, images = folder, None
        case _:
            spec, images = folder / "results.json", str(folder / "listing.json")
    teacher = TeacherSection(spec=f"replay:{spec}", images=images)
    return make(Recipe(name=name, pool=pool, teacher=teacher, review=False), store)


def _write(folder: Path, truth: Truth, pairs: Sequence[tuple[LabelledImage, str]]) -> None:
    """The labels as stored predictions (builder.label.replay.formats)."""
    match truth.kind:
        case "classification":
            sure = np.eye(len(truth.classes), dtype=np.int64)
            none = [0] * len(truth.classes)
            rows = [(name, *(none if image.label is None else sure[image.label].tolist())) for image, name in pairs]
            (folder / "predictions.csv").write_text(table([("name", *truth.classes), *rows]))
        case "semantic":
            (folder / "classes.txt").write_text("\n".join(truth.classes) + "\n")
            for image, name in pairs:
                labels = read_mask(image, len(truth.classes))
                sure_of = np.where(labels == IGNORE, 0, 255).astype(np.uint8)
                for part, plane in (("labels", labels), ("confidence", sure_of)):
                    place = folder / part / Path(name).with_suffix(".png")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(plane).save(place)
        case _:
            content = coco(replace(truth, images=[image for image, _ in pairs]), [name for _, name in pairs])
            records = content.pop("annotations")
            for record in records:
                counts = not (record.pop("iscrowd") or record.pop("ignore"))
                record["score"] = 1.0 if counts else CROWD
            (folder / "results.json").write_bytes(canonical_json(records))
            (folder / "listing.json").write_bytes(canonical_json({**content, "annotations": []}))
