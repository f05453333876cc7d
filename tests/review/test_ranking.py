"""The queue: which images a person is asked to look at first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import BuildError
from builder.report.quality import thresholds
from builder.review.ranking import NEAR, Candidate, candidates, diverse, rank
from builder.scan.dhash import BITS
from builder.store.manifest import Manifest, read_manifest
from builder.store.store import Store
from builder.store.version import Version
from tests.helpers.reviewed import copied, make_store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("queue"), versions=(0.5, 0.6))


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return copied(made, tmp_path)


def version(store: Store, ref: str = "pets@v2") -> tuple[Path, Manifest]:
    folder = store.version(ref).folder
    return folder, read_manifest(folder)


def by_hand(folder: Path, manifest: Manifest) -> dict[str, tuple[float, float]]:
    """near and rare, one object after the other."""
    threshold = thresholds(manifest).kept_from
    kept = {name: counts["kept"] for name, counts in manifest.per_class.items()}
    found: dict[str, Any] = {}
    for row in pq.read_table(folder / "labels.parquet").to_pylist():
        mass, rarest = found.setdefault(row["key"], [0.0, 0.0])
        closeness = 0.0
        if row["outcome"] == "kept" or row["reason"] in ("ignore_band", "below_threshold"):
            closeness = max(0.0, 1 - abs(row["score"] - threshold[row["label"]]) / NEAR)
        if row["outcome"] != "dropped" or closeness > 0:
            name = manifest.classes[row["label"]]
            rarest = max(rarest, 1 - np.log1p(kept[name]) / np.log1p(max(kept.values())))
        found[row["key"]] = [mass + closeness, rarest]
    return {key: (mass / (1 + mass), rare) for key, (mass, rare) in found.items()}


def test_the_figures_are_those_of_a_sum_by_hand(store: Store) -> None:
    folder, manifest = version(store, "pets@v1")  # the first: it disagrees with nothing
    found = candidates(store, Version(folder, manifest), 100)
    expected = by_hand(folder, manifest)
    assert {one.key for one in found} == {key for key, parts in expected.items() if sum(parts) > 0}
    for one in found:
        assert (one.near, one.rare) == pytest.approx(expected[one.key], abs=1e-4)
        assert one.disagreement == 0 and one.gain == pytest.approx(one.near + one.rare)
    assert [one.gain for one in found] == sorted((one.gain for one in found), reverse=True)
    assert candidates(store, Version(folder, manifest), 3) == found[:3]


def test_disagreement_counts_what_changed_since_the_version_before(store: Store) -> None:
    from builder.versions.diff import diff

    folder, manifest = version(store)
    changed = diff(store.version("pets@v1"), Version(folder, manifest), limit=100).most_changed
    images = candidates(store, Version(folder, manifest), 100)
    found = {one.key: one.disagreement for one in images}
    assert any(found.values())
    assert all(one.gain == pytest.approx(one.near + one.rare + one.disagreement) for one in images)
    for key, disagreement in found.items():
        n = changed[key].weight[0] if key in changed else 0
        assert disagreement == pytest.approx(n / (1 + n))


def test_row_order_and_a_missing_pool_decide_nothing(store: Store, made: Path, tmp_path: Path) -> None:
    import shutil

    folder, manifest = version(store)
    first = rank(store, Version(folder, manifest), 6)
    assert len(first) == 6 and len({one.key for one in first}) == 6
    table = pq.read_table(folder / "labels.parquet")
    pq.write_table(table.take(np.random.default_rng(0).permutation(table.num_rows)), folder / "labels.parquet")
    assert rank(store, Version(folder, manifest), 6) == first
    shutil.rmtree(store.pools)  # as after a pull from the Hub: hashes come from the images themselves
    assert rank(store, Version(folder, manifest), 6) == first


def test_agreement_of_an_ensemble_is_used(store: Store) -> None:
    folder, manifest = version(store, "pets@v1")
    table = pq.read_table(folder / "labels.parquet")
    agree = np.where(np.array(table["key"].to_pylist()) == table["key"][0].as_py(), 1, 4).astype(np.int16)
    pq.write_table(table.append_column("agree", [agree]), folder / "labels.parquet")
    found = {one.key: one.disagreement for one in candidates(store, Version(folder, manifest), 100)}
    outcome = table.filter(agree < 4)["outcome"].to_pylist()
    assert set(outcome) - {"dropped"}
    assert found.pop(table["key"][0].as_py()) == pytest.approx(0.75)
    assert set(found.values()) == {0.0}


def test_tombstones_are_not_queued(store: Store) -> None:
    folder, manifest = version(store, "pets@v1")
    first = candidates(store, Version(folder, manifest), 1)[0].key
    gone = manifest.model_copy(update={"tombstones": [first]})
    assert first not in {one.key for one in candidates(store, Version(folder, gone), 100)}


def test_a_damaged_file_is_told_in_a_sentence(store: Store) -> None:
    folder, manifest = version(store, "pets@v1")
    (folder / "labels.parquet").write_bytes(b"nothing")
    with pytest.raises(BuildError, match=r"labels.parquet cannot be read .*verify --repair"):
        rank(store, Version(folder, manifest), 5)


hashes = st.lists(st.binary(min_size=BITS // 8, max_size=BITS // 8), min_size=1, max_size=12)


@given(hashes, st.integers(1, 12), st.integers(0, 16), st.randoms())
def test_near_duplicates_are_never_taken_twice(some: list[bytes], budget: int, alike: int, random: Any) -> None:
    some += [bytes([some[0][0] ^ 1]) + some[0][1:], some[0]]  # one bit apart, and none
    found = [Candidate(f"k{n}", random.random() + 0.1, 0, 0, 0) for n in range(len(some))]
    bits = np.frombuffer(b"".join(some), np.uint8).reshape(len(some), -1)
    taken = diverse(found, bits, budget, alike)
    assert len(taken) <= budget and taken[0].key == max(found, key=lambda one: one.gain).key
    place = {one.key: n for n, one in enumerate(found)}
    for n, one in enumerate(taken):
        for other in taken[:n]:
            a, b = bits[place[one.key]], bits[place[other.key]]
            if a.any() and b.any():
                assert np.unpackbits(a ^ b).sum() > alike
    if len(taken) < budget:  # whatever was left out is alike something taken
        for n in set(range(len(some))) - {place[one.key] for one in taken}:
            assert any(np.unpackbits(bits[n] ^ bits[place[one.key]]).sum() <= alike for one in taken)


def test_diversity_beats_a_little_more_gain() -> None:
    def row(byte: int) -> list[int]:
        return [byte] * (BITS // 8)

    found = [Candidate("best", 1.0, 0, 0, 0), Candidate("like it", 0.9, 0, 0, 0), Candidate("other", 0.5, 0, 0, 0)]
    bits = np.array([row(0b1111), row(0b1110), row(0b11110000)], np.uint8)
    assert [one.key for one in diverse(found, bits, 3, 4)] == ["best", "other", "like it"]
    assert [one.key for one in diverse(found, np.zeros_like(bits), 3, 4)] == ["best", "like it", "other"]
