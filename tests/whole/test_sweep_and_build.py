"""What `sweep` counts is what `build` keeps, at every row: for scores with ties, decimals and neighbours in float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.cli.main import main
from builder.evidence.sweep import LADDER
from tests.helpers.pools import write_recipe, write_world

NEIGHBOURS = [float(np.nextafter(np.float32(value), np.float32(side))) for value in LADDER for side in (0, 1)]
SCORES = st.lists(st.sampled_from([*LADDER, 0.99999, *NEIGHBOURS]) | st.floats(0.0625, 1, width=32), min_size=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, pool=6, truth=16)
    return folder


def value(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


@pytest.mark.parametrize("calibration", ["none", "temperature", "isotonic"])
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scores=SCORES)
def test_every_row_of_a_sweep_is_what_a_build_keeps(
    world: Path, tmp_path_factory: pytest.TempPathFactory, calibration: str, scores: list[float]
) -> None:
    results = json.loads((world / "results.json").read_text())
    drawn = [result | {"score": scores[n % len(scores)]} for n, result in enumerate(results)]
    (world / "results.json").write_text(json.dumps(drawn))
    keep = {"score": 0.5, "ignore": None, "calibration": calibration}
    recipe = write_recipe(
        world, truth={"source": "truth.json", "images": "truth"}, keep=keep, gates={"coverage": "off"}
    )
    store = tmp_path_factory.mktemp("store")
    value("build", recipe, "--only", "label", "--store", store)
    points = value("sweep", recipe, "--store", store)["points"]["all classes"]
    assert {*LADDER} <= {point["threshold"] for point in points}
    for point in [point for point in points if point["pool_boxes"]]:
        setting = f"keep.score={point['threshold']}"
        built = value("build", recipe, "--set", setting, "--no-report", "--store", store)
        assert built["kept"] == point["pool_boxes"], setting
