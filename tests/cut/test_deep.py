"""Damaged images and pixels of more than 8 bits: what a version holds of them is what the teacher saw."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import orjson
import pytest
from PIL import Image

from builder.build import Built, build_pseudo
from builder.recipe.recipe import load_recipe
from builder.store.store import Store
from builder.versions.health import verify
from tests.helpers.pools import write_images, write_recipe, write_results

RAMP = (np.arange(48 * 64).reshape(48, 64) % 4096).astype(np.uint16)


def built(folder: Path, *settings: str) -> tuple[Built, dict[str, np.ndarray], set[str]]:
    """What a build makes of a folder's images: their pixels by name, and what was done to their files."""
    settings = ("max_failure_rate=0.5", *settings)
    done = build_pseudo(load_recipe(write_recipe(folder), settings), Store(folder / "store"), root=folder)
    assert done.cut and not verify(done.cut, Store(folder / "store")).problems
    pixels, reencoded = {}, set()
    with tarfile.open(done.cut.folder / "data" / "train-000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    for name in (name for name in members if name.endswith(".json")):
        label = orjson.loads(members[name])
        reencoded.add(label["reencoded"])
        with Image.open(io.BytesIO(members[f"{name[:-5]}.{done.cut.manifest.features[0]}"])) as image:
            assert image.mode in ("L", "RGB")
            pixels[label["name"]] = np.asarray(image.convert("RGB"))
    return done, pixels, reencoded


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_version_holds_8_bits_scaled_by_the_recipes_range(suffix: str, tmp_path: Path) -> None:
    names = [f"{n}{suffix}" for n in range(3)]
    (tmp_path / "pool").mkdir()
    for n, name in enumerate(names):
        Image.fromarray(RAMP + n).save(tmp_path / "pool" / name)
    write_results(tmp_path, names)
    with pytest.raises(Exception, match=r"3 of 3 images cannot be read .*images\.range which number is white"):
        built(tmp_path)
    done, pixels, reencoded = built(tmp_path, "images.range=4097")
    assert done.cut and done.cut.manifest.features[0] == suffix[1:] and reencoded == {"format"}
    assert np.abs(pixels[names[0]][..., 0] - np.round(RAMP.astype(int) * 255 / 4097)).max() <= 1
    other, pixels, _ = built(tmp_path, "images.range=data")
    assert pixels[names[2]].max() == 255 and pixels[names[2]].min() == 0
    assert other.labelled and done.labelled and other.labelled.predictions != done.labelled.predictions


def test_a_damaged_image_is_left_out_or_written_anew(tmp_path: Path) -> None:
    names = write_images(tmp_path / "pool", 4)
    harmed = tmp_path / "pool" / names[1]
    harmed.write_bytes(harmed.read_bytes()[:-30] + b"\xff\xd9")
    write_results(tmp_path, names)
    done, pixels, reencoded = built(tmp_path)
    assert sorted(pixels) == sorted({*names} - {names[1]}) and reencoded == {"none"}
    assert done.labelled and done.labelled.failures == (f"{names[1]}: is damaged (premature end of data segment)",)
    kept, pixels, reencoded = built(tmp_path, "images.damaged=keep")
    assert sorted(pixels) == sorted(names) and reencoded == {"none", "format"}
    assert kept.labelled and kept.labelled.failures == ()
    assert kept.labelled.predictions != done.labelled.predictions
