"""Which images COCO results are of: by id, as COCO says, or by the file's name, as Ultralytics writes them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.errors import BuildError, brief
from builder.store.names import canonical
from builder.truth.ids import Id, read_id


def name_images(records: Sequence[Any], listed: Mapping[str, Id], results: Path, images: Path) -> dict[Id, str]:
    """image_id of the results -> file name; listed: file name -> id in the COCO JSON `images`.

    All image_ids are ids, or all are files' names without folder and extension (whole numbers where these are digits:
    `000012.jpg` is 12), as in Ultralytics' predictions.json. A result's own file_name, where it has one, must agree.
    Raises BuildError, naming a result, where they are neither, or could be both and mean different images.
    """
    first: dict[Id, int] = {}
    files: dict[Id, str] = {}
    for n, record in enumerate(records):
        try:
            id = read_id(record["image_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise BuildError(f"{results}: result {n} is no COCO detection ({brief(repr(error))}): correct it") from None
        first.setdefault(id, n)
        if isinstance(record.get("file_name"), str):
            files.setdefault(id, os.path.basename(canonical(record["file_name"])))
    by_id = {id: name for name, id in listed.items()}
    by_stem = _by_stem(listed)
    wrong_id, wrong_stem = (_misfit(first, files, names) for names in (by_id, by_stem))
    if wrong_id is None:
        other = next((id for id in first if id in by_stem and by_stem[id] != by_id[id]), None)
        if other is not None and wrong_stem is None and other not in files:
            raise BuildError(
                f"{results}: result {first[other]} has image_id {other}, which may be the id of {brief(by_id[other])} "
                f"or the name of {brief(by_stem[other])} in {images}: give each result its file_name too"
            )
        return {id: by_id[id] for id in first}
    if wrong_stem is None:
        return {id: by_stem[id] for id in first}
    where = f"{results}: result {first[wrong_id]} has image_id {brief(repr(wrong_id))}"
    if wrong_id in by_id:
        raise BuildError(
            f"{where} and file_name {brief(repr(files[wrong_id]))}, but {images} calls that image "
            f"{brief(repr(by_id[wrong_id]))}: correct one of them"
        )
    same = [name for name in listed if _stem_id(name) == wrong_id]
    if len(same) > 1:
        raise BuildError(f"{where}, which may be {brief(same[0])} or {brief(same[1])} of {images}: give it the id")
    raise BuildError(
        f"{where}, which the COCO JSON of its images does not list: {images} has ids such as "
        f"{brief(repr(next(iter(by_id), None)))} and files such as {brief(repr(next(iter(listed), None)))}"
    )


def _by_stem(listed: Mapping[str, Id]) -> dict[Id, str]:
    """Files by their names as Ultralytics has them, those left out that two have."""
    names: dict[Id, str] = {}
    repeated: set[Id] = set()
    for name in listed:
        stem = _stem_id(name)
        repeated |= {stem} & names.keys()
        names[stem] = name
    return {stem: name for stem, name in names.items() if stem not in repeated}


def _stem_id(name: str) -> Id:
    stem = os.path.splitext(os.path.basename(name))[0]
    return int(stem) if stem.isdecimal() and len(stem) < 20 else stem


def _misfit(first: Mapping[Id, int], files: Mapping[Id, str], names: Mapping[Id, str]) -> Id | None:
    """The first image_id that is not among these names, or is another one there than its result's file_name says."""
    for id in first:
        if id not in names or files.get(id, os.path.basename(names[id])) != os.path.basename(names[id]):
            return id
    return None
