"""A version that was pulled into an empty store is corrected there, with the home store gone: the shards are those that
the home store gives for the same answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import orjson
import pytest
from click.testing import CliRunner, Result

from builder.cli.main import main
from builder.errors import BuildError
from builder.hub.publish import publish
from builder.hub.pull import pull
from builder.hub.remote import open_version
from builder.review.queues import queue
from builder.store.store import Store
from builder.versions.diff import diff
from builder.versions.explain import explain
from builder.versions.health import verify
from builder.versions.media import images_of
from builder.versions.removal import remove
from builder.versions.verify import problems
from tests.helpers.corrected import built, corrected, corrections
from tests.helpers.hub_server import HubServer, use_hub
from tests.helpers.pools import tree

REPO = "org/pets"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's uploads


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with HubServer.running(tmp_path / "hub") as server:
        use_hub(monkeypatch, server.url, tmp_path)
        yield server.root


def run(store: Path, *arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments), "--store", str(store)])
    assert result.exit_code == code, result.output
    return result


def submitted(path: Path) -> None:
    """Label Studio's tasks as people give them back: of each image one label is another, and one box is gone."""
    tasks: list[dict[str, Any]] = orjson.loads(path.read_bytes())
    for number, task in enumerate(tasks, 1):
        results = task.pop("predictions")[0]["result"]
        first = next(r for r in results if r["type"] == "rectanglelabels" or r["from_name"] == "class")
        name = "rectanglelabels" if first["type"] == "rectanglelabels" else "choices"
        first["value"][name] = ["car" if first["value"][name] == ["cat"] else "cat"]
        annotation = {"id": number, "updated_at": "2026-01-01T00:00:00Z", "result": results[: max(1, len(results) - 1)]}
        task |= {"id": number, "annotations": [annotation]}
    path.write_bytes(orjson.dumps(tasks))


def exported(path: Path) -> None:
    """CVAT's XML as people give it back: of each image one box is moved, and one is gone."""
    tree = ElementTree.parse(path)
    for image in tree.getroot().iter("image"):
        boxes = image.findall("box")
        if boxes:
            boxes[0].set("xtl", str(float(boxes[0].get("xtl", "0")) / 2))
        if len(boxes) > 1:
            image.remove(boxes[-1])
    tree.write(path)


@pytest.mark.parametrize(
    ("kind", "tool", "answer", "name"),
    [
        ("detection", "labelstudio", submitted, None),
        ("detection", "cvat", exported, "others"),
        ("instance", "cvat", exported, None),
        ("classification", "labelstudio", submitted, "others"),
    ],
)
def test_answers_to_a_pulled_version_give_what_they_give_at_home(
    hub: Path, tmp_path: Path, kind: str, tool: str, answer: Callable[[Path], None], name: str | None
) -> None:
    home, away = Store(tmp_path / "store"), Store(tmp_path / "away")
    first = built(tmp_path, kind)
    second = corrected(first, home, corrections(first, 1, share=0.2))  # people corrected it at home already
    publish(second, REPO)
    shutil.copytree(home.root, tmp_path / "kept")
    shutil.rmtree(home.root)
    shutil.rmtree(tmp_path / "pool")
    ref = pull(f"{REPO}@v2", away, name=name).version
    assert ref == f"{name or 'pets'}@v2"
    answers = tmp_path / "answers"
    run(away.root, "review", "queue", ref, "--to", tool, "--out", answers)
    answer(answers)
    dry = json.loads(run(away.root, "review", "pull", ref, "--from", answers, "--dry-run", "--json").stdout)
    done = json.loads(run(away.root, "review", "pull", ref, "--from", answers, "--json").stdout)
    assert dry["actions"] == done["actions"] and sum(done["actions"].values()) > 3
    assert done["new_version"] == f"{name or 'pets'}@v3"
    (tmp_path / "kept").rename(home.root)
    there = away.version(done["new_version"])
    assert there.manifest.id == done["id"] and problems(there) == []
    built(tmp_path / "again", kind)  # the same images, for the home store
    shutil.move(tmp_path / "again" / "pool", tmp_path / "pool")
    run(home.root, "review", "pull", "pets@v2", "--from", answers)
    here = home.version("pets@v3")
    assert there.manifest.id == here.manifest.id != second.manifest.id and tree(there.data) == tree(here.data)
    assert there.manifest.objects == here.manifest.objects and there.manifest.images == here.manifest.images


@pytest.mark.parametrize("command", [("review", "queue", "pets"), ("review", "queue", "pets", "--audit", "5")])
def test_a_pulled_version_of_maps_says_before_the_work_that_people_cannot_correct_it(
    hub: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    publish(built(tmp_path, "semantic"), REPO)
    pull(REPO, Store(tmp_path / "away"))
    refused = run(tmp_path / "away", *command, code=1)
    assert "holds maps, which people cannot put right object by object" in refused.output


def test_what_cannot_be_had_is_said_before_the_work(hub: Path, tmp_path: Path) -> None:
    first = built(tmp_path, "detection", images={"drop_empty": True}, keep={"score": 0.9, "ignore": 0.8})
    publish(first, REPO)
    pull(REPO, Store(tmp_path / "away"))
    queued = run(tmp_path / "away", "review", "queue", "pets")
    empty = first.manifest.images["empty"]
    assert empty and f"the pictures of {empty} images on which nothing was kept are not" in queued.stderr
    assert (
        queued.stderr.count("\n") == 1
        and "made elsewhere" not in run(tmp_path / "store", "review", "queue", "pets").stderr
    )


def test_a_version_on_the_hub_is_explained_and_compared_and_pulled_for_the_rest(hub: Path, tmp_path: Path) -> None:
    first = built(tmp_path, "detection")
    second = corrected(first, Store(tmp_path / "store"), corrections(first, 1))
    publish(second, REPO)
    away = Store(tmp_path / "away")
    remote = open_version(f"hf://{REPO}@v2", away)
    key = next(images_of(second)).key
    assert explain(remote, key, away).objects == explain(second, key, Store(tmp_path / "other")).objects
    assert diff(first, remote).total == diff(first, second).total
    uses: list[Callable[[], Any]] = [
        lambda: verify(remote, away),
        lambda: publish(remote, "org/others"),
        lambda: queue(remote, away),
        lambda: remove(remote, away),
    ]
    for use in uses:
        with pytest.raises(BuildError, match=r"lies on the Hub: run `tutelage pull org/pets@v2` first"):
            use()


def test_versions_without_a_common_image_are_said_to_have_none(tmp_path: Path) -> None:
    first = built(tmp_path / "one", "detection")
    other = built(tmp_path / "two", "detection", start=900)
    difference = diff(first, other)
    assert difference.disjoint and not difference.mirrored().empty and not diff(first, first).disjoint
    done = CliRunner().invoke(main, ["diff", str(first.folder), str(other.folder)])
    assert done.exit_code == 0 and "share no image, so nothing that they say can be compared" in done.stderr
