"""Rounds of self-training: versions that go on from one another, their drift by hand, the stop, and going on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from builder.cli.main import main
from builder.cut.basis import Basis
from builder.cut.version import Cut, cut_version
from builder.errors import BuildError
from builder.label.labelling import label_pool
from builder.label.model import ModelLabeller
from builder.recipe.recipe import load_recipe
from builder.scan.scanner import scan_pool
from builder.store.store import Store
from builder.store.version import Version
from builder.truth.read import read_truth
from builder.truth.records import split
from students.rounds.drift import agreement
from students.rounds.loop import run_rounds
from students.rounds.page import Outcome, Round, conclusion, rounds_page
from students.train.errors import TrainError
from students.train.loop import train
from students.train.recipe import load_train_recipe
from teachers.base import ClassProbabilities, Detections, Prediction, SemanticMap, TeacherOptions
from teachers.from_checkpoint import CheckpointTeacher
from teachers.images import decode_rgb
from teachers.masks import bounds, encode
from tests.helpers.coloured import COLOURS, NAMES, make_scene, png
from tests.helpers.kinds import Says, seeded
from tests.helpers.pools import write_images, write_recipe

WIDTH, HEIGHT = 64, 48
PLACES = [(x, y) for x in range(0, 60, 15) for y in range(0, 45, 15)]
"""Corners of 12 objects of 10 x 10 pixels, no two of which touch."""


def grid(changed: bool, masks: bool, image: np.ndarray, rng: np.random.Generator) -> Detections:
    """12 objects; changed: four of them a pixel off, four of another class, four gone, and one that scores too low."""
    label = rng.integers(0, 3, 12)
    xyxy = np.array([[x, y, x + 10, y + 10] for x, y in PLACES], float)
    score = np.full(12, 0.9)
    if changed:
        xyxy[:4, [0, 2]] += 1
        label[4:8] = 3
        score[8:] = [0.2, 0.2, 0.2, 0.6]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [(x >= a) & (x < c) & (y >= b) & (y < d) for a, b, c, d in xyxy]
    codes = encode(np.stack(planes)) if masks else None
    boxes = bounds(codes, HEIGHT, WIDTH) if codes else xyxy
    return Detections.of(boxes, score, label, width=WIDTH, height=HEIGHT, masks=codes)


def sure(changed: bool, image: np.ndarray, rng: np.random.Generator) -> ClassProbabilities:
    """One class; changed: another for images that are dark in the corner."""
    best = int(rng.integers(0, 3)) + int(changed and image[0, 0, 0] < 128)
    return ClassProbabilities(np.where(np.arange(4) == best, 0.7, 0.1).astype(np.float32))


def plane(changed: bool, image: np.ndarray, rng: np.random.Generator) -> SemanticMap:
    """Bands of 16 columns; changed: the first of another class, the last void."""
    labels = np.repeat(np.array([0, 1, 2, 3]), 16)[None].repeat(HEIGHT, 0).astype(np.uint8)
    if changed:
        labels[:, :16], labels[:, 48:] = 1, 255
    return SemanticMap(labels, np.full(labels.shape, 200, np.uint8))


@dataclass
class Changing(Says):
    """A teacher that says `make(changed, …)`."""

    changed: bool = False

    @property
    def description(self) -> dict[str, Any]:
        return {**super().description, "changed": self.changed}

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        return [self.make(self.changed, image, seeded(image)) for image in images]  # type: ignore[call-arg, arg-type]


def versions(folder: Path, kind: str, make: Callable[..., Prediction]) -> tuple[list[Cut], Store]:
    """Two versions of one pool: of a teacher, and of the changed one."""
    store, found = Store(folder / "store"), []
    write_images(folder / "pool", 5, size=(WIDTH, HEIGHT))
    pool = scan_pool(str(folder / "pool"), store, chunk_size=2)
    recipe = load_recipe(write_recipe(folder, keep={"score": 0.5}))
    for changed in (False, True):
        done = label_pool(pool, ModelLabeller(Changing(kind, make, changed=changed), 1), store, spec="says")
        basis = Basis(pool, store.predictions / done.predictions, recipe, "says")
        found.append(cut_version(basis, store, name="pets", workers=1, report=False))
    return found, store


@pytest.mark.parametrize("masks", [False, True], ids=["detection", "instance"])
def test_agreement_of_objects_by_hand(tmp_path: Path, masks: bool) -> None:
    """Of 12 and 9 kept objects on each image 4, a pixel off, and 1 are pairs."""
    kind = "instance" if masks else "detection"
    (before, now), store = versions(tmp_path, kind, lambda *given: grid(given[0], masks, *given[1:]))
    assert agreement(before, now, store) == agreement(now, before, store) == pytest.approx(2 * 5 / (12 + 9))
    assert agreement(before, before, store) == 1


def test_agreement_of_classes_by_hand(tmp_path: Path) -> None:
    (before, now), store = versions(tmp_path, "classification", sure)
    dark = sum(int(decode_rgb(path.read_bytes())[0, 0, 0] < 128) for path in (tmp_path / "pool").iterdir())
    assert agreement(before, now, store) == pytest.approx(1 - dark / 5) and 0 < dark < 5
    assert agreement(now, now, store) == 1


def test_agreement_of_maps_by_hand(tmp_path: Path) -> None:
    """Of the three bands in which both say a class, two are the same."""
    (before, now), store = versions(tmp_path, "semantic", plane)
    assert agreement(before, now, store) == agreement(now, before, store) == pytest.approx(2 / 3)
    other = Version(now.folder, now.manifest.model_copy(update={"kind": "detection"}))
    with pytest.raises(BuildError, match="detection labels"):
        agreement(before, other, store)


def write_classes(folder: Path, count: int, seed: int, flat: bool = False) -> Path:
    """Scenes in a folder per class, or, flat, in one."""
    rng = np.random.default_rng(seed)
    for n in range(count):
        path = folder / ("." if flat else NAMES[n % 3]) / f"{seed}-{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(make_scene(rng, n % 3)[0]))
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled, val and truth images, a pool, a weak teacher, and the recipes of two rounds."""
    folder = tmp_path_factory.mktemp("start")
    for seed, (name, count) in enumerate({"labelled": 6, "val": 9, "truth": 24, "pool": 12}.items()):
        write_classes(folder / name, count, seed, flat=name == "pool")
    network = {"backbone": "timm:test_resnet", "size": 32}
    recipe = {"labelled": "labelled", "network": network, "steps": 12, "batch": 6, "lr": 3e-3, "workers": 0}
    (folder / "teacher.yaml").write_text(yaml.safe_dump(recipe))
    train(load_train_recipe(folder / "teacher.yaml"), folder / "runs" / "teacher", Store(folder / "store"))
    rounds = {"count": 2, "build": "recipes/build.yaml", "val": "val"}
    (folder / "train.yaml").write_text(yaml.safe_dump({**recipe, "rounds": rounds}))
    (folder / "recipes").mkdir()
    build = {"name": "scenes", "pool": "../pool", "teacher": "checkpoint:../runs/teacher", "truth": "../truth"}
    build |= {"keep": {"score": 0.4}, "gates": {"coverage": "off", "leak_distance": None}}
    (folder / "recipes" / "build.yaml").write_text(yaml.safe_dump(build))
    return folder


