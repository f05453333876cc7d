"""What a dataset card tells the Hub: terms it knows, a picture it shows, and what a repair makes of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from builder.cli.main import main
from builder.report.card import card
from builder.report.card_chart import MOST, classes_chart
from builder.report.card_terms import LICENCES, head_yaml, licence_terms, size_category
from builder.report.page import page
from builder.store.manifest import Manifest, read_manifest
from builder.store.version import CHART
from builder.words import HIDDEN
from tests.helpers.pools import tree, write_images, write_recipe, write_results
from tests.helpers.records import changed
from tests.report.test_card import group, manifest


@pytest.mark.parametrize(
    ("told", "terms"),
    [
        ("MIT", {"license": "mit"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("GPL-3.0-or-later", {"license": "gpl-3.0"}),
        ("ODbL-1.0", {"license": "odbl"}),
        ("unknown", {"license": "unknown"}),
        ("", {"license": "unknown"}),
        ("Our own, see LICENSE!", {"license": "other", "license_name": "our-own-see-license"}),
        ("許諾", {"license": "unknown"}),
    ],
)
def test_licences(told: str, terms: dict[str, str]) -> None:
    assert licence_terms(told) == terms


@given(st.text(max_size=40))
def test_every_licence_is_one_the_hub_takes(told: str) -> None:
    terms = licence_terms(told)
    assert terms["license"] in LICENCES and ("license_name" in terms) <= (terms["license"] == "other")


@pytest.mark.parametrize(
    ("samples", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "1M<n<10M"), (10**12, "n>1T")],
)
def test_sizes(samples: int, category: str) -> None:
    assert size_category(samples) == category


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    write_results(folder, write_images(folder / "pool", 6))
    recipe = write_recipe(folder)
    words = ["--set", "pool.license=CC-BY-4.0", "--set", "teacher.license=AGPL-3.0"]
    result = CliRunner().invoke(main, ["build", str(recipe), "--no-report", "--store", str(folder / "store"), *words])
    assert result.exit_code == 0, result.output
    return folder / "store"


def test_the_yaml_says_what_the_hub_asks_for(store: Path) -> None:
    version = store / "datasets/pets/v1"
    _, head, body = (version / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(head)
    assert (told["license"], told["size_categories"]) == ("cc-by-4.0", ["n<1K"])
    assert told["annotations_creators"] == ["machine-generated"] and told["source_datasets"] == ["original"]
    assert told["teacher"]["spec"].startswith("replay:") and told["teacher"]["license"] == "AGPL-3.0"
    assert len(told["teacher"]["revision"]) == 64
    assert (
        f"]({CHART})" in body
        and 'load_dataset("ORG/NAME", revision="v1"' in body
        and "tutelage pull ORG/NAME@v1" in body
    )


def test_the_picture_is_svg_that_depends_on_the_manifest_alone(store: Path) -> None:
    version = store / "datasets/pets/v1"
    manifest = read_manifest(version)
    drawn = (version / CHART).read_bytes()
    assert drawn == classes_chart(manifest) and CHART in manifest.files
    texts = [element.text for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    for name, counts in manifest.per_class.items():
        assert name in texts and f"{counts['kept']} of {counts['predicted']} kept, from 0.5" in texts


def test_any_number_of_classes_of_any_name(store: Path) -> None:
    manifest = read_manifest(store / "datasets/pets/v1")
    names = ['<b>&"', "x" * 99, "bell\a", "\ufffe", *(f"c{n}" for n in range(38))]
    counts = {name: {"predicted": 0, "kept": 0, "ignored": 0} for name in names}
    bare = manifest.model_copy(update={"provenance": changed(manifest.provenance, thresholds=[])})
    many: Manifest = bare.model_copy(update={"classes": names, "per_class": counts})
    drawn = ElementTree.fromstring(classes_chart(many))
    assert len(list(drawn.iter("{http://www.w3.org/2000/svg}text"))) == 3 + 2 * MOST
    none = bare.model_copy(update={"classes": [], "per_class": {}})
    ElementTree.fromstring(classes_chart(none))
    assert card(many)


def test_a_repair_draws_it_again(store: Path) -> None:
    version = store / "datasets/pets/v1"
    before = tree(version)
    (version / CHART).write_text("<svg/>")
    words = ["verify", "pets@v1", "--repair", "--store", str(store)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0 and f"repaired: {CHART}" in result.output, result.output
    assert tree(version) == before


@given(st.dictionaries(st.text(), st.lists(st.one_of(st.text(), st.sampled_from(["n<1K", "<script>", "a\n---\nb"])))))
def test_the_head_is_the_same_to_yaml_and_no_markup_to_others(head: dict[str, Any]) -> None:
    """100 inputs."""
    text = head_yaml(head)
    assert yaml.safe_load(text) == head
    assert not HIDDEN.search(text) and "<script" not in text and "\n---" not in text


def test_a_name_is_no_markup_in_the_card() -> None:
    name = "<script>alert(1)</script> `a` | b\n---\n[c](javascript:d) ![e](f) \x1b \u202e ~~g~~ &lt;"
    text = card(manifest(group(name), teacher={"spec": name, "license": name}))
    head, body = text.split("\n---\n\n", 1)
    assert yaml.safe_load(head.removeprefix("---\n"))["dataset_info"]["features"]
    assert not HIDDEN.search(text) and "\n---\n" not in head and "[c]\\(j" in body
    assert "`` <script>" in body and "\\<script\\>" in body and "\\&lt;" in body


def test_what_acts_unseen_is_written_out_in_a_page() -> None:
    shown = page("a\x1b<b>", ["\u202e\x9b"]).decode()
    assert "<title>a\\u001b&lt;b&gt;</title>" in shown and "\\u202e\\u009b" in shown and not HIDDEN.search(shown)
