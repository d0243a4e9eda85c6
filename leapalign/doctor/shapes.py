"""The sizes of base models and rewards at one resolution, from their configuration files alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from leapalign.doctor import folders
from leapalign.doctor.folders import FLUX, SD3, Unforetold
from leapalign.doctor.kept import kept
from leapalign.doctor.sketch import Counts, Passes, Sketch, measure
from leapalign.settings import Adapter, TrainSettings


@dataclass(frozen=True, slots=True)
class Model:
    """A base model at one resolution.

    Args:
        transformer: its passes, of one velocity without guidance.
        decoder: from latents to images.
        encoders: parameters of the text encoders.
        latents: elements of one image's latents.
        prompt: elements of one encoded prompt.
    """

    transformer: Passes
    decoder: Passes
    encoders: int
    latents: int
    prompt: int


def model_of(settings: TrainSettings) -> Model:
    """The sizes of a training's base model, kept once they are known.

    Raises:
        UserError: its folder is not whole.
        Unforetold: it is no model whose sizes can be told.
    """
    folder = folders.configured(settings.backbone.path)
    if not (folder / "model_index.json").is_file():
        raise Unforetold(f"{folder}: no pipeline's, so what it needs cannot be told beforehand")
    pipeline = folders.pipeline_of(folder)
    if pipeline not in (FLUX, SD3):
        raise Unforetold(f"{folder}: a {pipeline}, whose needs cannot be told beforehand")
    parts = {part: _configuration(folder, part) for part in folders.parts_of(folder)}
    compute, adapter = settings.compute, settings.training.adapter
    key = (parts, settings.resolution, compute.precision, compute.recompute, adapter)

    def find() -> Model:
        tokens, width = folders.prompt(folder)
        return Model(
            transformer=measure(_transformer(folder, settings)),
            decoder=measure(_decoder(folder, settings)),
            encoders=sum(
                _count(config)
                for part, config in parts.items()
                if config and part.startswith("text_encoder")
            ),
            latents=(settings.resolution // folders.latent_scale(folder)) ** 2
            * int(parts["vae"]["latent_channels"]),
            prompt=tokens * width + int(parts["transformer"]["pooled_projection_dim"]),
        )

    return kept(Model, find, *key)


def passes_of(settings: TrainSettings) -> int:
    """Samples that the transformer sees of each image: with and without the prompt, if guided."""
    guided = settings.training.guidance > 1.0
    folder = folders.configured(settings.backbone.path)
    return 2 if guided and folders.pipeline_of(folder) == SD3 else 1


def _configuration(folder: Path, part: str) -> Mapping[str, Any]:
    """A part's configuration; empty for one that has none, or none that matters."""
    file = "tokenizer_config.json" if part.startswith("tokenizer") else "config.json"
    return folders.read(folder, part, file) if (folder / part / file).is_file() else {}


def _transformer(folder: Path, settings: TrainSettings) -> Sketch:
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    config = {k: v for k, v in folders.read(folder, "transformer").items() if k[0] != "_"}
    tokens, _ = folders.prompt(folder)
    flux = folders.pipeline_of(folder) == FLUX
    cls, layers, call = (
        (FluxTransformer2DModel, _flux_layers, _call_flux)
        if flux
        else (SD3Transformer2DModel, _sd3_layers, _call_sd3)
    )
    scale = folders.token_side(folder) if flux else folders.latent_scale(folder)
    side = settings.resolution // scale

    def build(counts: Counts) -> nn.Module:
        network = cls(**{**config, **layers(counts)}).train()
        _train(network, settings.training.adapter)
        if settings.compute.recompute:
            network.enable_gradient_checkpointing()
        return network

    return Sketch(
        build,
        lambda network, batch: call(network, batch, side, tokens),
        _flux_counts(config) if flux else _sd3_counts(config),
        getattr(torch, settings.compute.precision),
    )


def _train(network: nn.Module, adapter: Adapter | None) -> None:
    """Let the weights train, or an adapter of them alone."""
    if adapter is None:
        network.requires_grad_(True)
        return
    from peft import inject_adapter_in_model

    from leapalign.adapters import lora

    network.requires_grad_(False)
    inject_adapter_in_model(lora(adapter), network)


def _flux_counts(config: Mapping[str, Any]) -> Counts:
    return {kind: config[kind] for kind in ("num_layers", "num_single_layers")}


def _flux_layers(counts: Counts) -> Mapping[str, Any]:
    return counts


def _sd3_counts(config: Mapping[str, Any]) -> Counts:
    dual = len(config.get("dual_attention_layers") or ())
    return {"dual": dual, "plain": config["num_layers"] - dual}


def _sd3_layers(counts: Counts) -> Mapping[str, Any]:
    return {
        "num_layers": counts["dual"] + counts["plain"],
        "dual_attention_layers": tuple(range(counts["dual"])),
    }