def copied(start: Path, folder: Path) -> Path:
    return Path(shutil.copytree(start, folder / "world"))


def probabilities(run: Path, images: Sequence[Path]) -> np.ndarray:
    teacher = CheckpointTeacher(run, TeacherOptions())
    found = teacher.predict([decode_rgb(path.read_bytes()) for path in images])
    return np.stack([one.probabilities for one in found if isinstance(one, ClassProbabilities)])


def accuracy(run: Path, folder: Path) -> float:
    images = sorted(folder.rglob("*.png"))
    return float(
        np.mean(
            [NAMES[n] == path.parent.name for n, path in zip(probabilities(run, images).argmax(1), images, strict=True)]
        )
    )


def command(world: Path) -> list[str]:
    paths = (world / "train.yaml", "--out", world / "runs" / "rounds", "--store", world / "store")
    return ["train", *map(str, paths)]


@pytest.fixture(scope="module")
def finished(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder after its two rounds, and what the command said."""
    world = copied(start, tmp_path_factory.mktemp("finished"))
    result = CliRunner().invoke(main, [*command(world), "--json"], catch_exceptions=False)
    return world, json.loads(result.stdout)


def test_the_student_of_a_round_is_the_teacher_of_the_next(finished: tuple[Path, Any]) -> None:
    world, said = finished
    out, store = world / "runs" / "rounds", Store(world / "store")
    told = json.loads((out / "rounds.json").read_text())
    assert said == {"run": str(out / f"round-{told['best']}"), **told}
    assert told["metric"] == "accuracy" and len(told["rounds"]) == 2
    runs = [world / "runs" / "teacher", out / "round-1", out / "round-2"]
    images = sorted((world / "pool").iterdir())
    guesses = [probabilities(run, images).argmax(1) for run in runs[:2]]
    truth = split(read_truth(world / "truth"))[0].images
    for number, one in enumerate(told["rounds"], 1):
        teacher, student = runs[number - 1 : number + 1]
        manifest = store.version(f"scenes@v{number}").manifest
        meta = json.loads((student / "meta.json").read_text())
        assert (one["number"], one["version"], one["id"]) == (number, f"scenes@v{number}", manifest.id)
        assert (
            manifest.provenance.teacher.description["weights_sha256"]
            == json.loads((teacher / "meta.json").read_text())["weights"]["sha256"]
        )
        assert meta["recipe"]["pseudo"] == [{"name": "scenes", "version": f"v{number}", "id": manifest.id}]
        assert (one["run"], one["weights"]) == (student.name, meta["weights"]["sha256"])
        likely = probabilities(teacher, images)
        expected = np.bincount(likely.argmax(1)[likely.max(1) >= 0.4], minlength=3)
        assert one["kept"] == dict(zip(NAMES, expected.tolist(), strict=True))
        assert (one["teacher_val"], one["val"]) == (accuracy(teacher, world / "val"), accuracy(student, world / "val"))
        likely = probabilities(teacher, [image.path for image in truth])
        right = np.array([image.label for image in truth]) == likely.argmax(1)
        assert one["precision"]["precision"] == pytest.approx(right[likely.max(1) >= 0.4].mean())
    first, second = told["rounds"]
    assert first["agreement"] is None and second["agreement"] == (guesses[0] == guesses[1]).mean()
    lineage = store.version("scenes@v2").manifest.provenance
    assert (lineage.parent.version, lineage.parent.id) == ("scenes@v1", first["id"])
    assert lineage.teacher.spec == second["teacher"] == "checkpoint:../runs/rounds/round-1"
    assert str(world) not in (out / "rounds.json").read_text() + json.dumps(lineage.recipe)
    before = {path: path.stat().st_mtime_ns for path in world.rglob("*") if path.suffix in (".pt", ".tar", ".parquet")}
    page = CliRunner().invoke(main, command(world), catch_exceptions=False).stdout
    assert "scenes@v2" in page and f"round {told['best']} did best by accuracy on val" in page
    assert json.loads((out / "rounds.json").read_text()) == told and "scenes@v2" in (out / "rounds.html").read_text()
    assert before == {path: path.stat().st_mtime_ns for path in before}


class Killed(Exception):
    pass


def killed_at(training: int, step: int) -> Callable[[int], Any]:
    """Bars of which the one of this training, 1, 2, …, ends the process, as it were."""
    seen = []

    @contextmanager
    def steps(count: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        seen.append(count)

        def progress(record: Mapping[str, Any]) -> None:
            if len(seen) == training and record["step"] == step:
                raise Killed

        yield progress

    return steps


def test_killed_rounds_go_on_to_the_same_end(start: Path, finished: tuple[Path, Any], tmp_path: Path) -> None:
    world, whole = copied(start, tmp_path), finished[0] / "runs" / "rounds"
    recipe = load_train_recipe(world / "train.yaml", ["save_every=5"])
    out, store = world / "runs" / "rounds", Store(world / "store")
    for training, step in ((1, 7), (2, 3)):
        with pytest.raises(Killed):
            run_rounds(recipe, out, store, report=False, steps=killed_at(training, step))
    assert not (out / "round-2" / "meta.json").exists() and (out / "round-2").is_dir()
    run_rounds(recipe, out, store, report=False)
    for name in ("rounds.json", "rounds.html", "round-2/meta.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_larger_student_and_a_stop_when_val_falls(finished: tuple[Path, Any], tmp_path: Path) -> None:
    """Val is bands of the three colours, named as the first student names them, so that another one can only be worse:
    the second, which sees images larger and has another norm, draws its borders elsewhere."""
    world = copied(finished[0], tmp_path)
    out, store = world / "runs" / "rounds", Store(world / "store")
    shutil.rmtree(out / "round-2")
    small = {"backbone": "timm:test_resnet", "size": 32}
    large = {**small, "size": 48, "norm": "batch"}
    students = yaml.safe_dump([small, large], default_flow_style=True).strip()
    one = run_rounds(load_train_recipe(world / "train.yaml", ["rounds.count=1"]), out, store, report=False)
    assert (one.best, one.ended) == (1, "all 1 rounds are made")
    rng, bands = np.random.default_rng(5), world / "bands"
    bands.mkdir()
    for n in range(200):
        ends = np.cumsum(rng.dirichlet([1, 1, 1]) * 32).astype(int)[:2]
        colours = rng.permutation(np.array(list(COLOURS.values()), np.uint8))
        pixels = colours[np.searchsorted(ends, np.arange(32), "right")]
        (bands / f"{n}.png").write_bytes(png(pixels[None].repeat(32, 0)))
    images = sorted(bands.iterdir())
    for path, place in zip(images, probabilities(out / "round-1", images).argmax(1), strict=True):
        (world / "guessed" / NAMES[place]).mkdir(parents=True, exist_ok=True)
        path.rename(world / "guessed" / NAMES[place] / path.name)
    recipe = load_train_recipe(
        world / "train.yaml", ["rounds.count=5", "rounds.val=guessed", f"rounds.students={students}"]
    )
    outcome = run_rounds(recipe, out, store, report=False)
    assert [found.number for found in outcome.rounds] == [1, 2] and outcome.best == 1
    first, second = outcome.rounds
    assert first.val == 1 > second.val == accuracy(out / "round-2", world / "guessed")
    assert outcome.ended == f"stopped: accuracy on val fell from 1.0000 in round 1 to {second.val:.4f}"
    assert not (out / "round-3").exists()
    sizes = [json.loads((out / f"round-{n}" / "meta.json").read_text())["network"]["size"] for n in (1, 2)]
    assert sizes == [32, 48]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["rounds.val=labelled"], "6 images of rounds.val .* are in the labelled set"),
        (["labelled=val", "rounds.val=labelled"], "6 images of rounds.val .* the teacher checkpoint:.* was trained on"),
        (["rounds.val=truth", "rounds.build=tested.yaml"], "24 images of rounds.val .* in the build recipe's test set"),
        (["rounds.val=pooled"], " images of rounds.val .* in scenes@v1"),
        (["rounds.students=[{}, {}, {}]"], "3 networks for 2 rounds"),
        (["rounds.build=nowhere.yaml"], "nowhere.yaml"),
        (["rounds=null"], "no rounds"),
    ],
)
def test_rounds_that_cannot_be_made_are_one_sentence(
    start: Path, tmp_path: Path, changes: list[str], message: str
) -> None:
    world = copied(start, tmp_path)
    (world / "pooled").mkdir()
    shutil.copytree(world / "pool", world / "pooled" / "red")
    shutil.copytree(world / "pool", world / "pooled" / "blue")
    build = {"name": "scenes", "pool": "pool", "teacher": "checkpoint:runs/teacher", "test": "truth"}
    (world / "tested.yaml").write_text(yaml.safe_dump(build))
    recipe = load_train_recipe(world / "train.yaml", changes)
    with pytest.raises(BuildError, match=message) as caught:
        run_rounds(recipe, world / "rounds", Store(world / "store"))
    assert "\n" not in str(caught.value)
    assert (world / "store" / "predictions").exists() == ("scenes@v1" in message)  # only the pool is looked at so late


def test_a_student_that_is_no_better_than_its_teacher_is_said_to_be() -> None:
    told = {"number": 1, "teacher": "onnx:<a>.onnx", "version": "a@v1", "id": "", "images": 1, "kept": {"<b>": 3}}
    told |= {"agreement": None, "precision": None, "run": "round-1", "weights": "", "val": 0.25}
    for teacher, ending in ((0.5, ", but no student did as well as the first teacher (0.500)"), (0.25, ""), (None, "")):
        outcome = Outcome("AP", "", (Round(**told, teacher_val=teacher),), 1, "")
        assert conclusion(outcome) == f"round 1 did best by AP on val (0.250){ending}; there is more to come"
        page = rounds_page(outcome).decode()
        assert "onnx:&lt;a&gt;.onnx" in page and "&lt;b&gt;" in page and "<b>" not in page


def test_a_folder_of_something_else_is_left_alone(start: Path, tmp_path: Path) -> None:
    recipe, out = load_train_recipe(start / "train.yaml"), tmp_path / "out"
    out.mkdir()
    (out / "rounds.json").write_text("{}")
    with pytest.raises(TrainError, match=r"rounds\.json is damaged"):
        run_rounds(recipe, out, Store(tmp_path))
    (out / "thesis.tex").touch()
    with pytest.raises(TrainError, match=r"thesis\.tex"):
        run_rounds(recipe, out, Store(tmp_path))
    with pytest.raises(TrainError, match="several trainings"):
        train(recipe, tmp_path / "run", Store(tmp_path))
