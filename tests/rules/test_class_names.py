"""Class names that do not match and probably should are found, and said in one sentence wherever names are matched."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.cli.main import main
from builder.rules.class_names import compare_names, likely_partner, listed
from builder.store.store import Store
from builder.truth.read import read_truth
from students.data.loader import JointBatches
from students.data.streams import LoaderError
from tests.helpers.pools import write_world

COCO = [
    "person",
    "bicycle",
    "car",
    "motorcycle",
    "airplane",
    "bus",
    "couch",
    "potted plant",
    "dining table",
    "tv",
    "cow",
]


@pytest.mark.parametrize(
    ("name", "others", "partner"),
    [
        *[(a, COCO, b) for a, b in (
            ("motorbike", "motorcycle"), ("sofa", "couch"), ("tvmonitor", "tv"), ("aeroplane", "airplane"),
            ("diningtable", "dining table"), ("pottedplant", "potted plant"), ("Person", "person"), ("BUS", "bus"),
            ("dining_table", "dining table"), ("buses", "bus"), ("cows", "cow"), ("pedestrians", "person"),
            ("motorcyle", "motorcycle"),
        )],
        ("person", ["people", "car"], "people"), ("cities", ["city"], "city"), ("wbc", ["WBC"], "WBC"),
        ("cat", ["car", "bat"], None), ("class1", ["class2", "class11"], None), ("sheep", COCO, None),
        ("猫", ["犬"], None), ("Straße", ["strasse"], "strasse"), ("x", [], None),
    ],
)  # fmt: skip
def test_the_likeliest_partner(name: str, others: list[str], partner: str | None) -> None:
    assert likely_partner(name, others) == partner


def test_both_sides_are_said_and_shortened() -> None:
    found = compare_names(
        ["sofa", "car", *(f"x{n}" for n in range(9))], ["couch", "car", "van", "tram"], ["van", "couch"]
    )
    assert (found.shared, found.partners, found.theirs) == (("car",), (("sofa", "couch"),), ("van",))
    told = found.sentence("the teacher's", "in no label", "labels that no prediction can match", "map them")
    assert told == (
        "the teacher's 'sofa' (did you mean 'couch'?) is in no label: map them; labels that no prediction can match: "
        "'van'; the teacher's 'x0', 'x1', 'x2', 'x3' and 5 more are in no label, too"
    )
    assert listed(["a", "b", "c"], 2) == "a, b, c" and listed(["a", "b", "c", "d"], 2) == "a, b and 2 more"


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(["a", "b"], ["a", "b"]), (["a", *map(str, range(79))], ["a"])],  # a COCO detector on a part of its classes
)
def test_names_that_match_need_no_word(ours: list[str], theirs: list[str]) -> None:
    assert compare_names(ours, theirs).sentence("", "", "", "") == ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of cat and dog, labels of Cats and dog."""
    folder = tmp_path_factory.mktemp("names")
    write_world(folder, pool=20, truth=60)
    truth = json.loads((folder / "truth.json").read_text())
    truth["categories"][0]["name"] = "Cats"
    (folder / "truth.json").write_text(json.dumps(truth))
    result = CliRunner().invoke(
        main, ["build", str(folder / "recipe.yaml"), "--only", "label", "--store", str(folder / "store")]
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["calibrate", "recipe.yaml"],
        ["sweep", "recipe.yaml"],
        ["build", "recipe.yaml", "--set", "keep={score: 0.5}", "--no-report"],
        ["evaluate", "recipe.yaml", "--truth", "truth.json", "--images", "truth"],
    ],
)
def test_every_command_that_matches_names_says_so(
    world: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    result = CliRunner().invoke(main, [*words, "--store", "store"])
    assert result.exit_code == 0, result.output
    told = "the teacher's 'cat' (did you mean 'Cats'?) is in no label: map them with keep.classes.map"
    if words[0] == "build":  # in the summary, and so in card and report
        assert f"class_names  warn: {told}" in result.stdout
        assert told in (world / "store" / "datasets" / "pets" / "v1" / "README.md").read_text().replace("\\", "")
    else:
        assert result.stderr.count(told) == 1
    if words[0] in ("calibrate", "sweep"):
        assert "1 of the teacher's 2 and of the labels' 2" in result.stdout
        again = CliRunner().invoke(main, [*words, "--json", "--store", "store"])
        figures = json.loads(again.stdout)
        assert (figures["classes"], figures["only_in_labels"], figures["only_in_teacher"]) == (
            ["dog"],
            ["Cats"],
            ["cat"],
        )


def test_names_that_share_nothing_are_refused_with_the_likeliest_map(world: Path, tmp_path: Path) -> None:
    truth = json.loads((world / "truth.json").read_text())
    truth["categories"][1]["name"] = "Dog"
    (world / "other.json").write_text(json.dumps(truth))
    words = [
        "calibrate",
        str(world / "recipe.yaml"),
        "--truth",
        str(world / "other.json"),
        "--images",
        str(world / "truth"),
    ]
    result = CliRunner().invoke(main, [*words, "--store", str(world / "store")])
    assert result.exit_code == 1 and "keep.classes.map (say cat: Cats, dog: Dog)" in result.output


def test_diff_names_classes_that_should_match(tmp_path: Path) -> None:
    write_world(tmp_path, pool=6, truth=20)
    for mapped in ("{map: {cat: sofa}}", "{map: {cat: couch}}"):
        keep = f"keep={{score: 0.3, classes: {mapped}}}"
        words = ["build", str(tmp_path / "recipe.yaml"), "--set", keep, "--set", "truth=null", "--no-report"]
        result = CliRunner().invoke(main, [*words, "--store", str(tmp_path / "store")])
        assert result.exit_code == 0, result.output
    result = CliRunner().invoke(main, ["diff", "pets@v1", "pets@v2", "--store", str(tmp_path / "store")])
    assert result.exit_code == 0 and "pets@v1's 'sofa' (did you mean 'couch'?) is not in pets@v2: " in result.stderr


def test_train_refuses_pseudo_labels_of_a_class_that_the_labelled_set_calls_otherwise(tmp_path: Path) -> None:
    write_world(tmp_path, pool=6, truth=20)
    words = [
        "build",
        str(tmp_path / "recipe.yaml"),
        "--set",
        "keep={score: 0.3, classes: {map: {cat: sofa, dog: couch}}}",
    ]
    result = CliRunner().invoke(
        main, [*words, "--set", "truth=null", "--no-report", "--store", str(tmp_path / "store")]
    )
    assert result.exit_code == 0, result.output
    truth = read_truth(tmp_path / "truth.json", tmp_path / "truth")
    labelled = replace(truth, classes=("Couch", "bird"))
    version = Store(tmp_path / "store").version("pets")
    with pytest.raises(
        LoaderError, match=r"has class 'sofa' \(did you mean 'Couch'\?\), 'couch' \(did you mean 'Couch'"
    ):
        JointBatches(labelled, [version], size=64, batch_size=2)
