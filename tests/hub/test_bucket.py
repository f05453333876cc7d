"""Versions in an S3 server, through a line that fails: published, pulled, read where they lie, trained on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.buckets.files import fetch, read_range
from builder.buckets.upload import upload
from builder.errors import BuildError
from builder.hub.publish import publish
from builder.hub.pull import pull
from builder.hub.remote import open_version
from builder.store.manifest import MANIFEST, read_manifest
from builder.store.shared.materialize import materialize
from builder.store.store import Store
from builder.versions.diff import diff
from students.train.loop import train
from tests.helpers.pools import CLASSES, tree, write_images, write_recipe, write_results
from tests.helpers.s3 import BUCKET, S3, Fault, running_s3
from tests.helpers.sharing import run
from tests.helpers.training import make_recipe

ROOT = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with running_s3() as server:
        yield server


@pytest.fixture(scope="module")
def world(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images in a folder and, the same, in the bucket; of each a store in which they are labelled and cut at two
    thresholds: `here` with the images inside, `there`, through faults, with shared ones."""
    folder = tmp_path_factory.mktemp("world")
    names = write_images(folder / "pool", 10)
    s3.put_folder(folder / "pool", "pool")
    write_results(folder, names, empty=2)
    s3.faults[:] = [
        Fault("GET .*list-type", status=503),
        Fault("GET .*image_00003", status=500, times=2),
        Fault("GET .*image_00004", cut=50, skip=1),
        Fault("GET .*image_00005", wait=0.2),
    ]
    for name, source, images in (("here", "pool", "inside"), ("there", f"{ROOT}/pool", "shared")):
        recipe = write_recipe(folder, pool={"source": source, "chunk": 4}, shards={"images": images, "max_images": 4})
        for score in (0.5, 0.8):
            run("build", recipe, "--set", f"keep.score={score}", "--no-report", store=folder / name)
    assert not any(fault.times for fault in s3.faults)
    return folder


def published(world: Path, s3: S3, *more: str) -> str:
    s3.asked("")
    return run("publish", "pets@v1", f"{ROOT}/shelf", *more, store=world / "there").output


def test_a_pool_in_a_bucket_gives_the_version_of_the_same_files_in_a_folder(world: Path) -> None:
    for number in ("v1", "v2"):
        manifests = [read_manifest(world / store / "datasets/pets" / number) for store in ("here", "there")]
        assert manifests[0].id == manifests[1].id
        assert [shard.contents for shard in manifests[0].shards] == [shard.contents for shard in manifests[1].shards]


def test_the_round_trip_through_faults(world: Path, s3: S3, tmp_path: Path) -> None:
    s3.faults[:] = [
        Fault("PUT .*train-000001", status=503, times=2),
        Fault("PUT .*labels.parquet", die=True),
        Fault("PUT .*train-000000", cut=0),
        Fault("HEAD .*train-000002", status=500, skip=1),
        Fault("PUT .*manifest.json", cut=0),  # it was written, but who wrote it does not hear of it
    ]
    assert "would be sent" in published(world, s3, "--dry-run")
    assert not s3.keys("shelf")
    assert "published as s3://photos/shelf/pets@v1" in published(world, s3)
    asked = [path.rpartition("/")[2] for _, path, *_ in s3.asked("PUT")]
    assert asked[-1] == MANIFEST
    assert not any(fault.times for fault in s3.faults)
    lying = {key.removeprefix("shelf/pets/v1/"): data for key, data in s3.keys("shelf").items()}
    run("materialize", "pets@v1", tmp_path / "plain", store=world / "there")
    assert lying == tree(tmp_path / "plain")
    inside = tree(world / "here/datasets/pets/v1")
    assert all(lying[name] == inside[name] for name in lying if name.startswith("data/"))

    assert "nothing to do" in published(world, s3)
    assert not s3.asked("PUT|POST")

    s3.faults[:] = [
        Fault("GET .*train-000000", cut=700),
        Fault("GET .*train-000001", status=503),
        Fault("GET .*manifest.json", wait=0.1),
    ]
    ref, store = f"{ROOT}/shelf/pets@v1", Store(tmp_path / "store")
    assert "pets@v1" in run("pull", ref, store=store.root).output
    run("verify", "pets@v1", store=store.root)
    assert store.version("pets@v1").manifest.id == read_manifest(world / "here/datasets/pets/v1").id
    assert pull(f"{ROOT}//shelf/pets/", store).state == "there"  # the newest
    assert not any(fault.times for fault in s3.faults)


