"""What a cell learns beside human labels: versions that its teacher makes, or that say what people said, as if by a
teacher that is always right."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import orjson

from builder.build import build_pseudo
from builder.kinds import kind_of
from builder.label.section import TeacherSection
from builder.recipe.recipe import PoolOptions, Recipe
from builder.store.files import canonical_json, digest, locked, new_folder, write_file
from builder.store.store import Store
from builder.truth.records import LabelledImage, Truth
from students.study.kinds.choose import study_kind


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
        kept = study_kind(kind_of(manifest.kind).name).kept(manifest)
        made = Made(str(cut.folder), manifest.samples, kept, time.perf_counter() - before)
        write_file(note, canonical_json(asdict(made)))
        return made


def human_version(
    name: str, classes: Truth, pairs: Sequence[tuple[LabelledImage, str]], pool: PoolOptions, store: Store
) -> Made:
    """The version of a pool on which people's labels are pseudo-labels of score 1. pairs: labelled images of `classes`
    and their names in the pool."""
    folder, kind = store.root / "told" / name, study_kind(classes.kind)
    with locked(folder.with_name(f".lock-{name}"), f"the labels of {name}", sweep=[folder.parent], wait=True):
        if not folder.is_dir():
            with new_folder(folder) as new:
                kind.write_predictions(new, classes, pairs)
    images = str(folder / kind.listing) if kind.listing else None
    teacher = TeacherSection(spec=f"replay:{folder / kind.predictions}", images=images)
    return make(Recipe(name=name, pool=pool, teacher=teacher, review=False), store)
