"""What must hold before a version is written, on whole small pools."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from builder.cli.main import main
from builder.store.manifest import Manifest, read_manifest
from tests.helpers.pools import write_world


@pytest.fixture
def world(tmp_path: Path) -> Path:
    write_world(tmp_path, pool=30, truth=120)
    return tmp_path


def run(world: Path, *more: object) -> Result:
    sets = [word for one in more for word in ([one] if str(one).startswith("--") else ["--set", str(one)])]
    words = ["build", str(world / "recipe.yaml"), *sets, "--no-report", "--json", "--store", str(world / "store")]
    return CliRunner().invoke(main, words)


def built(world: Path, *more: object) -> tuple[Manifest, Path]:
    result = run(world, *more)
    assert result.exit_code == 0, result.output
    folder = Path(json.loads(result.stdout)["path"])
    return read_manifest(folder), folder


def gates(manifest: Manifest) -> dict[str, str]:
    return {gate.name: gate.status for gate in manifest.provenance.gates}


def leak_images(world: Path) -> list[str]:
    """Two pool images become truth images: one byte for byte, one re-encoded."""
    same, alike = sorted((world / "pool").iterdir())[:2]
    first, second = sorted((world / "truth").iterdir())[:2]
    shutil.copy(first, same)
    with Image.open(second) as image:
        image.save(alike, quality=60)
    return [same.name, alike.name]


def test_a_leak_is_left_out_and_listed(world: Path) -> None:
    leaked = leak_images(world)
    manifest, folder = built(world, "keep={score: 0.5}")
    assert manifest.images["leak"] == 2 and manifest.samples == 28 and gates(manifest)["leak"] == "warn"
    with open(folder / "left_out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["leak", "leak"]
    assert sorted(row["why"].split()[0] for row in rows) == sorted(leaked)
    said = CliRunner().invoke(main, ["explain", "pets", leaked[0], "--store", str(world / "store")])
    assert said.exit_code == 0 and "leak" in said.output


def test_a_leak_can_stop_the_build(world: Path) -> None:
    leak_images(world)
    result = run(world, "keep={score: 0.5}", "gates.on_leak=fail")
    assert result.exit_code == 1 and "gate leak failed: 2 images of the pool" in result.output
    assert not (world / "store" / "datasets" / "pets" / "v1").exists()


def test_only_equal_bytes_leak_when_told(world: Path) -> None:
    leak_images(world)
    assert built(world, "keep={score: 0.5}", "gates.leak_distance=null")[0].images["leak"] == 1


def test_an_image_in_truth_and_test_is_an_error(world: Path) -> None:
    result = run(world, "test={source: truth.json, images: truth}")
    assert result.exit_code == 1 and "are in two of labelled, truth and test" in result.output


def test_near_duplicates_in_the_pool_are_left_out(world: Path) -> None:
    first, second = sorted((world / "pool").iterdir())[:2]
    with Image.open(first) as image:
        image.save(second, quality=60)
    manifest, folder = built(world, "keep={score: 0.5}", "images.near_duplicates=4")
    assert manifest.images["near_duplicate"] == 1 and manifest.samples == 29
    assert second.name in (folder / "left_out.csv").read_text() and first.name in (folder / "left_out.csv").read_text()


def test_density_warns_and_fails_by_its_ratios(world: Path) -> None:
    assert gates(built(world, "keep={score: 0.97}")[0])["density"] == "warn"
    assert gates(built(world, "keep={score: 0.4}")[0])["density"] == "ok"
    result = run(world, "keep={score: 0.98}", "gates.density.fail=3")
    assert result.exit_code == 1 and "gate density failed" in result.output


def test_coverage_names_the_class_of_which_nothing_is_kept(world: Path) -> None:
    keep = "keep={score: {cat: 1.0, dog: 0.5}}"
    assert gates(built(world, keep)[0])["coverage"] == "warn"
    result = run(world, keep, "gates.coverage=fail")
    assert (
        result.exit_code == 1
        and "gate coverage failed: the rules keep no boxes of 1 of 2 classes (cat)" in result.output
    )
    assert "coverage" not in gates(built(world, keep, "gates.coverage=off")[0])


def test_min_precision_wants_certificates(world: Path) -> None:
    result = run(world, "keep={score: 0.9}", "gates.min_precision=0.7")
    assert result.exit_code == 1 and "are not certified by themselves for 0.7" in result.output
    keep = "keep={precision: {target: 0.75, over: class}}"
    assert gates(built(world, keep, "gates.min_precision=0.7")[0])["min_precision"] == "ok"


@pytest.mark.parametrize(
    ("rule", "status"),
    [("where: x1 < 30", "warn"), ("min_size: 11", "warn"), ("where: x1 < 1000, min_size: 2", "ok")],
)
def test_min_precision_says_where_later_rules_changed_what_was_certified(world: Path, rule: str, status: str) -> None:
    keep = f"keep={{precision: 0.75, {rule}}}"
    manifest, _ = built(world, keep, "gates.min_precision=0.7", "gates.coverage=off", "--allow-empty")
    (found,) = [gate for gate in manifest.provenance.gates if gate.name == "min_precision"]
    assert found.status == status
    refused = sum(manifest.objects[reason] for reason in ("where_false", "where_null", "size", "uncertain"))
    assert (refused > 0) == (f"refused {refused} boxes" in found.message) == (status == "warn")


def test_shift_warns_where_the_teacher_behaves_otherwise_on_the_labels(tmp_path: Path) -> None:
    write_world(tmp_path, pool=120, truth=120)
    results = json.loads((tmp_path / "results.json").read_text())
    for record in results:
        record["score"] *= 1.0 if record["image_id"] > 120 else 0.6  # a harder pool
    (tmp_path / "results.json").write_text(json.dumps(results))
    manifest, _ = built(tmp_path, "keep={score: 0.3}")
    assert gates(manifest)["shift"] == "warn"
    assert run(tmp_path, "keep={score: 0.3}", "gates.shift=fail").exit_code == 1


def test_a_failed_gate_leaves_the_number_to_the_recipe_that_mends_it(world: Path) -> None:
    assert run(world, "keep={score: 0.9}", "gates.min_precision=0.7").exit_code == 1
    assert built(world, "keep={score: 0.9}")[0].version == "v1"
