"""Training curves: what TensorBoard reads is the log, after a crash too; W&B is never required."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from leapalign.config import RunConfig, resolve_run
from leapalign.settings import TrainSettings
from leapalign.trackers import PROJECT, drawing

LINE = {"reward": 0.25, "clip_fraction": None, "nfe": 40}


@pytest.fixture(scope="module")
def settings() -> TrainSettings:
    run = RunConfig(method="leapalign/configs/leapalign.yaml")
    return resolve_run("leapalign", run, "smoke", 0).train


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROJECT, raising=False)


def draw(folder: Path, settings: TrainSettings, iterations: range, offset: float = 0.0) -> None:
    with drawing(settings, iterations.start, folder) as plot:
        for iteration in iterations:
            plot(LINE | {"iteration": iteration, "reward": offset + iteration})


def drawn(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The points that TensorBoard shows, by name: step and value."""
    events = EventAccumulator(str(folder)).Reload()
    names = events.Tags()["scalars"]
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in names}


def test_every_number_of_the_log_is_a_point_and_null_is_none(
    settings: TrainSettings, tmp_path: Path
) -> None:
    draw(tmp_path, settings, range(3))
    assert drawn(tmp_path) == {
        "reward": [(0, 0.0), (1, 1.0), (2, 2.0)],
        "nfe": [(0, 40.0), (1, 40.0), (2, 40.0)],
    }


def test_a_resumed_training_replaces_what_came_after_its_checkpoint(
    settings: TrainSettings, tmp_path: Path
) -> None:
    draw(tmp_path, settings, range(5))
    draw(tmp_path, settings, range(3, 6), offset=0.5)
    points = [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.5), (4, 4.5), (5, 5.5)]
    assert drawn(tmp_path)["reward"] == points


def test_a_training_from_the_beginning_has_no_earlier_curves(
    settings: TrainSettings, tmp_path: Path
) -> None:
    draw(tmp_path, settings, range(5))
    draw(tmp_path, settings, range(2), offset=0.5)
    assert drawn(tmp_path)["reward"] == [(0, 0.5), (1, 1.5)]


def test_a_project_without_weights_and_biases_is_told_and_trains_on(
    settings: TrainSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(PROJECT, "alignment")
    monkeypatch.setitem(sys.modules, "wandb", None)
    draw(tmp_path, settings, range(1))
    assert drawn(tmp_path)["reward"] == [(0, 0.0)]
    assert "WANDB_PROJECT is set, but the training goes on without it" in capsys.readouterr().err


def test_a_configured_project_gets_the_run_its_settings_and_its_points(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, sent = [], []

    class Run:
        """A run that is its own context, as W&B's is."""

        def __init__(self, **options: object) -> None:
            begun.append(options)

        def __enter__(self) -> Run:
            return self

        def __exit__(self, *_: object) -> None:
            sent.append("finished")

        def log(self, points: dict[str, float], step: int) -> None:
            sent.append((step, points))

    fake = ModuleType("wandb")
    fake.init = Run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv(PROJECT, "alignment")
    draw(tmp_path, settings, range(2))
    [options] = begun
    assert (options["project"], options["id"]) == ("alignment", settings.recipe())
    assert options["config"] == json.loads(settings.json())
    assert sent == [
        (0, {"reward": 0.0, "nfe": 40}),
        (1, {"reward": 1.0, "nfe": 40}),
        "finished",
    ]
