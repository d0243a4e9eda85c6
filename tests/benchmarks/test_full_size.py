"""The full-size benchmark builds FLUX.1-dev's shapes, and takes an iteration apart, on a CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import full_size
from benchmarks.full_size import SIZES, with_random_weights
from benchmarks.passes import operations, recorded
from benchmarks.random_models import RandomFlux, RandomHPSv2
from benchmarks.turns import take_turn
from leapalign.streams import stream
from leapalign.training import prepare


def parameters(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_the_full_size_is_flux_1_dev_its_decoder_and_a_vit_h() -> None:
    settings = full_size.settings_at(SIZES["flux"], "leapalign")
    assert settings.training.adapter.rank == 128
    flux = RandomFlux.load(settings.backbone.path, settings.resolution, "meta")
    reward = RandomHPSv2.load(Path(settings.training.reward.path), torch.device("meta"))
    assert parameters(flux.transformer) == 11_901_408_320
    assert parameters(flux.pipeline.vae) == 83_819_683
    assert parameters(reward.model) == 986_109_441
    x = flux.latents([stream(0, "x")])
    assert x.shape == (1, 45 * 45, 64)
    with torch.no_grad(), recorded(flux.transformer) as passes:
        flux.field(["a prompt"], 3.5)(x, torch.ones(1, device="meta"))
    assert passes[0].inputs["encoder_hidden_states"].shape == (1, 512, 4096)
    forwards, replays = operations(flux.transformer, passes)
    assert forwards == pytest.approx(37e12, rel=0.01)
    assert replays == 0
    assert flux.decode(x).shape == (1, 3, 720, 720)


def test_a_prompt_has_the_same_encoding_in_any_company_and_images_are_finite() -> None:
    flux = RandomFlux.load("pocket/weights/base", 64)
    together, alone = flux.encode(["one", "two"]), flux.encode(["two"])
    assert torch.equal(together.tokens[1:], alone.tokens)
    assert torch.equal(together.pooled[1:], alone.pooled)
    assert not torch.equal(together.tokens[0], together.tokens[1])
    image = flux.decode(flux.latents([stream(0, "x")]))
    assert image.isfinite().all()
    assert image.std() > 0


def test_phases_make_up_the_iteration_and_operations_are_those_of_its_passes() -> None:
    settings = full_size.settings_at(SIZES["tiny"], "leapalign")
    budget = replace(settings.training, micro_batch=1)
    training = prepare(with_random_weights(replace(settings, training=budget)), "cpu")
    turn = take_turn(training)
    assert list(turn.phases) == ["draws", "rollout", "reward", "replay", "optimiser"]
    assert all(phase.seconds > 0 for phase in turn.phases.values())
    # The log's own clock stops at the iteration's end, as the last phase does.
    assert turn.seconds == pytest.approx(training.tally.seconds, rel=0.05)
    # Two images in micro-batches of one: four steps each, then both leaps again with gradient.
    assert [each.batch for each in turn.passes] == [1] * 12
    assert [each.replays for each in turn.passes] == 2 * ([False] * 4 + [True] * 2)
    transformer = training.problem.backbone.transformer
    forwards, replays = operations(transformer, turn.passes)
    one, _ = operations(transformer, turn.passes[:1])
    assert forwards == 8 * one
    # A forward, the blocks' once more, and at least the gradient with respect to activations.
    assert replays > 4 * 2.5 * one


def test_a_case_that_fails_is_told_and_the_other_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(_size: full_size.Size, name: str, _device: str, rate: float) -> dict[str, float]:
        if name == "leapalign":
            raise torch.OutOfMemoryError("2 GiB are wanted")
        return {"rate": rate}

    monkeypatch.setattr(full_size, "measure_case", measured)
    monkeypatch.setattr(full_size, "told", lambda name, _row: name)
    out = tmp_path / "full_size.json"
    with pytest.raises(SystemExit):
        full_size.main(["--size", "tiny", "--out", str(out)])
    assert "leapalign failed" in capsys.readouterr().err
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["cases"] == {
        "leapalign": {"error": "OutOfMemoryError: 2 GiB are wanted"},
        "dance_grpo": {"rate": pytest.approx(found["matrix_teraflops"] * 1e12)},
    }
    assert found["matrix_teraflops"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure at full size")
def test_full_size_is_refused_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        full_size.main(["--size", "flux", "--out", str(tmp_path / "full_size.json")])
    assert "--size tiny does not" in capsys.readouterr().err
