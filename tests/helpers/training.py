"""A small training recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from students.train.recipe import TrainRecipe
from teachers.networks.config import NetworkConfig

NETWORK = {"backbone": "timm:test_resnet", "size": 64, "channels": 16, "head_depth": 1, "levels": [8, 16]}
SHORT = {"steps": 6, "batch": 4, "workers": 0, "save_every": 3, "lr": 1e-3}


def make_recipe(scenes: Path, **changes: Any) -> TrainRecipe:
    network = NetworkConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in NETWORK.items()})
    return TrainRecipe(**{"labelled": scenes, "network": network, **SHORT, **changes})
