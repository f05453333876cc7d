"""Versions that would teach nothing are refused, and those that teach nothing of a class say so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.cut.basis import Basis
from builder.cut.emptiness import check_kept
from builder.cut.parent import find_parent
from builder.cut.version import Cut, cut_version
from builder.errors import BuildError
from builder.kinds import DETECTION
from builder.label.labelling import label_pool
from builder.label.model import ModelLabeller
from builder.recipe.recipe import load_recipe
from builder.report.card import card
from builder.rules.overrides import Override, add_overrides
from builder.rules.reasons import Reason
from builder.scan.scanner import scan_pool
from builder.store.manifest import Manifest, read_manifest
from builder.store.provenance import Group
from builder.store.store import Store
from teachers.base import Detections, SemanticMap
from tests.helpers.growing import build, run, version
from tests.helpers.kinds import KINDS, SIZE, Says, boxes, semantic
from tests.helpers.pools import write_images, write_recipe, write_results, write_world


def half_sure(image: np.ndarray, rng: np.random.Generator) -> SemanticMap:
    drawn = semantic(image, rng)
    return replace(drawn, confidence=drawn.confidence // 2)


SAYS = {"detection": boxes, **KINDS, "semantic": half_sure}
NOUNS = {"detection": "boxes", "instance": "masks", "semantic": "pixels", "classification": "images"}


def cut(folder: Path, says: Says, keep: dict[str, Any], *, images: int = 6, **options: Any) -> Cut:
    """A version of these images by this teacher. options: `parent`, and those of cut_version."""
    store = Store(folder / "store")
    write_images(folder / "pool", images, size=SIZE)
    pool = scan_pool(str(folder / "pool"), store, chunk_size=3)
    done = label_pool(pool, ModelLabeller(says, 2), store, spec="says")
    parent = options.pop("parent", None)
    recipe = load_recipe(write_recipe(folder, keep=keep, **({"parent": parent} if parent else {})))
    before = find_parent(parent, store) if parent else None
    basis = Basis(pool, store.predictions / done.predictions, recipe, "says", parent=before)
    return cut_version(basis, store, name="pets", workers=2, report=False, **options)


@pytest.mark.parametrize("kind", SAYS)
def test_a_version_of_any_kind_that_keeps_nothing_is_refused_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    says = Says(kind, SAYS[kind])
    keep = {"score": 1.0, "ignore": None}
    with pytest.raises(BuildError, match=f"pets would teach nothing: none of [0-9,]+ predicted {NOUNS[kind]}") as error:
        cut(tmp_path, says, keep)
    assert "score below the threshold: " in str(error.value) and "lower keep.score" in str(error.value)
    assert "--allow-empty" in str(error.value)
    assert not list((tmp_path / "store" / "datasets").rglob("v1"))
    if kind == "classification":  # an image without a class is in no sample
        with pytest.raises(BuildError, match="nothing to write for pets: of 6 images 6 are empty"):
            cut(tmp_path, says, keep, allow_empty=True)
    else:
        made = cut(tmp_path, says, keep, allow_empty=True)
        assert made.manifest.kept == 0 and made.manifest.samples == 6 and made.ref == "pets@v1"


def test_one_kept_object_is_enough(tmp_path: Path) -> None:
    lone = iter(range(6))

    def rarely(image: np.ndarray, rng: np.random.Generator) -> Detections:
        score = 0.9 if next(lone) == 4 else 0.1
        return Detections.of([[1, 1, 9, 9]], [score], [0], width=SIZE[0], height=SIZE[1])

    assert cut(tmp_path, Says("detection", rarely, batch_size=1), {"score": 0.5, "ignore": None}).manifest.kept == 1


def test_what_is_added_to_a_version_may_be_empty(tmp_path: Path) -> None:
    """Later images on which nothing is kept join a version that holds something."""
    calls = iter(range(100))

    def first_only(image: np.ndarray, rng: np.random.Generator) -> Detections:
        score = 0.9 if next(calls) < 6 else 0.1
        return Detections.of([[1, 1, 9, 9]], [score], [0], width=SIZE[0], height=SIZE[1])

    says, keep = Says("detection", first_only), {"score": 0.5, "ignore": None}
    cut(tmp_path, says, keep)
    grown = cut(tmp_path, says, keep, images=9, parent="pets@v1")
    assert (grown.manifest.kept, grown.manifest.samples) == (6, 9)


@pytest.mark.parametrize(
    ("numbers", "groups", "words"),
    [
        ({}, [0.5], "the teacher gives no boxes on 7 images: look at its floor"),
        ({"below_threshold": 9}, [0.75, 0.5], "lower keep.score, whose lowest threshold is 0.5, or"),
        ({"below_threshold": 9}, [None], "no class has a threshold (why not): change keep.score, or add labelled"),
        ({"below_threshold": 900, "where_false": 2, "size": 1}, [0.5], "change keep.where"),
        ({"below_threshold": 900, "size": 1}, [0.5], "lower keep.min_size"),
        ({"uncertain": 3}, [0.5], "raise keep.uncertainty"),
        ({"cap": 3}, [0.5], "raise keep.max_per_image"),
        ({"class_dropped": 5, "below_threshold": 2}, [0.5], "let keep.classes keep a class"),
    ],
)
def test_the_refusal_names_what_to_change(numbers: dict[str, int], groups: list[float | None], words: str) -> None:
    reasons = [numbers.get(reason.key, 0) for reason in Reason]
    thresholds = [Group(classes=["a"], rule="score", threshold=t, reason="" if t else "why not") for t in groups]
    with pytest.raises(BuildError) as error:
        check_kept("pets", DETECTION, 7, reasons, thresholds)
    assert words in str(error.value) and "\n" not in str(error.value)
    for kept in ("kept", "accepted", "added", "moved", "relabelled", "rejected"):  # or people emptied it
        reasons[next(reason for reason in Reason if reason.key == kept)] = 1
        check_kept("pets", DETECTION, 7, reasons, thresholds)


def test_the_command_refuses_and_can_be_overruled(tmp_path: Path) -> None:
    write_results(tmp_path, write_images(tmp_path / "pool", 5))
    recipe = write_recipe(tmp_path, keep={"score": 1.0})
    result = run("build", recipe, store=tmp_path / "store")
    assert result.exit_code == 1 and result.output.startswith("Error: pets would teach nothing: none of ")
    assert result.output.count("\n") == 1 and not list((tmp_path / "store" / "datasets").rglob("v1"))
    manifest = build(tmp_path, "--allow-empty")
    assert (manifest.version, manifest.kept) == ("v1", 0)


def test_what_people_accept_or_reject_is_their_word(tmp_path: Path) -> None:
    names = write_images(tmp_path / "pool", 5)
    write_results(tmp_path, names)
    write_recipe(tmp_path, keep={"score": 1.0, "ignore": None})
    store = Store(tmp_path / "store")
    pool = scan_pool(str(tmp_path / "pool"), store, chunk_size=4)
    sha = next(image.sha256 for image in pool.images() if image.name == names[0])
    add_overrides(store, "pets", [Override(sha, (1.0, 2.0, 9.0, 9.0), "add", "cat", (1.0, 2.0, 9.0, 9.0), "ann")])
    assert build(tmp_path).kept == 1


def covered(manifest: Manifest) -> str:
    return next(finding.message for finding in manifest.provenance.gates if finding.name == "coverage")


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("{score: {cat: 1.0, dog: 0.5}, ignore: null}", "a student takes for background cat ("),
        ("{score: {cat: 1.0, dog: 0.5}, ignore: 0.3}", "nothing is taught of cat ("),
    ],
)
def test_a_labelled_class_of_which_nothing_is_kept_is_named_everywhere(tmp_path: Path, keep: str, words: str) -> None:
    write_world(tmp_path, pool=30, truth=120)
    result = run("build", tmp_path / "recipe.yaml", "--set", f"keep={keep}", store=tmp_path / "store")
    assert result.exit_code == 0, result.output
    manifest = read_manifest(version(tmp_path, 1))
    sentence = covered(manifest)
    share = sentence.partition(words)[2].partition(" % of the labelled boxes)")[0]
    labels = json.loads((tmp_path / "truth.json").read_text())["annotations"]
    cats = 100 * sum(note["category_id"] == 3 for note in labels) / len(labels)
    assert abs(float(share) - cats) < 8, sentence  # of the tune half
    assert sentence in " ".join(result.output.split()) and sentence in card(manifest).replace("\\", "")
