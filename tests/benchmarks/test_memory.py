"""Memory: flat in steps, batch and active steps by the sweep; autograd's own grows by a graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import memory
from benchmarks.saved import metered_passes
from tests import tolerances


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("memory") / "memory.json"
    with pytest.MonkeyPatch.context() as patch:
        for name, values in {"STEPS": (2, 4), "IMAGES": (1, 2), "ACTIVE": (1, 2, 4, 8)}.items():
            patch.setattr(memory, name, values)
        memory.main(["--scale", "smoke", "--out", str(out)])
    return json.loads(out.read_text())


def rows(measured: dict[str, Any], key: str, method: str, column: str) -> list[float]:
    return [row[column] for row in measured[key] if row["method"] == method]


def test_the_sweep_is_flat_and_autograd_grows_by_a_graph_a_step(measured: dict[str, Any]) -> None:
    # Smoke has four steps, so that eight cannot train.
    assert rows(measured, "active", "sweep", "active") == [1, 2, 4]
    for key, ours, theirs, graphs in (
        ("steps", "leapalign", "full_backprop", [2, 4]),
        ("active", "sweep", "all_graphs", [1, 2, 4]),
    ):
        assert rows(measured, key, ours, "graphs") == [1] * len(graphs)
        assert rows(measured, key, theirs, "graphs") == graphs
        one = rows(measured, key, ours, "transformer_mb")[0]
        held = rows(measured, key, theirs, "transformer_mb")
        assert held == pytest.approx([n * one for n in graphs], rel=tolerances.SAVED)
        for kind in ("saved_mb", "transformer_mb"):
            flat, grown = (measured["summary"][key][way][kind] for way in (ours, theirs))
            assert flat["spread"] < tolerances.SAVED
            assert grown["growth"] == grown["over_first"][-1] > 1.1


def test_the_graphs_that_are_kept_give_the_sweeps_gradient(measured: dict[str, Any]) -> None:
    swept, kept = (rows(measured, "active", way, "grad_norm") for way in ("sweep", "all_graphs"))
    assert swept == pytest.approx(kept, rel=tolerances.SWEEP_NORM)


def test_memory_is_that_of_the_micro_batch_whatever_the_batch(measured: dict[str, Any]) -> None:
    saved = rows(measured, "micro_batch", "leapalign", "saved_mb")
    assert saved[1] == pytest.approx(2 * saved[0], rel=tolerances.SAVED)
    assert measured["summary"]["batch"]["leapalign"]["saved_mb"]["spread"] < tolerances.SAVED


def test_at_a_size_leapalign_goes_over_the_steps_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "FULL_STEPS", (2, 4))
    out = tmp_path / "memory.json"
    memory.main(["--size", "tiny", "--out", str(out)])
    found = json.loads(out.read_text())
    assert set(found["summary"]) == {"steps"}
    assert found["summary"]["steps"]["leapalign"]["transformer_mb"]["spread"] < tolerances.SAVED


def test_a_module_s_graphs_and_bytes_are_counted_without_weights() -> None:
    layer, x = nn.Linear(3, 5), torch.ones(2, 3)
    # Each pass saves its input, 6 float32 numbers; exp its output, 10, outside of the module.
    with metered_passes(layer, []) as (meter, passes):
        for _ in range(2):
            layer(x.clone()).exp().sum().backward()
        assert (meter.peak, passes.peak, passes.graphs) == (64, 24, 1)
        alive = [layer(x.clone()).exp() for _ in range(3)]
        assert (meter.peak, passes.peak, passes.graphs) == (192, 72, 3)
        with torch.no_grad():
            alive.append(layer(x.clone()))
        assert passes.graphs == 3
