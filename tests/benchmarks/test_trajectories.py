"""What a trajectory's length does, measured on a tiny FLUX."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import trajectories
from leapalign.settings import Backbone, Method, Optimizer, Reward, Training, TrainSettings
from tests import tolerances


@pytest.fixture
def settings(tiny_flux_folder: Path, tmp_path: Path) -> TrainSettings:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\ntwo blue squares\n")
    reward = Reward("hpsv2", "pocket/weights/hpsv2", 0.55)
    training = Training(
        str(prompts), 4, 3.5, 2, 2, Optimizer(lr=1e-3), 1.0, 0.9, reward, micro_batch=2
    )
    flux = Backbone("leapalign.backbones.flux:Flux", str(tiny_flux_folder))
    return TrainSettings("test", 0, flux, 64, Method("leapalign.leap:LeapAlign"), training)


@pytest.fixture
def measured(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[dict[str, float]]]:
    monkeypatch.setattr(trajectories, "STEPS", (2, 3, 4))
    out = tmp_path / "trajectories.json"
    trajectories.main(["--settings", settings.json(), "--out", str(out)])
    return json.loads(out.read_text())


def test_full_backpropagation_saves_a_graph_a_step_and_leaps_as_much_whatever_the_length(
    measured: dict[str, list[dict[str, float]]],
) -> None:
    found = {(row["method"], row["steps"]): row for row in measured["lengths"]}
    assert set(found) == {(m, t) for m in ("leapalign", "full_backprop") for t in (2, 3, 4)}
    assert all(row["grad_norm"] > 0 for row in found.values())
    ours, whole = (
        [found[method, steps]["saved_mb"] for steps in (2, 3, 4)]
        for method in ("leapalign", "full_backprop")
    )
    assert ours == pytest.approx([ours[0]] * 3, rel=tolerances.SAVED)
    graph = whole[1] - whole[0]
    assert whole[2] - whole[1] == pytest.approx(graph, rel=tolerances.SAVED)
    assert graph > 0
    assert whole[0] > ours[0]


def test_residuals_cover_every_pair_of_steps_and_a_single_step_lands_exactly(
    measured: dict[str, list[dict[str, float]]], settings: TrainSettings
) -> None:
    rows = measured["residuals"]
    # C(5, 2) pairs of the 4-step grid's levels, on both images.
    assert sum(row["pairs"] for row in rows) == 10 * 2
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows)
    leap = Method("leapalign.leap:LeapAlign", {"leaps": 1})
    one = replace(settings, method=leap, training=replace(settings.training, steps=1))
    [alone] = trajectories.residuals(one, "cpu")
    assert alone["mean"] == pytest.approx(0.0, abs=1e-6)
