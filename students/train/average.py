"""An exponential moving average of a network's weights, which often does better than the last of them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """The average over the steps of `network`, buffers included; with decay 0 it is the network itself.

    After the n-th update the average is d * average + (1 - d) * weights, d = min(decay, n / (n + 9)), so that the
    random start is soon forgotten (TensorFlow's ExponentialMovingAverage with `num_updates`; the first update takes the
    weights as they are). Whole numbers among the buffers, which nothing here reads, are rounded down.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._live = network
        towards = partial(_towards, decay)
        self._model = AveragedModel(network, multi_avg_fn=towards, use_buffers=True) if decay else None

    @property
    def network(self) -> nn.Module:
        """What is to be evaluated: the average, on the network's device."""
        return self._live if self._model is None else self._model.module

    def update(self) -> None:
        """Let the network's present weights in."""
        if self._model is not None:
            self._model.update_parameters(self._live)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._model is None else self._model.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self._model is not None:
            self._model.load_state_dict(state)


def ema_decay(decay: float, updates: int) -> float:
    """The share of the old average that stays at update number `updates`, 1, 2, …"""
    return min(decay, updates / (updates + 9))


def _towards(decay: float, averages: list[Tensor], weights: list[Tensor], updates: Tensor) -> None:
    """updates: before this one."""
    get_ema_multi_avg_fn(ema_decay(decay, int(updates) + 1))(averages, weights, updates)
