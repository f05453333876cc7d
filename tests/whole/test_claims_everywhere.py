"""What is said of the precision of a version is the same wherever it is said, and no more than was certified."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from builder.cli.main import main
from builder.evidence.claims import claims
from builder.report.headline import headline
from builder.store.manifest import Manifest, read_manifest
from tests.helpers.zoo import write_zoo

FALLBACK = "keep.precision.on_low_support=fallback"
DROP = "keep.precision.on_low_support=drop"


@dataclass(frozen=True)
class Sort:
    """A sort of version: what its recipe sets, and what may be said of it. after: built in the store that holds this
    other one."""

    sets: tuple[str, ...]
    standing: str
    alone: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    flagged: tuple[str, ...] = ()
    headline: str = ""
    after: str = ""


SORTS = {
    "own": Sort(
        ("keep.precision.over=class", DROP),
        "certified", ("cat", "dog"), (), (), "Precision of at least 0.8 certified for cat and dog, each by itself",
    ),
    "group": Sort(
        (DROP,), "partly", ("cat",), ("dog", "bird"), ("bird",),
        "Precision of at least 0.8 certified for cat by itself, and for dog and bird together; bird looks worse by "
        "itself",
    ),
    "version": Sort(
        ("keep.precision.over=version", DROP), "partly", (), ("cat", "dog", "bird"), ("bird",),
        "Precision of at least 0.8 certified for cat, dog and bird together; bird looks worse by itself",
    ),
    "fallback": Sort(
        ("keep.precision.over=class", FALLBACK), "partly", ("cat", "dog"), (), ("bird",),
        "Precision of at least 0.8 certified for cat and dog, each by itself, ",
    ),
    "parent": Sort(
        (DROP, "parent=pets@v1"), "partly", ("cat",), ("dog", "bird"), ("bird",),
        "Precision of at least 0.8 certified for cat by itself, and for dog and bird together", "group",
    ),
    "adaptive": Sort(
        ("keep.precision.target=0.79", DROP), "adaptive", (), (), ("bird",), "Adaptive, no guarantee", "group"
    ),
    "none": Sort(
        ("keep.precision.target=0.999", FALLBACK), "measured", (), (), ("cat", "dog", "bird"), "Precision not certified"
    ),
    "measured": Sort(("keep={score: 0.7}",), "measured", headline="Precision not certified"),
    "unknown": Sort(("keep={score: 0.7}", "truth=null"), "unknown", headline="Precision unknown"),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A version of a sort, and what each surface says of it: text, or a record."""

    sort: Sort
    manifest: Manifest
    build: str
    show: str
    log: str
    entry: dict[str, Any]
    diff: str
    card: str
    page: str

    @property
    def texts(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("build", "show", "diff", "card", "page")}


def run(*words: str) -> Result:
    result = CliRunner().invoke(main, [*words])
    assert result.exit_code == 0, result.output
    return result


def flat(text: str) -> str:
    """Without markup, line ends and runs of blanks."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())


def build(recipe: Path, store: Path, sets: tuple[str, ...]) -> str:
    return run("build", str(recipe), "--store", str(store), *(word for one in sets for word in ("--set", one))).stdout


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and a store in which pool and labels are labelled and no label was looked at."""
    folder = tmp_path_factory.mktemp("zoo")
    recipe = write_zoo(folder)
    build(recipe, folder / "fresh", ("keep={score: 0.7}", "name=other"))
    return recipe


