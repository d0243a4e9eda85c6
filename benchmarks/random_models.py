"""Models of real shapes with random weights, to measure what they cost and not what they draw.

The configurations are those of the real ones' folders, or the doctor's copies of the official ones.
The weights are drawn on the device itself, by each layer's own rule, so that nothing overflows;
prompts' encodings are noise of the right shape, without text encoders.
"""

from __future__ import annotations

import contextlib
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

from leapalign.backbones.encodings import EncodedPrompts, Encodings
from leapalign.backbones.flux import Flux
from leapalign.doctor.folders import configured, longest_text
from leapalign.doctor.sketch import built
from leapalign.rewards.hpsv2 import HPSv2, model_name
from leapalign.streams import stream

SEED = 0


@contextlib.contextmanager
def built_on(device: torch.device | str, dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside the `with` block are on `device` in `dtype`; their weights repeat."""
    device = torch.device(device)
    seeded = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(seeded), device, built(dtype):
        torch.manual_seed(SEED)
        yield


class RandomEncodings(Encodings):
    """Noise of an encoding's shape for each prompt, the same whenever it comes."""

    def __init__(self, tokens: tuple[int, int], pooled: int, dtype: torch.dtype) -> None:
        """There is nothing to load or keep.

        Args:
            tokens: of a prompt, and their width.
            pooled: width of the pooled embedding.
            dtype: of both.
        """
        self._tokens, self._pooled, self._dtype = tokens, pooled, dtype

    @override
    def prefetch(self, prompts: Iterable[str]) -> None:
        """Nothing: noise is drawn as it is needed."""

    @override
    def __call__(self, prompts: Sequence[str]) -> EncodedPrompts:
        """The prompts' noise in one batch, on the CPU."""
        draws = [stream(SEED, prompt) for prompt in prompts]
        tokens = torch.stack([torch.randn(self._tokens, generator=draw) for draw in draws])
        pooled = torch.stack([torch.randn(self._pooled, generator=draw) for draw in draws])
        return EncodedPrompts(tokens.to(self._dtype), pooled.to(self._dtype))


def flux_pipeline(path: str | Path, device: torch.device | str, dtype: torch.dtype) -> FluxPipeline:
    """A stock FLUX pipeline of a folder's configurations, the official ones where it is not there.

    It has no text encoders. Its decoder is in float32 at least, as the real one's.
    """
    folder = configured(str(path))
    with built_on(device, dtype):
        config = FluxTransformer2DModel.load_config(folder, subfolder="transformer")
        transformer = FluxTransformer2DModel.from_config(config)
    with built_on(device, torch.promote_types(dtype, torch.float32)):
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder, subfolder="vae"))
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    return FluxPipeline(scheduler, vae, None, None, None, None, transformer)


class RandomFlux(Flux):
    """A FLUX of a folder's configurations."""

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
        """Build what the configurations say."""
        pipeline = flux_pipeline(path, device, dtype)
        pipeline.vae.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        config = pipeline.transformer.config
        text = longest_text(configured(str(path)), "tokenizer_2", cls.longest)
        encodings = RandomEncodings(
            (text, config.joint_attention_dim), config.pooled_projection_dim, encoder_dtype or dtype
        )
        flux = cls(pipeline, resolution, encodings)
        flux.check()
        return flux


class RandomHPSv2(HPSv2):
    """An HPSv2 of a folder's configuration, or of the official one."""

    @override
    @classmethod
    def load(cls, path: Path, device: torch.device) -> RandomHPSv2:
        """Build what the configuration says, in float32 as the real one."""
        name = model_name(path)
        with built_on(device, torch.float32):
            model = open_clip.CLIP(**open_clip.get_model_config(name))
        size = model.visual.image_size
        tokenizer = open_clip.get_tokenizer(name)
        return cls(model, tokenizer, size if isinstance(size, int) else size[0])
