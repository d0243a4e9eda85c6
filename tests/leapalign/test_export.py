"""What a training leaves is what stock pipelines load, and what is not for a model is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import (
    DiffusionPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from leapalign.adapters import add_adapter
from leapalign.backbones.backbone import Backbone
from leapalign.backbones.flux import Flux
from leapalign.backbones.sd3 import StableDiffusion3
from leapalign.card import model_card
from leapalign.errors import UserError
from leapalign.export import export
from leapalign.rollout import rollout
from leapalign.settings import Adapter, TrainSettings
from leapalign.streams import stream
from leapalign.train import Watch, train
from tests import tolerances
from tests.disks import no_room_for
from tests.leapalign.problems import PROMPTS
from tests.leapalign.test_sd3 import tiny_pipeline

STEPS, RANK = 4, 4
LORA = "pytorch_lora_weights.safetensors"
ADAPTER = Adapter(RANK, 8, ("to_q", "to_k", "to_v", "to_out.0"))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A tiny base model, the classes that load it, and the stock pipeline's arguments."""

    folder: Path
    load: Callable[[Path, int], Backbone]
    stock: type[DiffusionPipeline]
    network: type[FluxTransformer2DModel | SD3Transformer2DModel]
    guidance: float
    tokens: int

    def backbone(self) -> Any:
        return self.load(self.folder, 64)


