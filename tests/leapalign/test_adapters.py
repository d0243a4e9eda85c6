"""An adapter alone is trained, from the same first weights everywhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch import nn

from leapalign.adapters import NAME, adapted, add_adapter
from leapalign.backbones.flux import Flux
from leapalign.errors import UserError
from leapalign.settings import Adapter, TrainSettings
from leapalign.streams import stream
from leapalign.train import train
from leapalign.training import Training, prepare
from tests.leapalign.problems import PROMPTS

FILE = "pytorch_lora_weights.safetensors"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def with_adapter(settings: TrainSettings, **changes: object) -> TrainSettings:
    adapter = Adapter(rank=4, alpha=8, targets=ATTENTION)
    return dataclasses.replace(
        settings, training=dataclasses.replace(settings.training, adapter=adapter, **changes)
    )


def transformer(folder: Path) -> nn.Module:
    return FluxTransformer2DModel.from_pretrained(folder, subfolder="transformer")


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_training_moves_the_adapter_alone(settings: TrainSettings) -> None:
    run = prepare(with_adapter(settings), "cpu")
    network = run.problem.backbone.transformer
    before = values(network)
    for _ in range(2):
        run.iterate()
    moved = {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}
    assert moved
    assert all(".lora_" in name for name in moved)
    optimized = {weight for group in run.optimizer.param_groups for weight in group["params"]}
    assert optimized == {weight for n, weight in network.named_parameters() if ".lora_" in n}


def test_a_new_adapter_changes_no_velocity(tiny_flux_folder: Path) -> None:
    flux = Flux.load(tiny_flux_folder, 64)
    x = flux.latents([stream(0, slot) for slot in range(len(PROMPTS))])
    time = torch.full((len(PROMPTS),), 0.5)
    with torch.no_grad():
        before = flux.field(PROMPTS, 3.5)(x, time)
        add_adapter(flux.transformer, Adapter(4, 8, ATTENTION), 0)
        assert torch.equal(flux.field(PROMPTS, 3.5)(x, time), before)


def test_the_first_weights_are_the_seeds_alone(
    settings: TrainSettings, tiny_flux_folder: Path
) -> None:
    adapter = Adapter(4, 8, ATTENTION)
    several = transformer(tiny_flux_folder), transformer(tiny_flux_folder)
    for network in several:
        torch.rand(7)  # the global generator has no say
        add_adapter(network, adapter, settings.seed)
    first, again = map(values, several)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other, fewer = transformer(tiny_flux_folder), transformer(tiny_flux_folder)
    add_adapter(other, adapter, settings.seed + 1)
    add_adapter(fewer, Adapter(4, 8, ("to_v",)), settings.seed)
    name = "transformer_blocks.0.attn.to_v.lora_A.default.weight"
    assert not torch.equal(values(other)[name], first[name])
    assert torch.equal(values(fewer)[name], first[name])
    bound = first[name].shape[1] ** -0.5
    assert 0.9 * bound < first[name].abs().max() <= bound


def test_an_adapter_of_half_a_model_is_float32(tiny_flux_folder: Path) -> None:
    network = transformer(tiny_flux_folder).to(torch.bfloat16)
    adapted(network, Adapter(4, 8, ATTENTION), 0)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    frozen = [weight for weight in network.parameters() if not weight.requires_grad]
    assert {weight.dtype for weight in trained} == {torch.float32}
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    layers = [module for module in network.modules() if isinstance(module, LoraLayer)]
    assert len(trained) == 2 * len(layers)
    assert {layer.scaling[NAME] for layer in layers} == {2.0}


def test_without_an_adapter_all_weights_are_trained(tiny_flux_folder: Path) -> None:
    network = transformer(tiny_flux_folder).requires_grad_(False)
    before = list(network.parameters())
    assert list(adapted(network, None, 0).parameters()) == before
    assert all(weight.requires_grad for weight in before)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "to_qq",
            r"training\.adapter\.targets: .* no linear layer `to_qq`; did you mean `attn.to_q`",
        ),
        # peft would say nothing, as the other targets are there.
        ("norm_q", r"no linear layer `norm_q`"),
        ("q", r"no linear layer `q`"),
    ],
)
def test_a_target_that_is_no_layer_is_refused_with_the_nearest(
    tiny_flux_folder: Path, target: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        add_adapter(transformer(tiny_flux_folder), Adapter(4, 8, ("to_k", target)), 0)


def test_a_resumed_adapter_is_an_unbroken_ones(
    settings: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = with_adapter(settings, iterations=4)
    unbroken, resumed = tmp_path / "unbroken", tmp_path / "resumed"
    train(short, unbroken, tmp_path / "a", "cpu")

    def killed(run: Training) -> dict[str, object]:
        if run.tally.iteration == 3:
            raise KeyboardInterrupt
        return iterate(run)

    iterate = Training.iterate
    monkeypatch.setattr(Training, "iterate", killed)
    with pytest.raises(KeyboardInterrupt):
        train(short, resumed, tmp_path / "b", "cpu")
    monkeypatch.undo()
    train(short, resumed, tmp_path / "b", "cpu")
    both = [load_file(out / "weights" / FILE) for out in (unbroken, resumed)]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(value, both[1][name]) for name, value in both[0].items())
    assert any(value.any() for name, value in both[0].items() if "lora_B" in name)
