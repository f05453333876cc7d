"""Audits: what is drawn, what a review says of it, and the estimate that follows."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import BuildError
from builder.evidence.estimate import Estimate, Stratum, audit
from builder.review import audits
from builder.review.audits import Audit, Audited, Bin, Drawn, Verdict, draw, judge, strata
from builder.review.objects import Edited, shown_objects
from builder.store.manifest import Manifest, read_manifest
from builder.store.store import Store
from builder.store.version import Version
from tests.helpers.reviewed import copied, make_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("audits"), images=40)


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return copied(made, tmp_path)


def version(store: Store) -> tuple[Path, Manifest]:
    folder = store.version("pets").folder
    return folder, read_manifest(folder)


# --- drawing -----------------------------------------------------------------------------------------------------------

some_cells = st.dictionaries(st.integers(0, audits.CELLS - 1), st.integers(1, 40), min_size=1, max_size=40)


@settings(max_examples=200)
@given(some_cells, st.integers(2, 300))
def test_strata_of_any_scores(cells: dict[int, int], count: int) -> None:
    bins, total = strata(cells, count), sum(cells.values())
    assert sum(one.objects for one in bins) == total
    assert sum(one.drawn for one in bins) == min(count, total)
    assert (bins[0].low, bins[-1].high) == (0, 1) and len({one.name for one in bins}) == len(bins) <= 5
    for one, after in pairwise(bins):
        assert one.high == after.low
    for one in bins:
        inside = [n for cell, n in cells.items() if one.low <= cell / audits.CELLS < one.high]
        assert sum(inside) == one.objects
        assert min(2, total) <= one.drawn <= one.objects or len(bins) == 1
        assert abs(one.drawn - one.objects * min(count, total) / total) < 1  # in proportion


def test_bins_are_about_equal_and_ties_stay_together() -> None:
    even = strata(dict.fromkeys(range(1000), 1), 200)
    assert [one.objects for one in even] == [200] * 5 and [one.drawn for one in even] == [40] * 5
    (one,) = strata({4095: 500}, 50)  # a teacher that only ever says 1.0
    assert (one.objects, one.drawn, one.low, one.high) == (500, 50, 0, 1)


def test_too_few_are_joined_or_refused() -> None:
    assert len(strata({10: 100, 20: 1, 30: 100}, 4)) == 2
    assert [one.drawn for one in strata({5: 1}, 200)] == [1]
    with pytest.raises(BuildError, match="nothing to audit"):
        strata({}, 200)
    with pytest.raises(BuildError, match="at least 2"):
        strata({5: 10}, 1)


def test_what_is_drawn_is_kept_once_and_its_probability_is_recorded(store: Store) -> None:
    folder, manifest = version(store)
    found = draw(Version(folder, manifest), 30, seed=3)
    shown = {one.id: one for some in shown_objects(Version(folder, manifest)) for one in some}
    assert len({item.id for item in found.items}) == len(found.items) == 30
    counts = Counter(item.stratum for item in found.items)
    for one in found.bins:
        assert counts[one.name] == one.drawn
    by_name = {one.name: one for one in found.bins}
    for item in found.items:
        there, one = shown[item.id], by_name[item.stratum]
        assert there.outcome == "kept"
        assert (there.key, there.label) == (item.key, item.label) and there.box == pytest.approx(item.box)
        assert there.score == pytest.approx(item.score) and one.low <= item.score < one.high
        assert item.probability == one.drawn / one.objects
    assert sum(one.objects for one in found.bins) == manifest.kept


def test_the_seed_decides_and_the_order_of_rows_does_not(store: Store) -> None:
    folder, manifest = version(store)
    first = draw(Version(folder, manifest), 30, seed=3)
    assert draw(Version(folder, manifest), 30, seed=3) == first != draw(Version(folder, manifest), 30, seed=4)
    table = pq.read_table(folder / "labels.parquet")
    keys = np.array(table["key"].to_pylist())
    order = np.lexsort((np.arange(len(keys)), [list(dict.fromkeys(keys)).index(key) * -1 for key in keys]))
    pq.write_table(table.take(order), folder / "labels.parquet")  # images the other way round
    assert draw(Version(folder, manifest), 30, seed=3) == first


def test_every_object_is_drawn_as_often_as_its_probability_says(store: Store) -> None:
    folder, manifest = version(store)
    rounds = 60
    found = [draw(Version(folder, manifest), 24, seed=seed) for seed in range(rounds)]
    counts = Counter(item.id for one in found for item in one.items)
    expected = found[0].items[0].probability * rounds  # strata are of nearly equal size: about the same for all
    assert len(counts) == manifest.kept  # all have come up
    assert max(counts.values()) < 2.5 * expected


def test_tombstoned_objects_are_not_drawn(store: Store) -> None:
    folder, manifest = version(store)
    whole = draw(Version(folder, manifest), 10_000)
    key = whole.items[0].key
    rest = draw(Version(folder, manifest.model_copy(update={"tombstones": [key]})), 10_000)
    assert [item.id for item in rest.items] == [item.id for item in whole.items if item.key != key]


# --- judging -----------------------------------------------------------------------------------------------------------

BOX = (10.0, 10.0, 20.0, 20.0)
SAMPLE = Audit(
    version="pets@v1",
    id="0" * 64,
    seed=0,
    bins=(Bin(name="all", low=0, high=1, objects=10, drawn=1),),
    items=(Drawn(id="a#0", key="a", label="cat", score=0.9, box=BOX, stratum="all", probability=0.1),),
)


def edited(**changes: object) -> Edited:
    return Edited(**{"id": "a#0", "key": "a", "label": "cat", "box": BOX, "verdict": None, "author": "ann"} | changes)  # type: ignore[arg-type]


CASES = [
    ("its image did not come back", [], [], [], None),
    ("left as it is", [edited()], ["a"], [], None),
    ("left as it is on a finished image", [edited()], ["a"], ["a"], True),
    ("accepted", [edited(verdict="accept")], ["a"], [], True),
    ("rejected", [edited(verdict="reject")], ["a"], ["a"], False),
    ("deleted", [], ["a"], [], False),
    ("another class", [edited(label="dog")], ["a"], ["a"], False),
    ("another class, accepted", [edited(label="dog", verdict="accept")], ["a"], [], False),
    ("moved a little", [edited(box=(11, 11, 21, 21))], ["a"], [], True),
    ("moved far", [edited(box=(17, 17, 27, 27))], ["a"], ["a"], False),
    ("moved far, accepted", [edited(box=(17, 17, 27, 27), verdict="accept")], ["a"], [], False),
    ("rounded by a tool", [edited(box=(10.3, 10.3, 20.3, 20.3))], ["a"], [], None),
    ("another box", [edited(id="a#1"), edited(id=None)], ["a"], ["a"], False),
]


@pytest.mark.parametrize(("what", "edits", "images", "finished", "right"), CASES, ids=[case[0] for case in CASES])
def test_what_counts_as_a_verdict(
    what: str, edits: list[Edited], images: list[str], finished: list[str], right: bool | None
) -> None:
    assert judge(SAMPLE, edits, images, finished) == ({} if right is None else {"a#0": right})


# --- estimating --------------------------------------------------------------------------------------------------------


def test_the_estimate_is_that_of_the_strata_and_only_once_all_have_a_verdict(store: Store) -> None:
    folder, manifest = version(store)
    drawn = draw(Version(folder, manifest), 20)
    path = audits.save(store, drawn)
    assert path == store.root / "reviews/pets/audits" / f"{manifest.id[:12]}-{drawn.name[13:]}.json"
    before = path.read_bytes()
    assert audits.save(store, drawn) == path and path.read_bytes() == before
    (empty,) = audits.read(store, manifest)
    assert (empty.audit, empty.missing, empty.estimate) == (drawn, 20, None) and audits.latest(store, manifest) is None

    right = {item.id: n % 4 > 0 for n, item in enumerate(drawn.items)}
    authors = dict.fromkeys(right, "ann")
    some = dict(list(right.items())[:12])
    part = audits.record(store, empty, some, authors)
    assert (part.missing, part.estimate, audits.latest(store, manifest)) == (8, None, None)
    whole = audits.record(store, empty, dict(list(right.items())[12:]), authors)  # adds to what is saved
    assert whole.missing == 0 and whole.verdicts["" + drawn.items[1].id] == Verdict(right=True, author="ann")
    by_bin = Counter((item.stratum, right[item.id]) for item in drawn.items)
    expected = audit([Stratum(b.objects, b.drawn, by_bin[b.name, True]) for b in drawn.bins])
    assert whole.estimate == expected
    assert audits.latest(store, manifest) == whole == audits.read(store, manifest)[0]
    said = audits.sentence(whole, "detection")
    assert said.startswith(
        f"Audited: 20 of {manifest.kept} kept boxes, drawn at random within 5 score bins, were looked"
    )
    assert f"precision {expected.precision:.2f} (90% interval {expected.low:.2f} to {expected.high:.2f})" in said

    changed = audits.record(store, whole, {drawn.items[0].id: True}, {drawn.items[0].id: "bob"})
    assert changed.estimate is not None and changed.estimate.precision > expected.precision


def test_the_largest_finished_audit_is_the_latest(store: Store) -> None:
    folder, manifest = version(store)
    for count, finished in ((12, True), (20, True), (30, False)):
        audits.save(store, drawn := draw(Version(folder, manifest), count))
        if finished:
            verdicts = {item.id: True for item in drawn.items}
            audits.record(store, Audited(drawn, {}, None), verdicts, dict.fromkeys(verdicts, "ann"))
    found = audits.latest(store, manifest)
    assert found is not None and len(found.audit.items) == 20 and len(audits.read(store, manifest)) == 3
    other = manifest.model_copy(update={"id": manifest.id[:12] + "0" * 52})  # of another version
    assert audits.latest(store, other) is None


def test_an_audit_of_everything_is_certain(store: Store) -> None:
    folder, manifest = version(store)
    audits.save(store, drawn := draw(Version(folder, manifest), 10_000))
    verdicts = {item.id: n > 0 for n, item in enumerate(drawn.items)}
    done = audits.record(store, Audited(drawn, {}, None), verdicts, dict.fromkeys(verdicts, "ann"))
    share = 1 - 1 / manifest.kept
    assert isinstance(done.estimate, Estimate)
    assert (done.estimate.low, done.estimate.high) == pytest.approx((share, share))
    value = audits.estimate_value(done)
    assert value and value["effective"] is None and value["wrong"] == {drawn.items[0].label: 1}
    assert audits.read(store, manifest) == [done]


@pytest.mark.parametrize("suffix", [".json", ".verdicts.json"])
@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"verdicts": {"a#0": 1}}', b'{"verdicts": 3}'])
def test_a_damaged_audit_is_told_in_a_sentence(store: Store, suffix: str, data: bytes) -> None:
    folder, manifest = version(store)
    path = audits.save(store, draw(Version(folder, manifest), 20))
    path.with_suffix(suffix).write_bytes(data)
    with pytest.raises(BuildError, match=r"json is damaged .*: .*remove it") as caught:
        audits.read(store, manifest)
    assert "\n" not in str(caught.value)


def test_labels_that_cannot_be_read_are_told_in_a_sentence(store: Store) -> None:
    folder, manifest = version(store)
    (folder / "labels.parquet").write_bytes(b"PAR1")
    with pytest.raises(BuildError, match=r"cannot be read .*verify --repair"):
        draw(Version(folder, manifest), 20)
