"""The main job on small real pools: what other tools read back, what is not done twice, and what bad input gets."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import pytest
import webdataset
from click.testing import CliRunner, Result
from datasets import load_dataset
from PIL import Image, ImageOps

from builder.cli.main import main
from builder.store.manifest import read_manifest
from builder.store.shards import read_samples
from builder.truth.coco import read_coco
from students.evaluate.coco import read_kept
from tests.helpers.pools import CLASSES, tree, write_images, write_recipe, write_results


def run(*arguments: object, store: Path) -> Result:
    quick = ["--no-report"] if arguments[0] == "build" else []
    return CliRunner().invoke(main, [*map(str, arguments), *quick, "--store", str(store)])


def run_json(*arguments: object, store: Path) -> dict[str, Any]:
    result = run(*arguments, "--json", store=store)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def make_pool(folder: Path, count: int = 24, empty: int = 10) -> Path:
    """A pool of `count` images, the first `empty` without objects, its results and recipe."""
    write_results(folder, write_images(folder / "pool", count), empty=empty)
    return write_recipe(folder)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built version of 24 images, the first ten empty; two shards."""
    folder = tmp_path_factory.mktemp("built")
    recipe = make_pool(folder)
    result = run(
        "build", recipe, "--set", "pool.chunk=12", "--set", "shards.max_mb=1", "--workers", 1, store=folder / "store"
    )
    assert result.exit_code == 0, result.output
    return folder


def by_hand(folder: Path) -> dict[str, list[tuple[int, float, bool]]]:
    """(class position, score, ignored) of each image, straight from the COCO results by the recipe's rule."""
    listing = json.loads((folder / "listing.json").read_text())
    names = {i["id"]: i["file_name"] for i in listing["images"]}
    label = {c["id"]: n for n, c in enumerate(listing["categories"])}
    found: dict[str, list[tuple[int, float, bool]]] = {name: [] for name in names.values()}
    for r in json.loads((folder / "results.json").read_text()):
        if r["score"] >= 0.3:
            found[names[r["image_id"]]].append((label[r["category_id"]], r["score"], r["score"] < 0.5))
    return {name: sorted(rows, key=lambda r: -r[1]) for name, rows in found.items()}


def test_webdataset_and_datasets_read_what_the_results_say(built: Path) -> None:
    version = built / "store" / "datasets" / "pets" / "v1"
    expected = by_hand(built)
    assert sum(map(len, list(expected.values())[:10])) == 0 < sum(map(len, expected.values()))
    tars = sorted(str(p) for p in (version / "data").glob("*.tar"))
    ours = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    theirs = load_dataset(str(version), split="train", cache_dir=str(built / "cache"))
    assert len(ours) == len(theirs) == 24
    assert theirs.features["json"]["objects"]["category"].feature.names == list(CLASSES)
    for sample, row in zip(ours, theirs, strict=True):
        label = sample["json"]
        objects = label["objects"]
        rows = list(zip(objects["category"], objects["score"], objects["ignore"], strict=True))
        assert [(c, i) for c, _, i in rows] == [(c, i) for c, _, i in expected[label["name"]]]
        assert np.allclose([s for _, s, _ in rows], [s for _, s, _ in expected[label["name"]]])
        assert row["__key__"] == sample["__key__"] == label["key"]
        assert {k: v for k, v in row["json"].items() if k != "objects"} == {
            k: v for k, v in label.items() if k != "objects"
        }
        assert row["json"]["objects"].pop("source") == objects["source"] == ["teacher"] * len(rows)
        for name, values in row["json"]["objects"].items():
            assert np.allclose(np.array(values, float), np.array(objects[name], float), rtol=1e-6)
        assert np.array_equal(
            np.asarray(row["jpg"].convert("RGB")),
            (np.asarray(sample["jpg"]) * (255 if sample["jpg"].__class__ is np.ndarray else 1)),
        )


