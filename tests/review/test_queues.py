"""Queues and reviews from Python, without the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from builder.cli.main import main
from builder.errors import BuildError
from builder.review import audits
from builder.review.exchange import AnnotationError
from builder.review.pull import read_answers, take_over
from builder.review.queues import queue, queue_audit, write_queue
from builder.review.ranking import remember
from builder.rules.overrides import read_overrides
from builder.store.store import Store
from builder.versions.media import images_of
from tests.helpers.pools import tree, write_results
from tests.helpers.reviewed import copied, make_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("queues"))


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return copied(made, tmp_path)


def submit(tasks: Path, path: Path, changed: int = 1) -> Path:
    """Label Studio's export of the tasks, from one of which (the first; 0: none) a person deleted a box."""
    content: list[dict[str, Any]] = orjson.loads(tasks.read_bytes())
    for number, task in enumerate(content, 1):
        results = task.pop("predictions")[0]["result"]
        annotation = {"id": number, "updated_at": "2026-01-01T00:00:00Z", "result": results[number == changed :]}
        task |= {"id": number, "annotations": [annotation]}
    path.write_bytes(orjson.dumps(content))
    return path


def test_a_queue_ranks_and_writes_nothing(store: Store) -> None:
    before = tree(store.root)
    queued = queue(store.version("pets"), store, budget=3)
    assert queued.version.ref == "pets@v1" and len(queued.keys) == 3 and queued.audit is None
    assert queued.keys == tuple(candidate.key for candidate in queued.candidates)
    assert tree(store.root) == before


def test_an_audit_is_saved_unless_it_is_a_dry_run(store: Store) -> None:
    dry = queue_audit(store.version("pets"), 6, store, seed=1, dry_run=True)
    assert dry.saved is None and not (store.root / "reviews").exists()
    queued = queue_audit(store.version("pets"), 6, store, seed=1)
    assert queued.audit == dry.audit and queued.saved and queued.saved.is_file()
    (known,) = audits.read(store, store.version("pets").manifest)
    assert known.audit == queued.audit


@pytest.mark.parametrize(
    ("tool", "prefix"), [("labelstudio", None), ("labelstudio", "https://example.org"), ("cvat", None)]
)
def test_files_for_a_tool(store: Store, tmp_path: Path, tool: Any, prefix: str | None) -> None:
    files = write_queue(queue(store.version("pets"), store, budget=3), tool, tmp_path / "queue", url_prefix=prefix)
    assert files.tasks == tmp_path / "queue" and files.tasks.is_file() and files.settings.is_file()
    assert (files.images is None) == (prefix is not None)
    assert files.images is None or len(list(files.images.iterdir())) == 3
    with pytest.raises(BuildError, match="already there"):
        write_queue(queue(store.version("pets"), store, budget=2), tool, tmp_path / "queue", url_prefix=prefix)


@pytest.mark.parametrize(("tool", "suffix"), [("labelstudio", "json"), ("cvat", "xml")])
def test_a_queue_is_not_called_an_archive(store: Store, tmp_path: Path, tool: Any, suffix: str) -> None:
    with pytest.raises(BuildError, match=rf"no ZIP archive.*one file, such as .*\.{suffix}$"):
        write_queue(queue(store.version("pets"), store, budget=1), tool, tmp_path / "tasks.zip")
    assert not list(tmp_path.glob("tasks*"))


def test_an_unknown_tool(store: Store, tmp_path: Path) -> None:
    unknown: Any = "paper"
    with pytest.raises(BuildError, match="labelstudio or cvat"):
        write_queue(queue(store.version("pets"), store, budget=1), unknown, tmp_path / "queue")


def test_a_review_is_taken_over(store: Store, tmp_path: Path) -> None:
    files = write_queue(queue(store.version("pets"), store, budget=3), "labelstudio", tmp_path / "queue.json")
    returned = read_answers(submit(files.tasks, tmp_path / "export.json"), store.version("pets"), "ann")
    before = tree(store.root)
    dry = take_over(returned, store.version("pets"), store, dry_run=True)
    assert dry.overrides is None and dry.cut is None and tree(store.root) == before
    kept = take_over(returned, store.version("pets"), store, build=False)
    assert kept.is_news and kept.cut is None and kept.images == 3 and kept.actions["reject"] == 1
    assert kept.actions == dry.actions and {one.author for one in read_overrides(store, "pets")} == {"ann"}
    taken = take_over(returned, store.version("pets"), store)
    assert taken.cut and taken.cut.manifest.version == "v2" and taken.overrides and taken.overrides.added == 0
    with pytest.raises(AnnotationError, match=r"pets@v2 has .* give the version that they were read for"):
        take_over(read_answers(tmp_path / "export.json", store.version("pets@v1")), store.version("pets@v2"), store)
    files = write_queue(queue(store.version("pets@v2"), store, budget=3), "labelstudio", tmp_path / "second.json")
    unchanged = submit(files.tasks, tmp_path / "unchanged.json", changed=0)
    again = take_over(read_answers(unchanged, store.version("pets@v2"), "ann"), store.version("pets@v2"), store)
    assert not again.is_news and again.cut is None


@pytest.mark.parametrize(
    ("score", "reviewed", "said"),
    [
        (0.5, True, "people went through all images of pets@v1 that are worth a look: --again"),
        (0.9999, False, "nothing is kept in pets@v1: build it with lower thresholds"),
    ],
)
def test_an_empty_queue_says_why(tmp_path: Path, score: float, reviewed: bool, said: str) -> None:
    store = Store(make_store(tmp_path, images=6))
    version = store.version("pets")
    if not reviewed:
        shutil.rmtree(store.root)
        names = [path.name for path in sorted((tmp_path / "pool").iterdir())]
        write_results(tmp_path, names, empty=4)
        keep = ["--set", f"keep.score={score}", "--set", "keep.ignore=null", "--allow-empty"]
        done = CliRunner().invoke(main, ["build", str(tmp_path / "recipe.yaml"), "--store", str(store.root), *keep])
        assert done.exit_code == 0, done.output
    else:
        remember(store, "pets", [image.sha256 for image in images_of(version)])
    done = CliRunner().invoke(main, ["review", "queue", "pets", "--store", str(store.root)])
    assert done.exit_code == 0 and "0 images: " + said in done.output
    asked = CliRunner().invoke(main, ["review", "queue", "pets", "--json", "--store", str(store.root)])
    assert said in orjson.loads(asked.stdout)["why_none"]
