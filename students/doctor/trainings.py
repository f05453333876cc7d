"""A run folder as the facts of its training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder.errors import BuildError, brief
from builder.store.text import read_json
from students.doctor.records import Training
from students.train.errors import TrainError
from students.train.run import LOG, RECIPE, read_log

PART = 10
"""Steps are looked at in tenths: enough of them that a mean is no accident."""
FEWEST = 100
"""Steps below which a tenth is an accident, so that nothing is said of how the loss went."""
SUMMARY = ("AP", "mIoU", "accuracy")
"""Of the figures on val the one that stands for all, as in a study."""


def read_recipe(run: Path) -> dict[str, Any]:
    """What `recipe.json` of a run says; {} where there is none to read."""
    if not (run / RECIPE).is_file():
        return {}
    content = read_json(run / RECIPE)
    return content if isinstance(content, dict) else {}


def learned_from(recipe: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """The versions of a run: `name`, `version` and `id` of each; None where its recipe does not say."""
    named = recipe.get("pseudo")
    keys = ("name", "version", "id")
    if not isinstance(named, list) or not all(
        isinstance(each, dict) and all(isinstance(each.get(key), str) for key in keys) for each in named
    ):
        return None
    return named


def read_training(run: Path) -> Training:
    """The facts of a run. Raises BuildError for one without a log, TrainError for a damaged one."""
    records, recipe = read_log(run), read_recipe(run)
    if not records and (run / LOG).is_file() and recipe:
        raise BuildError(f"{run} has not logged a step yet: ask again once it has")
    if not records or "human" not in records[-1]:
        raise BuildError(f"{run} has no {LOG} of a training: give the folder that `tutelage train` wrote")
    try:
        return _facts(records, recipe)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        what = f"{run / LOG} or {RECIPE} beside it holds what no training writes ({brief(error)})"
        raise TrainError(f"{what}: restore it from a copy, or train again") from None


def _facts(records: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]) -> Training:
    joint = any(record.get("pseudo_positives") for record in records)
    network = recipe.get("network") or {}
    clip = _number(recipe.get("clip_norm", math.nan), "clip_norm")
    half, norm = records[len(records) // 2 :], "gradient_norm"
    low, high = recipe.get("clip") or (0.1, 10.0)
    metric = next((name for name in SUMMARY if _shown(records, name)), "")
    end = _tenth(records, 1.0)
    _mean(records, "human")  # all of them are numbers, or it says which is none
    course = records if len(records) >= FEWEST else []
    return Training(
        steps=int(records[-1]["step"]),
        planned=int(recipe.get("steps", records[-1]["step"])),
        batch=int(recipe.get("batch", 0)),
        joint=joint,
        scratch=not recipe.get("init") and not network.get("pretrained"),
        alpha=_number(recipe.get("alpha", 1.0), "alpha"),
        lr=_number(recipe.get("lr", math.nan), "lr"),
        first=_mean(_tenth(course, 1 / PART), "human"),
        before=_mean(_tenth(course, 0.75), "human"),
        last=_mean(_tenth(course, 1.0), "human"),
        still=float(np.mean([not record.get("moved", True) for record in records])),
        clipped=float(np.mean([_number(record.get(norm) or 0.0, norm) > clip for record in half])),
        norm=_mean(half, norm),
        clip_norm=clip,
        ratio=_ratio(end, "ratio") if joint else math.nan,
        unclipped=_ratio(end, "ratio_unclipped") if joint else math.nan,
        limits=(float(low), float(high)),
        clip_rate=max(_plain(records[-1].get("clip_rate"))) if joint else 0.0,
        ignored=(_mean(records, "human_ignored", 0.0), _mean(records, "pseudo_ignored", 0.0)),
        metric=metric,
        val=tuple((step, _number(value, metric)) for step, value in _shown(records, metric)),
    )


def _number(value: Any, name: str) -> float:
    """A figure of the log or the recipe; a text or `true` is none, and what is none is refused with its name."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r}, no number")
    return float(value)


def _shown(records: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[int, Any]]:
    """What the log says of a metric on val, by step; null, as NaN is written, is nothing."""
    vals = [(record["step"], record.get("val") or {}) for record in records]
    return [(step, val[metric]) for step, val in vals if val.get(metric) is not None]


def _tenth(records: Sequence[Mapping[str, Any]], end: float) -> Sequence[Mapping[str, Any]]:
    """The tenth of the records that ends at this share of them; at least one."""
    last = max(1, round(end * len(records)))
    return records[max(0, last - max(1, len(records) // PART)) : last]


def _mean(records: Sequence[Mapping[str, Any]], name: str, without: float = math.nan) -> float:
    """Over the steps in which it is a finite number."""
    known = [_number(record[name], name) for record in records if record.get(name) is not None]
    return float(np.mean(known)) if known else without


def _plain(value: Any) -> list[float]:
    """A figure of the joint loss, or one for each of its terms."""
    values = value if isinstance(value, list) else [value]
    return [_number(each, "a ratio or clip_rate") for each in values if each is not None] or [0.0]


def _ratio(records: Sequence[Mapping[str, Any]], name: str) -> float:
    """The mean ratio; of several the one that is furthest from 1."""
    rows = [_plain(record[name]) for record in records if record.get(name) is not None]
    if not rows:
        return math.nan
    means = np.mean(np.array(rows), axis=0)
    return float(means[np.argmax(np.abs(np.log(np.maximum(means, 1e-9))))])
