"""Models of real shapes with random weights, to measure what they cost and not what they draw.

A folder has the configurations of the real ones alone, in their own file formats. The weights are
drawn on the device itself, by each layer's own rule, so that nothing overflows; prompts' encodings
are noise of the right shape, without text encoders.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import open_clip
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from typing_extensions import override

from leapalign.backbones.flux import Flux
from leapalign.backbones.pipeline import EncodedPrompts
from leapalign.kernels import dispatch
from leapalign.kernels.flux import fuse
from leapalign.rewards.hpsv2 import HPSv2
from leapalign.streams import stream

SEED = 0


@contextlib.contextmanager
def built_on(device: torch.device | str, dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside the `with` block are on `device` in `dtype`; their weights repeat."""
    device, before = torch.device(device), torch.get_default_dtype()
    seeded = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(seeded), device:
        torch.manual_seed(SEED)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class RandomFlux(Flux):
    """A FLUX of a folder's configurations."""

    def __init__(self, pipeline: FluxPipeline, resolution: int, longest: int) -> None:
        """A pipeline without text encoders, whose prompts have `longest` tokens."""
        config = pipeline.transformer.config
        self.pipeline, self.resolution = pipeline, resolution
        self.tokens = longest, config.joint_attention_dim
        self.pooled = config.pooled_projection_dim

    @override
    @classmethod
    def load(
        cls,
        path: str | Path,
        resolution: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        encoder_dtype: torch.dtype | None = None,
    ) -> RandomFlux:
        """Build what the folder's configurations say; the decoder in float32 at least."""
        parts = []
        for part, model, precision in (
            ("transformer", FluxTransformer2DModel, dtype),
            ("vae", AutoencoderKL, torch.promote_types(dtype, torch.float32)),
        ):
            with built_on(device, precision):
                parts.append(model.from_config(model.load_config(path, subfolder=part)))
        transformer, vae = parts
        vae.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(path, subfolder="scheduler")
        tokenizer = Path(path) / "tokenizer_2/tokenizer_config.json"
        longest = json.loads(tokenizer.read_text(encoding="utf-8"))["model_max_length"]
        pipeline = FluxPipeline(scheduler, vae, None, None, None, None, transformer)
        flux = cls(pipeline, resolution, longest)
        flux.check()
        if dispatch.ENABLED and vae.device.type == "cuda":
            fuse(transformer)
        return flux

    def prefetch(self, prompts: Iterable[str], guidance: float) -> None:
        """Nothing: noise is drawn as it is needed."""

    @override
    def encode(self, prompts: Sequence[str]) -> EncodedPrompts:
        """Noise for each prompt, the same whenever it comes."""
        vae, draws = self.pipeline.vae, [stream(SEED, prompt) for prompt in prompts]
        tokens = torch.stack([torch.randn(self.tokens, generator=draw) for draw in draws])
        pooled = torch.stack([torch.randn(self.pooled, generator=draw) for draw in draws])
        return EncodedPrompts(tokens.to(vae.device, vae.dtype), pooled.to(vae.device, vae.dtype))


class RandomHPSv2(HPSv2):
    """An HPSv2 of open_clip's shipped configuration of that name, or of a folder's."""

    @override
    @classmethod
    def load(cls, path: Path, device: torch.device) -> RandomHPSv2:
        """Build what the configuration says, in float32 as the real one."""
        name = f"local-dir:{path}" if path.is_dir() else str(path)
        with built_on(device, torch.float32):
            model = open_clip.CLIP(**open_clip.get_model_config(name))
        size = model.visual.image_size
        return cls(
            model,
            open_clip.get_tokenizer(name),
            size if isinstance(size, int) else size[0],
        )
