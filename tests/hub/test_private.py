"""A version that tells of this machine, of its user or of places is not published, and is not built by default."""

from __future__ import annotations

import getpass
import io
import os
import socket
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from PIL import Image
from PIL.ExifTags import IFD

from builder.build import build_pseudo
from builder.cut.version import Cut
from builder.errors import BuildError
from builder.hub.private import check_private, look_for_private
from builder.hub.publish import publish
from builder.recipe.recipe import load_recipe
from builder.store.manifest import Manifest
from builder.store.store import Store
from builder.versions.health import verify
from tests.helpers.pools import write_images, write_recipe, write_results
from tests.helpers.sealing import reseal

AWAY = "/".join(("", "home", "anna"))


def build(folder: Path, **sections: Any) -> Cut:
    recipe = write_recipe(folder, **sections)
    cut = build_pseudo(load_recipe(recipe), Store(folder / "store"), root=folder).cut
    assert cut
    return cut


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_results(tmp_path, write_images(tmp_path / "pool", 6))
    return tmp_path


def locate(path: Path) -> None:
    """Say of an image where it was taken."""
    exif, out = Image.Exif(), io.BytesIO()
    exif.get_ifd(IFD.GPSInfo).update({1: "N", 2: (48.0, 8.0, 0.0), 3: "E", 4: (11.0, 34.0, 0.0)})
    with Image.open(path) as image:
        image.save(out, "JPEG", exif=exif, quality=95)
    path.write_bytes(out.getvalue())


def test_absolute_paths_of_a_recipe_do_not_reach_the_version(folder: Path) -> None:
    results, listing, pool = (str(folder / name) for name in ("results.json", "listing.json", "pool"))
    plain = build(folder)
    absolute = build(
        folder,
        pool={"source": pool, "chunk": 4},
        teacher={"spec": f"replay:{results}", "images": listing},
        keep={"score": 0.6, "ignore": 0.3},
    )
    assert absolute.manifest.provenance.inputs.predictions == plain.manifest.provenance.inputs.predictions
    assert absolute.manifest.provenance.recipe["pool"]["source"] == "pool"
    assert absolute.manifest.provenance.recipe["teacher"]["spec"] == "replay:results.json"
    assert absolute.manifest.provenance.teacher.spec == "replay:results.json"
    for path in absolute.folder.rglob("*"):
        if path.is_file():
            assert str(folder).encode() not in path.read_bytes(), path
    told = look_for_private(absolute)
    assert (told.texts, told.located) == ([], 0)


def test_a_version_can_be_repaired_whose_recipe_had_absolute_paths(folder: Path) -> None:
    cut = build(folder, pool={"source": str(folder / "pool"), "chunk": 4})
    shard = cut.folder / "data" / "train-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2000])
    assert not verify(cut, Store(folder / "store"), repair=True).problems
    assert shard.read_bytes() == whole


@pytest.mark.parametrize(
    "text",
    [
        "_/home/somebody/images/a.jpg",
        "see _/Users/anna/x",
        r"_C:\Users\anna\x.jpg",
        "file:///data/x",
        "built on HOST",
        "by USER",
        "HOME/list.txt",
    ],
)
def test_what_is_private_is_found_in_every_file(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "annabel")
    monkeypatch.setattr(socket, "gethostname", lambda: "lab-server-7")
    monkeypatch.setenv("HOME", "/nfs/people/annabel9")
    text = (
        text.replace("_", "")
        .replace("HOST", "lab-server-7")
        .replace("USER", "annabel")
        .replace("HOME", "nfs/people/annabel9")
    )
    cut = build(folder)
    check_private(cut)
    card = cut.folder / "README.md"
    before = card.read_text()
    card.write_text(before + text)
    with pytest.raises(BuildError, match=r"README.md of pets@v1 holds .*relative paths.*--allow-private"):
        check_private(cut)
    check_private(cut, allow_private=True)
    card.write_text(before + "https://example.org/home/x and/or 4/5 <a href='a/b.html'>it</a>, annabelle")
    check_private(cut)


def test_names_of_images_that_tell_a_path_are_found(folder: Path) -> None:
    away = folder / "home" / "anna"
    names = [str(away / name) for name in write_images(away, 6)]
    write_results(folder, [name.lstrip("/") for name in names])
    (folder / "lists").mkdir()
    (folder / "lists" / "list.txt").write_text("\n".join(names))
    cut = build(folder, pool={"source": "lists/list.txt", "chunk": 4})
    home = os.environ["HOME"]
    os.environ["HOME"] = str(away)
    try:
        with pytest.raises(BuildError, match=r"labels.parquet|train-000000.tar"):
            check_private(cut)
    finally:
        os.environ["HOME"] = home


def test_places_are_refused_unless_told_and_stripped_when_asked(folder: Path) -> None:
    for path in sorted((folder / "pool").iterdir())[:2]:
        locate(path)
    cut = build(folder)
    with pytest.raises(
        BuildError, match=r"2 images of pets@v1 say where they were taken .*strip_metadata.*--allow-gps"
    ):
        publish(cut, "org/name")
    check_private(cut, allow_gps=True)
    bare = build(folder, shards={"strip_metadata": True})
    check_private(bare)
    store = Store(folder / "store")
    assert not verify(bare, store).problems
    shard = bare.folder / "data" / "train-000000.tar"
    whole = shard.read_bytes()
    shard.unlink()
    assert not verify(bare, store, repair=True).problems and shard.read_bytes() == whole


def test_tiffs_that_are_to_be_stripped_are_brought_to_another_format(tmp_path: Path) -> None:
    write_results(tmp_path, write_images(tmp_path / "pool", 4, suffix=".tif"))
    assert build(tmp_path).manifest.features[0] == "tif"
    assert build(tmp_path, shards={"strip_metadata": True, "image_format": "png"}).manifest.features[0] == "png"


def test_a_version_with_the_paths_of_an_older_tutelage_opens(folder: Path) -> None:
    cut = build(folder)
    path = cut.folder / "manifest.json"
    text = path.read_text().replace('"replay:results.json"', f'"replay:{AWAY}/results.json"')
    reseal(cut.folder, Manifest.model_validate({k: v for k, v in orjson.loads(text).items() if k != "digest"}))
    version = Store(folder / "store").version("pets@v1")
    assert AWAY in yaml.safe_dump(version.manifest.provenance.recipe)
    with pytest.raises(BuildError, match=r"manifest\.json of pets@v1 holds"):
        check_private(version)