@pytest.fixture(scope="module", params=["flux", "sd3"])
def kind(
    request: pytest.FixtureRequest, tiny_flux_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Kind:
    if request.param == "flux":
        folder, stock, network = tiny_flux_folder, FluxPipeline, FluxTransformer2DModel
        load, guidance, tokenizer = Flux.load, 3.5, "tokenizer_2"
    else:
        folder, stock = tmp_path_factory.mktemp("sd3"), StableDiffusion3Pipeline
        tiny_pipeline().save_pretrained(folder)
        network, load, guidance = SD3Transformer2DModel, StableDiffusion3.load, 4.5
        tokenizer = "tokenizer_3"
    config = json.loads((folder / tokenizer / "tokenizer_config.json").read_text())
    return Kind(folder, load, stock, network, guidance, config["model_max_length"])


def generators() -> list[torch.Generator]:
    return [stream(0, slot, "initial") for slot in range(len(PROMPTS))]


@torch.no_grad()
def ours(backbone: Any, kind: Kind) -> Tensor:
    """The prompts' images by our rollout."""
    field = backbone.field(PROMPTS, kind.guidance)
    path = rollout(field, backbone.latents(generators()), backbone.grid(STEPS))
    return backbone.decode(path.states[-1])


def stocks(pipeline: Any, kind: Kind) -> Tensor:
    """The same by a stock pipeline."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        prompt=PROMPTS,
        height=64,
        width=64,
        num_inference_steps=STEPS,
        guidance_scale=kind.guidance,
        generator=generators(),
        max_sequence_length=min(512, kind.tokens),
        output_type="pt",
    ).images


def moved(backbone: Any, seed: int = 0) -> None:
    """Move the weights that would be trained, as a training might."""
    source = torch.Generator().manual_seed(seed)
    for weight in backbone.transformer.parameters():
        if weight.requires_grad:
            weight.data += 0.1 * torch.randn(weight.shape, generator=source)


def close(images: Tensor, others: Tensor) -> bool:
    return bool((images - others).abs().max() < tolerances.PIPELINE_IMAGE)


def test_all_weights_of_a_transformer_give_our_images_in_a_stock_pipeline(
    kind: Kind, tmp_path: Path
) -> None:
    trained = kind.backbone()
    base = ours(trained, kind)
    moved(trained)
    export(trained.pipeline, trained.transformer.state_dict(), tmp_path / "weights")
    expected = ours(trained, kind)
    folder = tmp_path / "weights"
    transformer = kind.network.from_pretrained(folder, subfolder="transformer")
    assert close(
        stocks(kind.stock.from_pretrained(kind.folder, transformer=transformer), kind), expected
    )
    fresh = kind.backbone()
    fresh.load_weights(folder)
    assert torch.equal(ours(fresh, kind), expected)
    assert not close(base, expected)
    assert str(kind.folder) not in (folder / "transformer/config.json").read_text()


def test_an_adapter_gives_our_images_in_a_stock_pipeline(kind: Kind, tmp_path: Path) -> None:
    trained = kind.backbone()
    base = ours(trained, kind)
    trained.transformer.requires_grad_(False)
    add_adapter(trained.transformer, ADAPTER, 0)
    moved(trained)
    export(trained.pipeline, trained.transformer.state_dict(), tmp_path / "weights")
    expected = ours(trained, kind)
    [file] = (tmp_path / "weights").iterdir()
    assert file.name == LORA
    assert all(".lora_" in name for name in load_file(file))
    pipeline = kind.stock.from_pretrained(kind.folder)
    pipeline.load_lora_weights(tmp_path / "weights")
    assert close(stocks(pipeline, kind), expected)
    for path in (file, file.parent):
        fresh = kind.backbone()
        fresh.load_weights(path)
        assert close(ours(fresh, kind), expected)
    assert not close(base, expected)
    # alpha is 8 at rank 4: taken for the rank, it would halve the adapter.
    with safe_open(file, "pt") as tensors:
        config = json.loads(tensors.metadata()["lora_adapter_metadata"])
    assert (config["transformer.r"], config["transformer.lora_alpha"]) == (RANK, 8)


def test_a_folder_of_pefts_own_gives_the_same_images(kind: Kind, tmp_path: Path) -> None:
    config = LoraConfig(r=RANK, lora_alpha=8, target_modules=[*ADAPTER.targets])
    trained = kind.backbone()
    wrapped = get_peft_model(trained.transformer, config)
    moved(trained)
    wrapped.save_pretrained(tmp_path)
    fresh = kind.backbone()
    fresh.load_weights(tmp_path)
    assert close(ours(fresh, kind), ours(trained, kind))


@pytest.fixture(scope="module")
def lora(tiny_flux_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an adapter for the tiny FLUX."""
    flux = Flux.load(tiny_flux_folder, 64)
    flux.transformer.requires_grad_(False)
    add_adapter(flux.transformer, ADAPTER, 0)
    folder = tmp_path_factory.mktemp("lora") / "weights"
    export(flux.pipeline, flux.transformer.state_dict(), folder)
    return folder / LORA


def wider(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As for a base with wider layers."""
    return {n: v.repeat(1, 2) if "lora_A" in n else v.repeat(2, 1) for n, v in tensors.items()}


def deeper(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As for a base with more blocks."""
    return {n.replace("blocks.0", "blocks.7"): value for n, value in tensors.items()}


def halved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without any B."""
    return {name: value for name, value in tensors.items() if "lora_A" in name}


def bare(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the component's name; diffusers would load nothing and only say so."""
    return {name.removeprefix("transformer."): value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            wider,
            r"of another shape \(transformer\.single_transformer_blocks\.0\.attn\.to_k\.lora_A",
        ),
        (deeper, r"unexpected \(transformer\.single_transformer_blocks\.7\.attn"),
        (halved, r"missing \(transformer\.single_transformer_blocks\.0\.attn\.to_k\.lora_B"),
        (bare, r"unexpected \(single_transformer_blocks\.0\.attn"),
    ],
)
def test_an_adapter_for_another_base_is_refused_by_name_and_adds_nothing(
    flux: Flux,
    lora: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
) -> None:
    file = tmp_path / "other.safetensors"
    save_file(change(load_file(lora)), file)
    with pytest.raises(UserError, match=rf"other\.safetensors: not weights of this tr.*{message}"):
        flux.load_weights(file)
    assert not any("lora" in name for name in flux.transformer.state_dict())