def test_what_a_version_keeps_can_be_measured_against_labels(built: Path) -> None:
    truth = read_coco(built / "listing.json", built / "pool")
    kept = read_kept(built / "store" / "datasets" / "pets" / "v1", truth)
    expected = by_hand(built)
    for image, found in zip(truth.images, kept, strict=True):
        rows = [(category, score) for category, score, ignored in expected[image.name] if not ignored]
        assert found.labels.tolist() == [category for category, _ in rows]
        assert np.allclose(found.scores, [score for _, score in rows])


def test_labels_parquet_tells_every_raw_object_and_anyone_can_query_it(built: Path) -> None:
    version = built / "store" / "datasets" / "pets" / "v1"
    manifest = read_manifest(version)
    raw = json.loads((built / "results.json").read_text())
    above_floor = [r for r in raw if r["score"] >= 0.05]
    told = duckdb.sql(f"SELECT reason, count(*) FROM '{version}/labels.parquet' GROUP BY 1").fetchall()
    assert dict(told) == {reason: n for reason, n in manifest.objects.items() if n and reason != "predicted"}
    assert sum(n for _, n in told) == len(above_floor) == manifest.objects["predicted"]
    assert manifest.kept == sum(r["score"] >= 0.5 for r in raw)
    assert sum(c["kept"] for c in manifest.per_class.values()) == manifest.kept


def mixed_pool(folder: Path) -> list[str]:
    """JPEG, PNG, greyscale, rotated and lossless WebP images, the first ten without objects."""
    names = write_images(folder / "pool", 12)
    extra = [
        ("grey.png", "L", {}),
        ("turned.jpg", "RGB", {"quality": 95}),
        ("turned.png", "RGB", {}),
        ("alpha.webp", "RGBA", {"lossless": True}),
    ]
    for n, (name, mode, options) in enumerate(extra):
        pixels = np.random.default_rng(100 + n).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST).convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(folder / "pool" / name, **options, **({"exif": exif} if "turned" in name else {}))
        names.append(name)
    return names


def test_a_mixed_pool_becomes_one_format_upright(tmp_path: Path) -> None:
    write_results(tmp_path, mixed_pool(tmp_path), empty=10)
    value = run_json("build", write_recipe(tmp_path), "--workers", 1, store=tmp_path / "store")
    version = Path(value["path"])
    assert read_manifest(version).features == ["jpg", "json"]
    rows = {
        row["json"]["name"]: row for row in load_dataset(str(version), split="train", cache_dir=str(tmp_path / "cache"))
    }
    tars = [str(p) for p in sorted((version / "data").glob("*.tar"))]
    samples = {s["json"]["name"]: s for s in webdataset.WebDataset(tars, shardshuffle=False).decode()}
    assert len(rows) == len(samples) == 16
    kinds = {"grey.png": "format", "turned.jpg": "upright", "turned.png": "format", "alpha.webp": "format"}
    for name, row in rows.items():
        label, original = row["json"], tmp_path / "pool" / name
        assert label["reencoded"] == kinds.get(name, "none")
        stored = samples[name]["jpg"] if isinstance(samples[name]["jpg"], bytes) else None
        with Image.open(original) as image:
            upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
        shown = np.asarray(row["jpg"].convert("RGB")).astype(int)
        assert shown.shape == upright.shape == (label["height"], label["width"], 3)
        assert np.abs(shown - upright).mean() < (4 if label["reencoded"] != "none" else 1e-9), name
        assert stored is None or label["reencoded"] != "none" or stored == original.read_bytes()
    assert run("verify", "pets", store=tmp_path / "store").exit_code == 0


