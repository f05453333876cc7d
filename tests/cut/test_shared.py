"""Versions that share their images: the same samples, each image once, and what other tools read of them."""

from __future__ import annotations

import io
import os
import select
import shutil
import sys
import tarfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import webdataset
from datasets import load_dataset

from builder.cut.version import Cut
from builder.errors import BuildError
from builder.export.export import export_version
from builder.scan.pool import read_pool
from builder.store.manifest import read_manifest
from builder.store.shards import read_samples, write_shard
from builder.store.shared.joined import JoinedFile, for_a_pipe, plain_tar
from builder.store.shared.materialize import materialize, tar_of
from builder.store.shared.tars import ImageTars
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.health import bad_shards
from builder.versions.media import extracted, images_of
from builder.versions.repair import repair
from builder.versions.verify import problems
from students.data.streams import Pseudo
from students.tasks.choose import task_of
from teachers.networks.config import Arch
from tests import ROOT
from tests.helpers.corrected import built, corrected, corrections
from tests.helpers.pools import tree, write_images, write_recipe, write_results
from tests.helpers.sharing import run, sharing_store

ARCHS: dict[str, Arch] = {
    "detection": "fcos",
    "instance": "maskrcnn",
    "semantic": "fpn",
    "classification": "linear",
}
KINDS = tuple(ARCHS)
SHARED = {"images": "shared", "max_images": 3}


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cut, Cut]:
    """The same version, of mixed formats and orientations, with its images inside and sharing them."""
    folder = tmp_path_factory.mktemp(request.param)
    inside = built(folder / "inside", request.param, mixed=True, shards={"max_images": 3})
    return inside, built(folder / "shared", request.param, mixed=True, shards=SHARED)


def opened(made: Cut) -> Version:
    return Version.open(made.folder)


def test_both_hold_the_same_and_materialised_are_the_same(pair: tuple[Cut, Cut], tmp_path: Path) -> None:
    inside, shared = pair
    assert inside.manifest.id == shared.manifest.id and shared.manifest.is_shared and len(shared.manifest.shards) > 1
    assert [s.bytes for s in inside.manifest.shards] == [s.bytes for s in shared.manifest.shards]
    assert {path.name for path in shared.data.iterdir()} == {
        s.name[:-4] + ".labels.tar" for s in shared.manifest.shards
    }
    assert problems(opened(shared)) == []
    there = materialize(opened(shared), tmp_path / "out", workers=2)
    assert tree(tmp_path / "out" / "data") == tree(inside.data)
    assert there.id == inside.manifest.id and problems(Version.open(tmp_path / "out")) == []
    again = materialize(opened(inside), tmp_path / "again")
    assert tree(tmp_path / "again" / "data") == tree(inside.data) and again.shards == inside.manifest.shards
    for one, other in zip(inside.manifest.shards, shared.manifest.shards, strict=True):
        assert inside.rows(one) == shared.rows(other)
        assert b"".join(tar_of(opened(shared), other)) == (inside.data / one.name).read_bytes()


def test_readers_find_the_same_in_both(pair: tuple[Cut, Cut], tmp_path: Path) -> None:
    inside, shared = (opened(made) for made in pair)
    for one, other in zip(inside.shards(), shared.shards(), strict=True):
        ours, theirs = (
            [(s.key, {e: m.read() for e, m in s.members.items()}) for s in side[1]] for side in (one, other)
        )
        assert ours == theirs and len(ours) == one[0].samples
    assert [image.key for image in images_of(inside)] == [image.key for image in images_of(shared)]
    files = [extracted(Store(side.folder.parents[2]), side) for side in (inside, shared)]
    assert {key: path.read_bytes() for key, path in files[0].items()} == {
        k: p.read_bytes() for k, p in files[1].items()
    }
    if inside.manifest.kind in ("detection", "instance"):
        for name, side in (("inside", inside), ("shared", shared)):
            export_version(side, tmp_path / name, "coco")
        assert tree(tmp_path / "inside") == tree(tmp_path / "shared")


def test_a_joined_file_can_be_read_anywhere(pair: tuple[Cut, Cut]) -> None:
    inside, shared = pair
    record = shared.manifest.shards[0]
    whole = (inside.data / record.name).read_bytes()
    file = io.BufferedReader(JoinedFile(opened(shared).samples(record)))
    assert file.seek(0, os.SEEK_END) == len(whole) and file.read(1) == b""
    rng = np.random.default_rng(0)
    for start, size in rng.integers(0, len(whole), (50, 2)).tolist():
        file.seek(start)
        assert file.read(size) == whole[start : start + size]


