"""SimCLR: its loss, its views and its batches of a pool's images."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import cosine_similarity

from builder.scan.scanner import scan_pool
from builder.store.store import Store
from students.pretrain.simclr import PoolImages, ViewBatches, Views, nt_xent
from students.train.errors import TrainError
from tests.helpers.pools import write_images


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    write_images(folder, 20)
    return folder


def hashes(folder: Path) -> set[str]:
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


# ------------------------------------------------------------------ the loss


@pytest.mark.parametrize(
    ("temperature", "expected"), [(0.1, 1.1536785364151), (0.5, 1.2753217220306396), (1.0, 1.532593846321106)]
)
def test_the_loss_is_that_of_lightly(temperature: float, expected: float) -> None:
    """Figures: NTXentLoss of lightly 1.6.0."""
    first = torch.tensor([[1.0, 0, 2], [0, 1, 1], [-1, 2, 0], [3, 1, -2]])
    second = torch.tensor([[2.0, 0, 1], [1, 1, 0], [-1, 1, 1], [1, 1, -1]])
    assert nt_xent(first, second, temperature)[0].item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(2, 6), st.floats(0.1, 2), st.integers(0, 2**32 - 1))
def test_the_loss_is_a_classification_of_partners(count: int, width: int, temperature: float, seed: int) -> None:
    """Oracle: scikit-learn's cosine similarity and log loss of choosing one of the others."""
    first, second = np.random.default_rng(seed).normal(size=(2, count, width))
    similarity = cosine_similarity(np.concatenate([first, second])) / temperature
    np.fill_diagonal(similarity, -np.inf)
    shares = np.exp(similarity - similarity.max(1, keepdims=True))
    partner = np.roll(np.arange(2 * count), count)
    expected = log_loss(partner, shares / shares.sum(1, keepdims=True), labels=np.arange(2 * count))
    loss, accuracy = nt_xent(torch.from_numpy(first), torch.from_numpy(second), temperature)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert accuracy.item() == pytest.approx(np.mean(similarity.argmax(1) == partner))


def test_the_loss_of_views_that_agree_is_small_and_its_accuracy_1() -> None:
    views = torch.eye(8)
    loss, accuracy = nt_xent(views, 3 * views, 0.05)
    assert loss.item() < 1e-6 and accuracy.item() == 1


# ------------------------------------------------------------------ views and batches


def test_views_follow_their_seed_and_leave_the_networks_random_state() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    views = Views(size=24, min_scale=0.08, flip=True, colour=1.0, blur=True)
    before = torch.get_rng_state()
    ours = views(pixels, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert ours.shape == (2, 3, 24, 24) and ours.dtype == torch.uint8
    assert not torch.equal(ours[0], ours[1])
    torch.manual_seed(99)
    assert torch.equal(views(pixels, 5), ours) and not torch.equal(views(pixels, 6), ours)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"flip": True}, False),
        ({"colour": 1.0}, False),
        ({"blur": True}, False),
        ({"min_scale": 0.1}, False),
    ],
)
def test_each_switch_of_a_view_does_something(changes: dict[str, Any], same: bool) -> None:
    """Whole, unflipped, uncoloured views are the image itself."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    views = Views(**{"size": 24, "min_scale": 1.0, "flip": False, "colour": 0.0, "blur": False, **changes})
    seen = torch.cat([views(pixels, seed) for seed in range(8)])
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    assert all(torch.equal(view, image) for view in seen) is same


def test_a_batch_has_no_image_twice_and_an_epoch_all_that_fill_batches() -> None:
    images = [np.full((8, 8, 3), value, np.uint8) for value in range(11)]
    views = Views(size=8, min_scale=1.0, flip=False, colour=0.0, blur=False)
    batches = ViewBatches(images, views, batch=4, seed=3)
    orders = []
    for step in range(6):  # two an epoch
        first, second = batches[step][:, :, 0, 0, 0]
        assert torch.equal(first, second) and len(set(first.tolist())) == 4
        orders.append(first.tolist())
    for epoch in range(3):
        assert len({*orders[2 * epoch], *orders[2 * epoch + 1]}) == 8
    assert orders[:2] != orders[2:4]
    assert torch.equal(ViewBatches(images, views, batch=4, seed=3)[5], batches[5])
    with pytest.raises(TrainError, match="batch 12 is more than the pool's 11 images"):
        ViewBatches(images, views, batch=12, seed=0)


def test_images_come_in_an_order_that_no_name_decides(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for number, path in enumerate(sorted(pool.iterdir(), reverse=True)):
        (tmp_path / "other" / f"{number}.jpg").write_bytes(path.read_bytes())
    (tmp_path / "other" / "copy.jpg").write_bytes((tmp_path / "other" / "0.jpg").read_bytes())
    (tmp_path / "other" / "broken.jpg").write_bytes(b"no image")
    store = Store(tmp_path / "store")
    ours, others = (
        PoolImages(scan_pool(str(pool), store)),
        PoolImages(scan_pool(str(tmp_path / "other"), store, chunk_size=3)),
    )
    assert ours.sha256 == others.sha256 == sorted(hashes(pool))
    assert np.array_equal(ours[7], others[7])
    (tmp_path / "other" / "3.jpg").write_bytes(b"changed")
    with pytest.raises(Exception, match="changed since it was scanned"):
        list(map(others.__getitem__, range(20)))