@pytest.fixture(scope="module", params=SORTS)
def made(request: pytest.FixtureRequest, zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    sort = SORTS[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "zoo"
    shutil.copytree(zoo.parent, folder)
    recipe, store = folder / "recipe.yaml", folder / "fresh"
    if sort.after:
        build(recipe, store, SORTS[sort.after].sets)
    if request.param == "parent":
        min((folder / "pool").iterdir()).unlink()  # its parent has it still
    told = build(recipe, store, sort.sets)
    ref = f"pets@v{1 + bool(sort.after)}"
    version = store / "datasets" / "pets" / ref[5:]
    entries = json.loads(run("log", "pets", "--store", str(store), "--json").stdout)["versions"]
    return Made(
        sort,
        read_manifest(version),
        flat(told),
        flat(run("show", ref, "--store", str(store)).stdout),
        next(line for line in run("log", "--store", str(store)).stdout.splitlines() if line.startswith(ref)),
        entries[-1],
        flat(run("diff", "other", ref, "--store", str(store)).stdout),
        flat((version / "README.md").read_text().split("---\n", 2)[2]),
        flat((version / "report" / "index.html").read_text()),
    )


def test_what_may_be_said(made: Made) -> None:
    said, sort = claims(made.manifest), made.sort
    assert (said.standing, set(said.alone), set(said.together)) == (sort.standing, set(sort.alone), set(sort.together))
    assert {claim.name for claim in said.flagged} == set(sort.flagged)
    assert headline(made.manifest).startswith(sort.headline)
    assert made.manifest.per_class["fox"]["kept"] == 0
    solved = next(group for group in made.manifest.provenance.thresholds if "fox" in group.classes)
    assert solved.certified == bool(sort.alone or sort.together or sort.standing == "adaptive")


def test_every_surface_says_it_in_the_same_words(made: Made) -> None:
    words, entry = headline(made.manifest), made.entry
    silent = {"diff"} if words == "Precision not certified" else set()  # as the version that it is compared with
    assert {name for name, text in made.texts.items() if words not in text} == silent
    record = (entry["standing"], entry["quality"], set(entry["alone"]), set(entry["together"]), set(entry["flagged"]))
    sort = made.sort
    assert record == (sort.standing, words, set(sort.alone), set(sort.together), set(sort.flagged))


def test_only_what_is_guaranteed_is_called_certified(made: Made) -> None:
    holds = bool(made.sort.alone or made.sort.together)
    assert made.entry["certified"] == (0.8 if holds else None)
    assert ("0.8: " in made.log) == holds == ("≥ 0.8" in made.card) == ("≥ 0.8" in made.page)
    if not holds:
        assert not re.search(r"≥|of at least \S+ certified", made.card + made.page)
        assert "✓" not in made.page.partition("Gates")[0] + made.page.partition("Thresholds and their evidence")[2]


def test_each_class_has_its_own_row(made: Made) -> None:
    if made.manifest.provenance.truth is None:
        assert "Each class by itself" not in made.card + made.page
        return
    for name, counts in made.manifest.per_class.items():
        cell = "≥ 0.8" if name in made.sort.alone else "in its group only" if name in made.sort.together else "no"
        cell = cell if counts["kept"] else "nothing kept"
        assert f"| {name} | {counts['kept']} | {cell} |" in made.card
        row = re.search(rf"{name} {counts['kept']} {cell} (\S+ \(.*?\)|-) (\S+ \(.*?\)|-) \d+ (! below)?", made.page)
        assert row and bool(row[3]) == (name in made.sort.flagged), name


def test_only_a_class_by_itself_passes_the_gate(zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(zoo.parent, tmp_path / "zoo")
    recipe, store = tmp_path / "zoo" / "recipe.yaml", tmp_path / "zoo" / "fresh"

    def gate(*sets: str) -> str:
        words = [word for one in ("gates.min_precision=0.8", DROP, *sets) for word in ("--set", one)]
        return CliRunner().invoke(main, ["build", str(recipe), "--store", str(store), "--no-report", *words]).output

    told = gate()
    assert "2 classes with kept boxes are not certified by themselves for 0.8 (dog, bird; only together" in told
    assert "set keep.precision with over: class" in told
    assert "used 2 times): certify on freshly labelled images" in gate("keep.precision.over=class")
    shutil.rmtree(store / "certify")  # as if these labels were new
    assert "version" in gate("keep.precision.over=class", "keep.nms=0.9")