def test_webdataset_reads_it_through_a_pipe_and_datasets_what_is_materialised(
    pair: tuple[Cut, Cut], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, shared = pair
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = f"{sys.executable} -m builder.cli cat {shared.folder} "
    plain = list(webdataset.WebDataset(sorted(map(str, inside.data.glob("*.tar"))), shardshuffle=False))
    numbers = [f"pipe:{command}{n}" for n in range(len(shared.manifest.shards))]
    piped = list(webdataset.WebDataset(numbers, shardshuffle=False))
    hidden = ("__url__", "__local_path__")
    assert [{k: v for k, v in s.items() if k not in hidden} for s in piped] == [
        {k: v for k, v in s.items() if k not in hidden} for s in plain
    ]
    if inside.manifest.kind == "detection":
        materialize(opened(shared), tmp_path / "out")
        theirs, ours = (
            load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
            for folder in (inside.folder, tmp_path / "out")
        )
        assert len(ours) == len(theirs) and [row["json"] for row in ours] == [row["json"] for row in theirs]
        # cut at the end of a sample it is no shorter set
        tar = ImageTars(shared.folder.parents[2]).path(shared.manifest.shards[0].images[0].name)
        data = tar.read_bytes()
        tar.write_bytes(data[:600] + bytes([data[600] ^ 1]) + data[601:])
        try:
            with pytest.raises((OSError, tarfile.ReadError)):  # of the exit status, or of the end, whichever is seen
                list(webdataset.WebDataset(numbers, shardshuffle=False))
        finally:
            tar.write_bytes(data)


def read_whole(data: bytes) -> int:
    """Members that a reader of streams finds. Raises tarfile.ReadError."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
        return sum(tar.extractfile(member).read() != b"" for member in tar)  # type: ignore[union-attr]


def test_a_pipe_that_ends_early_is_no_shorter_set(pair: tuple[Cut, Cut]) -> None:
    for side in map(opened, pair):
        record = side.manifest.shards[0]
        pieces = list(for_a_pipe(tar_of(side, record)))
        whole = b"".join(pieces)
        assert whole == (pair[0].data / record.name).read_bytes()
        assert read_whole(whole) == record.samples * len(side.manifest.features)
        place = 0
        for piece in pieces:  # what a pipe holds when the writer is killed: small ones whole, of a large one some pages
            for end in range(place, place + len(piece), select.PIPE_BUF):
                with pytest.raises(tarfile.ReadError):
                    read_whole(whole[:end])
            place += len(piece)
        with pytest.raises(tarfile.ReadError):
            read_whole(b"".join(pieces[:-1]))


def test_empty_members_go_through_a_pipe(tmp_path: Path) -> None:
    contents = [b"", b"1", b"22", b"3" * 512, b"4" * 513]
    write_shard(tmp_path / "x.tar", [(f"k{n}", [("jpg", data)]) for n, data in enumerate(contents)])
    pieces = list(for_a_pipe(plain_tar(read_samples(tmp_path / "x.tar"))))
    assert b"".join(pieces) == (tmp_path / "x.tar").read_bytes()


# ---------------------------------------------------------------- one store, many versions


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return sharing_store(tmp_path)


def tars_of(store: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((store / "images").glob("*/*.tar"))}


def test_a_second_threshold_writes_no_image(store: Path, tmp_path: Path) -> None:
    one, two = (read_manifest(store / f"datasets/pets/v{n}") for n in (1, 2))
    assert one.id != two.id and [s.images for s in one.shards] == [s.images for s in two.shards]
    tars = tars_of(store)
    assert len(tars) == 3  # a chunk each
    run("build", tmp_path / "recipe.yaml", "--set", "images.drop_empty=true", "--no-report", store=store)
    assert tars_of(store) == tars and read_manifest(store / "datasets/pets/v3").samples == 6
    run("verify", "pets@v3", store=store)
    # as it was, but with its images inside: another version with the same id
    run("build", tmp_path / "recipe.yaml", "--set", "shards.images=inside", "--no-report", store=store)
    inside = read_manifest(store / "datasets/pets/v4")
    assert not inside.is_shared and inside.format == 2


def test_gc_leaves_what_a_version_needs(store: Path) -> None:
    run("gc", store=store)
    tars = tars_of(store)
    run("rm", "pets@v1", store=store)
    run("gc", store=store)
    assert tars_of(store) == tars
    run("rm", "pets@v2", store=store)
    said = run("gc", store=store).output
    assert "images" in said and tars_of(store) == {} and not list((store / "images").glob("*/*.json"))


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "said", "labels"])
def test_what_is_damaged_is_told_and_mended(store: Path, damage: str) -> None:
    version = store / "datasets/pets/v1"
    whole = tree(store)
    tar = sorted((store / "images").glob("*/*.tar"))[0]
    path = {"said": tar.with_suffix(".json"), "labels": version / "data/train-000000.labels.tar"}.get(damage, tar)
    data = path.read_bytes()
    place = min(700, len(data) // 2)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            data[:-1024] if damage == "cut" else data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        )
    made = Version.open(version)
    with pytest.raises(BuildError):
        list(chain.from_iterable(tar_of(made, record) for record in made.manifest.shards))
    faults = problems(made)
    assert faults and bad_shards(faults)
    repair(made, Store(store), bad_shards(faults))
    assert problems(Version.open(version)) == []
    assert tree(store / "images") == tree_below(whole, "images/") and path.read_bytes() == data


def tree_below(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {name.removeprefix(folder): data for name, data in files.items() if name.startswith(folder)}


def test_a_removed_image_stays_for_those_who_skip_it(store: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    sorted(pool.iterdir())[5].unlink()
    write_images(pool, 2, start=10)
    tars = tars_of(store)
    recipe = write_recipe(tmp_path, shards={"images": "shared", "max_images": 4}, parent="pets@v1")
    run("build", recipe, "--no-report", store=store)
    child = Version.open(store / "datasets/pets/v3")
    assert problems(child) == [] and set(tars) < set(tars_of(store)) and len(child.manifest.tombstones) == 1
    taken, first = child.manifest.shards[1], read_manifest(store / "datasets/pets/v1").shards[1]
    assert taken.labels == first.labels and taken.images == first.images
    run("materialize", child.folder, tmp_path / "out", store=store)
    keys = [s.key for p in sorted((tmp_path / "out/data").glob("*.tar")) for s in read_samples(p)]
    assert len(keys) == child.manifest.stored == 12 and set(child.manifest.tombstones) < set(keys)


def test_an_image_that_changed_on_disk_is_left_out_and_found_later(tmp_path: Path) -> None:
    write_results(tmp_path, write_images(tmp_path / "pool", 6), empty=0)
    recipe = write_recipe(tmp_path, shards={"images": "shared"})
    path = sorted((tmp_path / "pool").iterdir())[2]
    run("build", recipe, "--no-report", store=tmp_path / "first")
    pool = read_pool(
        Store(tmp_path / "first"), read_manifest(tmp_path / "first/datasets/pets/v1").provenance.inputs.pool
    )
    status, data = path.stat(), path.read_bytes()
    shutil.rmtree(tmp_path / "first/datasets")
    shutil.rmtree(tmp_path / "first/images")
    path.write_bytes(data[:-2] + b"\0\0")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    run("build", recipe, "--no-report", "--set", "max_failure_rate=0.5", store=tmp_path / "first")
    assert read_manifest(tmp_path / "first/datasets/pets/v2").images["changed"] == 1 and len(pool) == 6
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    run("build", recipe, "--no-report", store=tmp_path / "first")
    mended = Version.open(tmp_path / "first/datasets/pets/v3")
    assert mended.manifest.samples == 6 and problems(mended) == []


def test_a_version_without_its_store_and_a_wrong_shard_are_told(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store / "datasets/pets/v1", tmp_path / "copy")
    assert "lies in no store" in run("cat", tmp_path / "copy", 0, store=store, code=1).output
    assert (
        "has no shard 9: it has train-000000.tar to train-000002.tar"
        in run("cat", "pets@v1", 9, store=store, code=1).output
    )
    made = Version.open(store / "datasets/pets/v1")
    with pytest.raises(BuildError, match="holds labels only: run `tutelage materialize pets@v1 DIR`"):
        made.shard(made.manifest.shards[0])


@pytest.mark.parametrize("kind", ["detection", "instance", "classification"])
def test_corrections_give_the_same_where_it_was_pulled_to(tmp_path: Path, kind: str) -> None:
    first = built(tmp_path / "home", kind, mixed=True, shards={"images": "shared", "max_images": 5})
    home, away = Store(tmp_path / "home" / "store"), Store(tmp_path / "away")
    materialize(opened(first), away.datasets / "pets" / "v1")
    here, there = opened(first), away.version("pets@v1")
    assert not there.manifest.is_shared
    for seed in (1, 2):
        said = corrections(here, seed)
        here, there = (opened(corrected(side, store, said)) for side, store in ((here, home), (there, away)))
        assert said and here.manifest.is_shared and there.manifest.is_shared and here.manifest.id == there.manifest.id
        assert problems(here) == [] == problems(there)
        for name in ("labels.parquet", "overrides.json", "index.parquet"):
            assert here.manifest.files[name] == there.manifest.files[name]
    for store in (home, away):  # each tar serves all versions, and none is there for nothing
        folders = store.versions("pets")
        used = {tar.name for folder in folders for shard in read_manifest(folder).shards for tar in shard.images}
        assert {path.stem for path in (store.root / "images").glob("*/*.tar")} == used
        chunks = (here.manifest.provenance.plan or [(0, 0)])[-1][1]
        assert len(used) <= chunks


def test_students_learn_the_same_of_both(pair: tuple[Cut, Cut]) -> None:
    inside, shared = (
        Pseudo([opened(made)], made.manifest.classes, task_of(ARCHS[made.manifest.kind])) for made in pair
    )
    assert len(inside) == len(shared) == pair[0].manifest.samples
    for number in range(len(inside)):
        ours, theirs = inside[number], shared[number]
        assert np.array_equal(ours.pixels, theirs.pixels) and inside.record(number) == shared.record(number)