def test_image_bytes_of_one_format_travel_as_they_came(built: Path) -> None:
    version = built / "store" / "datasets" / "pets" / "v1"
    for path in sorted((version / "data").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    name = orjson.loads(tar.extractfile(member.name[:-3] + "json").read())["name"]  # type: ignore[union-attr]
                    assert tar.extractfile(member).read() == (built / "pool" / name).read_bytes()  # type: ignore[union-attr]


def test_workers_change_no_byte(tmp_path: Path) -> None:
    recipe = make_pool(tmp_path, 40)
    options = ["--set", "shards.max_mb=1", "--set", "keep.nms=0.5", "--set", "keep.where=area > 30"]
    for workers in (1, 4):
        result = run("build", recipe, *options, "--workers", workers, store=tmp_path / f"store{workers}")
        assert result.exit_code == 0, result.output
    one, four = tree(tmp_path / "store1"), tree(tmp_path / "store4")
    assert one == four and sum(name.endswith(".tar") for name in one) >= 1


def test_several_shards_and_workers_give_the_same_bytes(tmp_path: Path) -> None:
    names = write_images(tmp_path / "pool", 32, size=(512, 384), suffix=".bmp")  # 590 kB each: several shards of 1 MB
    write_results(tmp_path, names, size=(512, 384))
    recipe = write_recipe(tmp_path, pool={"source": "pool", "chunk": 2}, shards={"max_mb": 4})
    for workers in (1, 4):
        assert run("build", recipe, "--workers", workers, store=tmp_path / f"store{workers}").exit_code == 0
    one, four = tree(tmp_path / "store1"), tree(tmp_path / "store4")
    assert one == four and sum(name.endswith(".tar") for name in one) == 6


def test_a_second_run_does_nothing_and_new_rules_never_call_the_teacher(tmp_path: Path) -> None:
    recipe, store = make_pool(tmp_path), tmp_path / "store"
    first = run_json("build", recipe, store=store)
    assert (first["images_labelled"], first["version"]) == (24, "pets@v1")
    before = tree(store)
    again = run("build", recipe, store=store)
    assert "nothing to do" in again.output and "none labelled now" in again.output
    assert tree(store) == before
    stricter = run_json("build", recipe, "--set", "keep.score=0.9", store=store)
    assert (stricter["images_labelled"], stricter["version"]) == (0, "pets@v2")
    assert stricter["kept"] < first["kept"]
    assert run_json("build", recipe, store=store)["version"] == "pets@v1"
    assert run_json("build", recipe, "--set", "keep.score=0.8", "--only", "cut", store=store)["version"] == "pets@v3"


def test_new_images_are_labelled_alone_and_old_shards_stay(tmp_path: Path) -> None:
    write_results(tmp_path, [f"image_{n:05d}.jpg" for n in range(26)])
    write_images(tmp_path / "pool", 24)
    recipe, store = (
        write_recipe(tmp_path, pool={"source": "pool", "chunk": 24}, shards={"max_mb": 1}),
        tmp_path / "store",
    )
    run_json("build", recipe, store=store)
    write_images(tmp_path / "pool", 2, start=24)
    grown = run_json("build", recipe, store=store)
    assert (grown["images_labelled"], grown["version"], grown["samples"]) == (2, "pets@v2", 26)
    (tmp_path / "pool" / "image_00003.jpg").unlink()
    fewer = run_json("build", recipe, "--set", "teacher.floor=0.1", store=store)  # another teacher to the store
    assert (fewer["images_labelled"], fewer["samples"]) == (25, 25)


def test_drop_empty_leaves_out_images_and_counts_them(tmp_path: Path) -> None:
    value = run_json("build", make_pool(tmp_path), "--set", "images.drop_empty=true", store=tmp_path / "store")
    expected = sum(any(not ignored for _, _, ignored in rows) for rows in by_hand(tmp_path).values())
    assert value["samples"] == expected < 24
    assert value["image_states"]["empty"] == 24 - expected
    assert run("verify", "pets", store=tmp_path / "store").exit_code == 0


def test_unreadable_images_are_counted_and_too_many_fail_the_run_but_keep_its_work(tmp_path: Path) -> None:
    recipe, store = make_pool(tmp_path), tmp_path / "store"
    photo = (tmp_path / "pool" / "image_00003.jpg").read_bytes()
    (tmp_path / "pool" / "image_00003.jpg").write_bytes(photo[: len(photo) // 2])
    failed = run("build", recipe, store=store)
    assert failed.exit_code == 1 and "1 of 24 images cannot be read (4.2%, allowed 1.0%)" in failed.output, (
        failed.output
    )
    done = run_json("build", recipe, "--max-failure-rate", 0.1, store=store)
    assert (done["images_labelled"], done["samples"], done["image_states"]["unreadable"]) == (0, 23, 1)
    assert "unreadable   1" in run("show", done["predictions"][:8], store=store).output


def test_what_is_mended_makes_a_new_version(tmp_path: Path) -> None:
    recipe, store = make_pool(tmp_path), tmp_path / "store"
    victim = tmp_path / "pool" / "image_00003.jpg"
    photo = victim.read_bytes()
    run_json("scan", tmp_path / "pool", store=store)
    victim.unlink()
    victim.symlink_to(tmp_path / "nowhere")  # unreadable now, but in the chunk it was scanned into
    options = ["--max-failure-rate", 0.1]
    assert run_json("build", recipe, *options, store=store)["samples"] == 23
    victim.unlink()
    victim.write_bytes(photo)
    mended = run_json("build", recipe, *options, "--retry-failures", store=store)
    assert (mended["samples"], mended["version"], mended["failures"]) == (24, "pets@v2", [])


def test_a_deleted_image_is_no_failure(tmp_path: Path) -> None:
    recipe, store = make_pool(tmp_path), tmp_path / "store"
    bad = tmp_path / "pool" / "bad.jpg"
    bad.write_text("junk")
    failed = run("build", recipe, store=store)
    assert failed.exit_code == 1 and "bad.jpg: not an image" in failed.output
    bad.unlink()
    assert run_json("build", recipe, store=store)["samples"] == 24


def test_bytes_swapped_behind_our_back_are_left_out(tmp_path: Path) -> None:
    """Same size, same time: make and rsync would trust them; a cut hashes what it copies."""
    write_results(tmp_path, write_images(tmp_path / "pool", 3, suffix=".bmp"))
    recipe, store = write_recipe(tmp_path), tmp_path / "store"
    first, second = (tmp_path / "pool" / f"image_0000{n}.bmp" for n in (0, 1))
    run_json("build", recipe, "--only", "label", store=store)
    times = first.stat()
    first.write_bytes(second.read_bytes())
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run("build", recipe, store=store).exit_code == 0
    assert "1 changed" in run("show", "pets", store=store).output
    assert run("verify", "pets", store=store).exit_code == 0


def test_class_names_of_any_kind_travel(tmp_path: Path) -> None:
    recipe, store = make_pool(tmp_path), tmp_path / "store"
    listing = json.loads((tmp_path / "listing.json").read_text())
    names = ["[/red]a|b", 'quo"te: #', "日本 语"]
    for category, name in zip(listing["categories"], names, strict=True):
        category["name"] = name
    (tmp_path / "listing.json").write_text(json.dumps(listing))
    value = run_json("build", recipe, store=store)
    shown = run("show", "pets", store=store)
    assert shown.exit_code == 0 and "[/red]a|b" in shown.output
    rows = load_dataset(value["path"], split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.features["json"]["objects"]["category"].feature.names == names
    card = (Path(value["path"]) / "README.md").read_text()
    assert "| [/red]a\\|b |" in card  # a bar in a name must not end the table's cell


DAMAGES = [
    (
        "a shard cut at a member boundary",
        lambda v: shard(v).write_bytes(shard(v).read_bytes()[: boundary(shard(v))]),
        "bytes, the manifest says",
    ),
    ("a flipped bit", lambda v: flip(shard(v), 600), "SHA-256 is not"),
    ("a shard gone", lambda v: shard(v).unlink(), "missing"),
    ("a shard too many", lambda v: shutil.copy(shard(v), v / "data" / "train-000009.tar"), "not in the manifest"),
    ("another labels.parquet", lambda v: flip(v / "labels.parquet", 100), "labels.parquet"),
    (
        "an edited manifest",
        lambda v: (v / "manifest.json").write_text((v / "manifest.json").read_text().replace("cat", "cow")),
        "is not what its digest says",
    ),
    ("no manifest", lambda v: (v / "manifest.json").unlink(), "no version"),
]


def shard(version: Path) -> Path:
    return sorted((version / "data").glob("train-*.tar"))[0]


def boundary(tar: Path) -> int:
    last = list(read_samples(tar))[-1]
    return min(m.offset for m in last.members.values()) - 512


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(("what", "damage", "told"), DAMAGES, ids=[d[0] for d in DAMAGES])
def test_verify_says_what_is_wrong(built: Path, tmp_path: Path, what: str, damage: Any, told: str) -> None:
    shutil.copytree(built / "store", tmp_path / "store")
    assert run("verify", "pets", "--workers", 1, store=tmp_path / "store").exit_code == 0
    damage(tmp_path / "store" / "datasets" / "pets" / "v1")
    result = run("verify", "pets", "--workers", 1, store=tmp_path / "store")
    assert result.exit_code == 1 and told in result.output, result.output
    assert "Traceback" not in result.output


ERRORS = [
    (["--set", "keep.scroe=0.5"], "unknown key 'keep.scroe'"),
    (["--set", "keep.score=1.5"], "keep.score"),
    (["--set", "teacher.flor=0.1"], "unknown key 'teacher.flor'"),
    (["--set", "teacher.floor=7"], "between 0 and 1"),
    (["--set", "keep.score={cat: 0.5, cow: 0.5}"], "'cow', which the teacher does not know"),
    (["--set", "keep.where=area >"], "no SQL expression"),
    (["--set", "name=../x"], "name = '../x'"),
    (["--set", "pool.source=nowhere"], "does not exist"),
    (["--set", "teacher.spec=onnx:none.onnx", "--set", "teacher.images=null"], "none.onnx"),
    (["--set", "teacher.spec=magic:x", "--set", "teacher.images=null"], "unknown teacher 'magic:x'"),
    (["--set", "teacher.images=none.json"], "none.json"),
    (["--set", "keep.score=0.01"], "below the floor"),
    (["--set", "nonsense"], "KEY=VALUE"),
    (["--only", "cut"], "not labelled yet"),
]


@pytest.mark.parametrize(("arguments", "told"), ERRORS, ids=[" ".join(e[0]) for e in ERRORS])
def test_bad_input_gets_one_sentence_and_leaves_no_version(tmp_path: Path, arguments: list[str], told: str) -> None:
    result = run("build", make_pool(tmp_path, 3, 0), *arguments, store=tmp_path / "store")
    assert result.exit_code == 1
    assert told in result.output, result.output
    assert len(result.output.strip().splitlines()) == 1 and "Traceback" not in result.output
    assert not list((tmp_path / "store").rglob("manifest.json"))
    assert not [p for p in (tmp_path / "store").rglob("*") if ".tmp-" in p.name]


def test_wrong_usage_exits_2(tmp_path: Path) -> None:
    assert run("build", store=tmp_path).exit_code == 2
    assert run("scan", tmp_path, "--limit", 0, store=tmp_path).exit_code == 2


def test_dry_runs_write_nothing(tmp_path: Path) -> None:
    recipe, store = make_pool(tmp_path), tmp_path / "store"
    assert run_json("scan", tmp_path / "pool", "--dry-run", store=store)["images"] == 24
    assert run("build", recipe, "--dry-run", store=store).exit_code == 0
    assert not store.exists()
    pool = run_json("scan", tmp_path / "pool", store=store)["pool"]
    teacher = ["--teacher", f"replay:{tmp_path}/results.json", "--set", f"images={tmp_path}/listing.json"]
    assert run_json("label", pool, *teacher, "--dry-run", store=store) == {"chunks": 1, "images": 24}
    assert not (store / "predictions").exists()
    assert run_json("label", pool, *teacher, store=store)["images_labelled"] == 24
    assert run_json("label", pool[:8], *teacher, store=store)["images_labelled"] == 0


def test_the_picture_shows_boxes_in_their_colours(built: Path, tmp_path: Path) -> None:
    assert run("show", "pets", "--picture", tmp_path / "sheet.png", store=built / "store").exit_code == 0
    pixels = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).reshape(-1, 3)
    for colour in ((0x00, 0x9E, 0x73), (0xE6, 0x9F, 0x00), (0x8B, 0x95, 0xA1)):
        assert (pixels == colour).all(axis=1).sum() > 100