def test_wrong_and_partial_folders_are_refused(flux: Flux, lora: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut" / LORA
    cut.parent.mkdir()
    cut.write_bytes(lora.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"cut: not weights of this transformer"):
        flux.load_weights(cut.parent)
    several = shutil.copytree(lora.parent, tmp_path / "several")
    save_file({"another.lora_A.weight": torch.zeros(1)}, several / "another.safetensors")
    with pytest.raises(UserError, match=r"several files beside an adapter's \(another\.saf.*name"):
        flux.load_weights(several)
    partial = tmp_path / "partial" / "transformer"
    partial.mkdir(parents=True)
    index = {"weight_map": {"x": "model-00001-of-00002.safetensors"}}
    (partial / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"partial: not weights of this transformer: No such file"):
        flux.load_weights(partial.parent)


def test_a_training_leaves_its_averaged_adapter_and_snapshots_of_it(
    settings: TrainSettings, tmp_path: Path, tiny_flux_folder: Path
) -> None:
    short = dataclasses.replace(settings.training, iterations=2, adapter=ADAPTER)
    settings = dataclasses.replace(settings, training=short)
    train(settings, tmp_path / "out", tmp_path / "checkpoints", "cpu", Watch(1))
    folder, snapshot = tmp_path / "out/weights", tmp_path / "out/snapshots/iteration-000001"
    assert [path.name for path in folder.iterdir()] == [LORA]
    assert [path.name for path in snapshot.iterdir()] == [LORA]
    for path in (folder, snapshot):
        Flux.load(tiny_flux_folder, 64).load_weights(path)
    last, first = load_file(folder / LORA), load_file(snapshot / LORA)
    assert any(not torch.equal(value, first[name]) for name, value in last.items())


def test_weights_are_written_in_the_precision_asked_for(flux: Flux, tmp_path: Path) -> None:
    weights = flux.transformer.state_dict()
    export(flux.pipeline, weights, tmp_path / "weights", torch.bfloat16)
    [file] = (tmp_path / "weights/transformer").glob("*.safetensors")
    written = load_file(file)
    assert written.keys() == weights.keys()
    assert all(torch.equal(v, weights[name].bfloat16()) for name, v in written.items())


def test_weights_that_do_not_fit_leave_the_old_ones(flux: Flux, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "old").touch()
    weights = flux.transformer.state_dict()
    with no_room_for(1000), pytest.raises(OSError, match="weights") as error:
        export(flux.pipeline, weights, folder)
    assert error.value.filename == str(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert [path.name for path in folder.iterdir()] == ["old"]
    export(flux.pipeline, weights, folder)
    assert [path.name for path in folder.iterdir()] == ["transformer"]


def test_the_card_names_method_base_licence_settings_and_deviations(
    settings: TrainSettings,
) -> None:
    base = dataclasses.replace(settings.backbone, path="weights/flux")
    shared = dataclasses.replace(settings.training, steps=16)
    settings = dataclasses.replace(settings, scale="pocket", backbone=base, training=shared)
    head, body = model_card(settings, "dance_grpo").split("---\n")[1:3]
    data = yaml.safe_load(head)
    assert data["base_model"] == "black-forest-labs/FLUX.1-dev"
    assert data["license_name"] == "FLUX.1 [dev] Non-Commercial"
    assert data["base_model_relation"] == "finetune"
    assert "# black-forest-labs/FLUX.1-dev, fine-tuned by DanceGRPO" in body
    assert "| training.steps | 16 |" in body
    assert "- steps = 16 instead of 25: the authors' code trains on 16 steps." in body
    assert "FLUX.1 [dev] Non-Commercial (https" in body
    assert 'AutoModel.from_pretrained("this/folder", subfolder="transformer")' in body
    # This machine's folders are nobody's business.
    assert str(Path(settings.training.prompts).parent) not in body
    adapter = dataclasses.replace(settings.training, adapter=ADAPTER, steps=25)
    other = model_card(dataclasses.replace(settings, training=adapter), "dance_grpo")
    assert "pipeline.load_lora_weights" in other
    assert "instead of 25" not in other  # declared, but this training does not have it
    assert "| training.adapter.rank | 4 |" in other
    hub = dataclasses.replace(settings.backbone, path="black-forest-labs/FLUX.1-dev")
    assert "Non-Commercial" in model_card(dataclasses.replace(settings, backbone=hub))
    assert "fine-tuned by LeapAlign" in model_card(settings)


def test_a_base_model_of_unknown_licence_is_said_to_be_so(settings: TrainSettings) -> None:
    card = model_card(settings)
    assert "under its licence, which is not known here." in card
    assert "license" not in yaml.safe_load(card.split("---\n")[1])