def _call_flux(network: Any, batch: int, side: int, tokens: int) -> Tensor:  # noqa: ANN401
    config = network.config
    velocity: Tensor = network(
        hidden_states=torch.rand(batch, side**2, config.in_channels),
        timestep=torch.rand(batch),
        guidance=torch.rand(batch) if config.guidance_embeds else None,
        pooled_projections=torch.rand(batch, config.pooled_projection_dim),
        encoder_hidden_states=torch.rand(batch, tokens, config.joint_attention_dim),
        txt_ids=torch.rand(tokens, 3),
        img_ids=torch.rand(side**2, 3),
        return_dict=False,
    )[0]
    return velocity


def _call_sd3(network: Any, batch: int, side: int, tokens: int) -> Tensor:  # noqa: ANN401
    config = network.config
    velocity: Tensor = network(
        hidden_states=torch.rand(batch, config.in_channels, side, side),
        timestep=torch.rand(batch),
        pooled_projections=torch.rand(batch, config.pooled_projection_dim),
        encoder_hidden_states=torch.rand(batch, tokens, config.joint_attention_dim),
        return_dict=False,
    )[0]
    return velocity


def _decoder(folder: Path, settings: TrainSettings) -> Sketch:
    from diffusers import AutoencoderKL

    config = {k: v for k, v in folders.read(folder, "vae").items() if k[0] != "_"}
    side = settings.resolution // folders.latent_scale(folder)

    def build(_: Counts) -> nn.Module:
        vae = AutoencoderKL(**config).requires_grad_(False).eval()
        if settings.compute.recompute:
            vae.enable_gradient_checkpointing()
        return vae

    def call(vae: Any, batch: int) -> Tensor:  # noqa: ANN401
        latents = torch.rand(batch, config["latent_channels"], side, side, requires_grad=True)
        return (vae.decode(latents, return_dict=False)[0] / 2.0 + 0.5).clamp(0.0, 1.0).float()

    return Sketch(build, call, {}, torch.float32)


def _count(config: Mapping[str, Any]) -> int:
    """Parameters of a text encoder."""
    import transformers

    fields = {k: v for k, v in config.items() if k not in ("architectures", "model_type")}
    name = str(config["architectures"][0])
    cls = getattr(transformers, name)
    with torch.device("meta"):
        encoder = cls(cls.config_class(**fields))
    return sum(weight.numel() for weight in encoder.parameters())


def rewards_of(settings: TrainSettings) -> dict[str, Passes | None]:
    """The sizes of a training's rewards by name; None of one that cannot be told beforehand."""
    rewards = settings.training.rewards
    return {name: _reward_of(name, path, settings) for name, path in rewards.items()}


def _reward_of(name: str, path: str, settings: TrainSettings) -> Passes | None:
    sketch = _reward(name, path, settings)
    if sketch is None:
        return None
    folder = folders.configured(path)
    files = folder / "config.json", folder / "open_clip_config.json"
    config = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    return kept(Passes, lambda: measure(sketch), name, config, settings.resolution)


def sketches_of(settings: TrainSettings) -> tuple[Sketch, Sketch, dict[str, Sketch | None]]:
    """Transformer, decoder and, where they can be told, rewards by name."""
    folder = folders.configured(settings.backbone.path)
    rewards = settings.training.rewards
    told = {name: _reward(name, path, settings) for name, path in rewards.items()}
    return _transformer(folder, settings), _decoder(folder, settings), told


def _reward(name: str, path: str, settings: TrainSettings) -> Sketch | None:
    if name not in REWARDS:
        return None
    return REWARDS[name](folders.configured(path), settings.resolution)


def _hpsv2(folder: Path, resolution: int) -> Sketch:
    import open_clip

    from leapalign.rewards.hpsv2 import model_name, prepare

    config = open_clip.get_model_config(model_name(folder))
    size = config["vision_cfg"]["image_size"]
    return _clip(
        lambda: open_clip.CLIP(**config),
        lambda clip, images: clip.encode_image(prepare(images, size), normalize=True),
        resolution,
    )


def _pickscore(folder: Path, resolution: int) -> Sketch:
    from transformers import CLIPConfig, CLIPModel

    from leapalign.rewards.pickscore import prepare

    config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    size = config.vision_config.image_size
    return _clip(
        lambda: CLIPModel(config),
        lambda clip, images: normalize(
            clip.get_image_features(prepare(images, size)).pooler_output, dim=-1
        ),
        resolution,
    )


def _clip(
    build: Callable[[], nn.Module], see: Callable[[Any, Tensor], Tensor], resolution: int
) -> Sketch:
    """A reward that is CLIP's cosine; the text's side is computed once and without gradient."""

    def call(clip: nn.Module, batch: int) -> Tensor:
        features = see(clip, torch.rand(batch, 3, resolution, resolution, requires_grad=True))
        return (features * torch.rand(features.shape)).sum(-1)

    return Sketch(lambda _: build().requires_grad_(False), call, {}, torch.float32)


REWARDS: Mapping[str, Callable[[Path, int], Sketch]] = {"hpsv2": _hpsv2, "pickscore": _pickscore}
"""The rewards whose passes can be sketched."""
