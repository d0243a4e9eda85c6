"""How a training uses its machine changes memory and time, not its gradients."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.saved import metered
from leapalign.backbones.flux import Flux
from leapalign.compute import blocks, fit, load_types, lower
from leapalign.data import Prompt, Sampler
from leapalign.errors import UserError
from leapalign.parallel import ALONE
from leapalign.problem import TrainingProblem
from leapalign.rewards import load_reward
from leapalign.samplewise import in_parts
from leapalign.settings import Adapter, Compute, TrainSettings
from leapalign.sharding import Sharding
from leapalign.streams import stream
from leapalign.training import prepare
from tests import tolerances
from tests.leapalign.problems import PROMPTS, gradient, relative_error


@pytest.fixture
def fitted(tiny_flux_folder: Path) -> Callable[[Compute], Flux]:
    def make(compute: Compute) -> Flux:
        flux = Flux.load(tiny_flux_folder, 64)
        fit(flux, compute)
        return flux

    return make


@pytest.fixture
def problem(settings: TrainSettings, flux: Flux) -> TrainingProblem:
    budget = settings.training
    reward = load_reward(budget.reward.name, budget.reward.path)
    sampler = Sampler([Prompt(text) for text in PROMPTS], 0)
    return TrainingProblem(flux, reward, sampler, budget, 0, ALONE, Sharding(flux.transformer))


def slopes(problem: TrainingProblem) -> tuple[Tensor, Tensor, int]:
    """Scores and their gradient, each sample's with another weight, and the bytes held for it."""
    x = problem.noise(0, range(3), "initial").requires_grad_()
    frozen = [problem.backbone.pipeline.vae, problem.reward.model]
    with metered(weight for model in frozen for weight in model.parameters()) as meter:
        scores = problem.score(x, PROMPTS)
        (scores * torch.tensor([1.0, -2.0, 0.0])).sum().backward()
    return scores.detach(), x.grad, meter.peak


def test_few_images_at_once_have_the_scores_and_gradients_of_all(problem: TrainingProblem) -> None:
    scores, slope, peak = slopes(problem)
    for size in (1, 2, 3, 7):
        problem.image_batch = size
        few_scores, few_slope, few_peak = slopes(problem)
        torch.testing.assert_close(few_scores, scores)
        assert relative_error(few_slope, slope) < tolerances.BATCH_SPLIT
        assert few_peak < 1.1 * peak * min(size, 3) / 3
        with torch.no_grad():
            torch.testing.assert_close(
                problem.score(problem.noise(0, range(3), "initial"), PROMPTS), scores
            )


def test_a_sample_has_the_gradient_of_its_own_value() -> None:
    """Against autograd of f(x) = Σ sin(x) · (row + 1), in float64."""
    x = torch.randn(5, 2, 3, generator=stream(0), dtype=torch.float64, requires_grad=True)
    weight = torch.arange(1.0, 6.0, dtype=torch.float64)

    def function(rows: Tensor, part: slice) -> Tensor:
        return rows.sin().sum(dim=(1, 2)) * weight[part]

    whole = function(x, slice(None)).square().sum()
    parted = in_parts(function, x, 2).square().sum()
    torch.testing.assert_close(parted, whole)
    torch.testing.assert_close(*(torch.autograd.grad(one, x)[0] for one in (parted, whole)))


def test_a_lowered_transformer_takes_and_gives_float32_and_its_time_is_not_rounded() -> None:
    class Seen(torch.nn.Module):
        def forward(self, hidden_states: Tensor, timestep: Tensor) -> tuple[Tensor]:
            assert hidden_states.dtype == torch.bfloat16
            torch.testing.assert_close(timestep, torch.tensor([723.4]), rtol=0.0, atol=0.0)
            return (hidden_states * timestep.to(hidden_states.dtype),)

    transformer = Seen()
    lower(transformer, torch.bfloat16)
    (given,) = transformer(hidden_states=torch.ones(2), timestep=torch.tensor([723.4]))
    assert given.dtype == torch.float32