def test_a_version_is_read_where_it_lies(world: Path, s3: S3, tmp_path: Path) -> None:
    published(world, s3)
    store = Store(world / "there")
    remote, local = open_version(f"{ROOT}/shelf/pets", store), store.version("pets@v1")
    assert remote.ref == f"{ROOT}/shelf/pets@v1"
    for (_, far), (_, near) in zip(remote.shards(), local.shards(), strict=True):
        for one, other in zip(far, near, strict=True):
            assert one.key == other.key
            assert [m.read() for m in one.members.values()] == [m.read() for m in other.members.values()]
    assert diff(remote, local).empty
    for command in (["diff", remote.ref, "pets@v2"], ["show", remote.ref], ["explain", remote.ref, far_key(remote)]):
        run(*command, store=store.root)
    run("export", remote.ref, tmp_path / "coco", "--format", "coco", store=store.root)
    assert "tutelage pull" in run("verify", remote.ref, store=store.root, code=1).output


def far_key(version: object) -> str:
    _, samples = next(version.shards())  # type: ignore[attr-defined]
    return next(samples).key


def test_training_on_it(world: Path, s3: S3, tmp_path: Path) -> None:
    published(world, s3)
    names = write_images(tmp_path, 4, start=70)
    images = [{"id": n, "file_name": name, "width": 64, "height": 48} for n, name in enumerate(names)]
    notes = [
        {"id": n, "image_id": n, "category_id": n % 3, "bbox": [8, 8, 20, 20], "area": 400, "iscrowd": 0}
        for n in range(4)
    ]
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES)]
    (tmp_path / "truth.json").write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    s3.faults[:] = [Fault("GET .*train-", status=503), Fault("GET .*train-", cut=200, skip=1)]
    recipe = make_recipe(tmp_path / "truth.json", pseudo=(f"{ROOT}/shelf/pets@v1",), steps=1, save_every=1, workers=1)
    train(recipe, tmp_path / "run", Store(tmp_path / "store"))
    assert (tmp_path / "run/meta.json").is_file()