def test_recomputed_blocks_have_the_same_gradient_and_keep_less(
    fitted: Callable[[Compute], Flux], flux: Flux
) -> None:
    """Bit for bit, in transformer and decoder; a pass without gradient runs a block once."""
    other = fitted(Compute(recompute=True))
    runs = {id(block): 0 for block in blocks(other.transformer)}

    def count(module: torch.nn.Module, *_: object) -> None:
        runs[id(module)] += 1

    for block in blocks(other.transformer):
        block.register_forward_pre_hook(count)
    found = []
    for model in (flux, other):
        x = model.latents([stream(0, slot) for slot in range(3)]).requires_grad_()
        parameters = list(model.transformer.parameters())
        with metered([*parameters, *model.pipeline.vae.parameters()]) as meter:
            v = model.field(PROMPTS, 3.5)(x, torch.tensor([0.9, 0.5, 0.1]))
            loss = model.decode(x - v).square().mean()
            gradients = torch.autograd.grad(loss, [x, *parameters])
        found.append((gradients, meter.peak))
    assert all(torch.equal(*pair) for pair in zip(found[0][0], found[1][0], strict=True))
    assert found[1][1] < found[0][1] / 2
    assert set(runs.values()) == {2}
    with torch.no_grad():
        other.field(PROMPTS, 3.5)(x, torch.ones(3))
    assert set(runs.values()) == {3}


def test_a_training_that_computes_again_is_the_same_bit_for_bit(settings: TrainSettings) -> None:
    runs = [
        prepare(dataclasses.replace(settings, compute=compute), "cpu")
        for compute in (Compute(), Compute(recompute=True), Compute(image_batch=1))
    ]
    lines = [run.iterate() for run in runs]
    whole, again, _ = (run.problem.backbone.transformer.state_dict() for run in runs)
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert lines[1]["grad_norm"] == lines[0]["grad_norm"]
    assert lines[2]["reward"] == pytest.approx(lines[0]["reward"], rel=1e-6)
    assert lines[2]["grad_norm"] == pytest.approx(lines[0]["grad_norm"], rel=1e-4)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler, g++")
def test_compiled_blocks_have_the_eager_gradient(
    flux: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two blocks of a kind are compiled once, and keep their weights' names."""
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    config = {**flux.transformer.config, "num_layers": 0, "num_single_layers": 2}
    eager = type(flux.transformer).from_config(config)
    compiled = copy.copy(flux)
    compiled.pipeline = copy.copy(flux.pipeline)
    compiled.pipeline.transformer = copy.deepcopy(eager)
    fit(compiled, Compute(compile=True))
    assert compiled.transformer.state_dict().keys() == eager.state_dict().keys()
    x, time = flux.latents([stream(0, 0)]), torch.tensor([0.5])

    def replay() -> None:
        compiled.field(PROMPTS[:1], 3.5)(x, time).square().mean().backward()

    ours = gradient(compiled.transformer, replay)
    compiled.pipeline.transformer = eager
    assert relative_error(ours, gradient(eager, replay)) < tolerances.COMPILED


def test_what_a_model_cannot_do_is_refused_by_the_settings_name(
    flux: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = copy.copy(flux)
    plain.pipeline = copy.copy(flux.pipeline)
    plain.pipeline.transformer = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"compute\.recompute: Linear has no"):
        fit(plain, Compute(recompute=True))
    with pytest.raises(UserError, match=r"Linear does not say what its blocks are"):
        fit(plain, Compute(compile=True))
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(UserError, match=r"compute\.compile: no C\+\+ compiler"):
        fit(flux, Compute(compile=True))


def test_trained_weights_are_float32_and_frozen_ones_as_precise_as_the_passes() -> None:
    half = Compute(precision="bfloat16")
    adapter = Adapter(rank=1, alpha=1, targets=("to_q",))
    full, narrow = torch.float32, torch.bfloat16
    assert load_types(Compute(), None) == {"dtype": full, "encoder_dtype": full}
    assert load_types(half, None) == {"dtype": full, "encoder_dtype": narrow}
    assert load_types(half, adapter) == {"dtype": narrow, "encoder_dtype": narrow}