def test_a_forked_process_reads_too(world: Path, s3: S3) -> None:
    uri = f"{ROOT}/pool/image_00000.jpg"
    data = read_range(uri, 0, 1 << 20)
    child = os.fork()
    if not child:
        os._exit(0 if read_range(uri, 0, 1 << 20) == data else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_range(uri, 0, 1 << 20) == data


def test_an_interrupted_upload_is_no_version_and_goes_on(world: Path, s3: S3) -> None:
    version = Store(world / "here").version("pets@v2")
    address = f"{ROOT}/half"
    s3.faults[:] = [Fault("PUT .*left_out|PUT .*README", status=403, times=9)]
    with pytest.raises(BuildError, match=r"cannot be written \(403"):
        publish(version, address)
    s3.faults[:] = []
    there = s3.keys("half")
    assert there
    assert not any(key.endswith(MANIFEST) for key in there)
    with pytest.raises(BuildError, match="is no version"):
        open_version(f"{address}/pets@v2", Store(world / "here"))
    with pytest.raises(BuildError, match="holds no version"):
        open_version(f"{address}/pets", Store(world / "here"))
    s3.put("half/pets/v2/data/train-000000.tar", b"of somebody else")
    done = publish(version, address)
    assert done.state == "published"
    assert "data/train-000000.tar" in done.sent
    assert len(done.sent) + done.unchanged == len(version.manifest.files) + len(version.manifest.shards) + 1
    assert done.unchanged
    assert (
        s3.keys("half")["half/pets/v2/data/train-000000.tar"] == version.shard(version.manifest.shards[0]).read_bytes()
    )


@pytest.mark.parametrize(
    ("version", "address", "words"),
    [
        ("pets@v1", f"{ROOT}/taken", "holds another version already"),
        ("pets@v1", f"{ROOT}/strange", r"holds note\.txt, and is to hold a version alone"),
        ("pets@v1", f"{ROOT}/shelf@v1", "names a version"),
        ("pets@v1", "s3://no-such-bucket/a", "there is no bucket no-such-bucket"),
        ("pets@v1", "https://host/a", "nothing is written to https://"),
        ("pets@v1", f"s3://key:secretword@{BUCKET}/a", "holds a user or password"),
    ],
)  # fmt: skip
def test_what_is_not_published(version: str, address: str, words: str, world: Path, s3: S3) -> None:
    s3.put("taken/pets/v1/manifest.json", b"{}")
    s3.put("strange/pets/v1/note.txt", b"mine")
    with pytest.raises(BuildError, match=words) as raised:
        publish(Store(world / "there").version(version), address)
    assert "secretword" not in str(raised.value)


def test_materialize_to_an_address(world: Path, s3: S3, tmp_path: Path) -> None:
    version = Store(world / "there").version("pets@v2")
    run("materialize", "pets@v2", f"{ROOT}/plain/tars/", store=world / "there")
    run("materialize", "pets@v2", tmp_path / "plain", store=world / "there")
    assert {key.removeprefix("plain/tars/"): data for key, data in s3.keys("plain").items()} == tree(tmp_path / "plain")
    s3.asked("")
    materialize(version, f"{ROOT}//plain//tars")
    assert not s3.asked("PUT|POST")
    s3.put("plain2/tars/note.txt", b"mine")
    with pytest.raises(BuildError, match="to hold a version alone"):
        materialize(version, f"{ROOT}//plain2//tars")


def test_a_pulled_file_that_is_another_one_is_not_taken(world: Path, s3: S3, tmp_path: Path) -> None:
    publish(Store(world / "here").version("pets@v1"), f"{ROOT}/bad")
    data = s3.keys("bad")["bad/pets/v1/data/train-000000.tar"]
    s3.put("bad/pets/v1/data/train-000000.tar", data[:600] + b"?" + data[601:])
    store = Store(tmp_path)
    with pytest.raises(BuildError, match="is not the file of its manifest"):
        pull(f"{ROOT}/bad/pets@v1", store)
    assert not store.versions("pets")
    s3.put("bad/pets/v1/data/train-000000.tar", data + b"?")
    with pytest.raises(BuildError, match="more than its manifest says"):
        pull(f"{ROOT}/bad/pets@v1", store)
    for ref in (f"{ROOT}/bad/pets@v9", f"{ROOT}/bad/pets@best", f"{ROOT}/nothing/pets"):
        with pytest.raises(BuildError, match="version"):
            pull(ref, store)


def test_a_large_file_goes_in_parts_of_which_one_alone_is_sent_again(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.buckets.upload.PART", 5 << 20)
    data = os.urandom(11 << 20)
    pieces = [data[place : place + (1 << 20)] for place in range(0, len(data), 1 << 20)]
    s3.faults[:] = [Fault("PUT .*partNumber=2", status=503)]
    s3.asked("")
    sha256 = hashlib.sha256(data).hexdigest()
    assert upload(lambda: pieces, f"{ROOT}/large.bin", len(data), sha256)
    assert len(s3.asked("PUT .*partNumber")) == 4
    assert not upload(lambda: pieces, f"{ROOT}/large.bin", len(data), sha256)
    assert b"".join(fetch(f"{ROOT}/large.bin", len(data))) == data
    with pytest.raises(BuildError, match="changed while it was sent"):
        upload(lambda: pieces[1:], f"{ROOT}/other.bin", len(data), sha256)
    assert not s3.keys("other")
