"""Our rollout beside the stock diffusers pipeline's own loop, in turns, on the same work.

    python -m benchmarks.rollout --scale pocket --out results/benchmarks/rollout.json

Both sample one micro-batch of a training from the same prompts' encodings and the same noise, with
the same steps, guidance and weights, up to the final latents: ours as a training calls it, theirs
by the pipeline's `__call__`, loaded by diffusers itself. `--backbone` names another base model of
the scale; `--size flux` takes FLUX.1-dev's shapes with random weights, on one GPU of 80 GB.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, FluxPipeline, StableDiffusion3Pipeline
from torch import Tensor, nn

from benchmarks.choice import add_choice, chosen
from benchmarks.machine import provenance
from benchmarks.passes import recorded
from benchmarks.random_models import RandomFlux, flux_pipeline
from benchmarks.timing import side_by_side
from leapalign.backbones.backbone import Backbone
from leapalign.backbones.flux import Flux
from leapalign.backbones.folder import local, text_parts
from leapalign.backbones.pipeline import pack, unpack
from leapalign.backbones.sd3 import StableDiffusion3
from leapalign.compute import lower
from leapalign.data import Sampler, read_prompts
from leapalign.devices import leased_device
from leapalign.doctor.admission import admitted
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json
from leapalign.parsing import resolve
from leapalign.rollout import rollout
from leapalign.settings import TrainSettings
from leapalign.steps import Latents
from leapalign.streams import stream


@dataclass(frozen=True)
class Way:
    """A way from noise to the final latents.

    Attributes:
        transformer: that it passes through.
        sample: goes it once; returns packed latents [batch, tokens, channels].
    """

    transformer: nn.Module
    sample: Callable[[], Latents]

    def passes(self) -> tuple[Latents, dict[str, int]]:
        """Where it ends, and the transformer passes on it: calls, and their samples summed."""
        with recorded(self.transformer) as made:
            x = self.sample()
        return x, {"passes": len(made), "sample_forwards": sum(each.batch for each in made)}


def ways(settings: TrainSettings, device: torch.device) -> dict[str, Way]:
    """Our rollout and the stock pipeline's loop, from the same prompts and noise.

    Raises:
        UserError: the stock pipeline of this base model is none of those known here.
    """
    budget, precision = settings.training, getattr(torch, settings.compute.precision)
    loader = resolve(settings.backbone.loader, "backbone.loader")
    backbone = loader.load(settings.backbone.path, settings.resolution, device, precision)
    stock = stock_pipeline(backbone, settings.backbone.path, precision)
    if precision != torch.float32:
        lower(backbone.transformer, precision)
    slots = range(int(budget.micro_batch))  # `auto` has become a number
    sampler = Sampler(read_prompts(budget.prompts, repeats=True), settings.seed)
    prompts = [sampler.draw(0, slot).text for slot in slots]
    x = backbone.latents([stream(settings.seed, 0, slot, "initial") for slot in slots])
    field = backbone.field(prompts, budget.guidance)
    start = start_of(stock, backbone, prompts, x, budget.guidance)

    def ours() -> Latents:
        return rollout(field, x, backbone.grid(budget.steps)).states[-1]

    def theirs() -> Latents:
        latents: Tensor = stock(
            **start,
            height=settings.resolution,
            width=settings.resolution,
            num_inference_steps=budget.steps,
            guidance_scale=budget.guidance,
            output_type="latent",
            return_dict=False,
        )[0]
        return latents if latents.ndim == x.ndim else pack(latents, backbone.patch)

    return {"rollout": Way(backbone.transformer, ours), "stock": Way(stock.transformer, theirs)}


def stock_pipeline(backbone: Backbone, path: str, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """The same model as diffusers itself loads it, without text encoders, and silent."""
    device = backbone.pipeline.device
    if isinstance(backbone, RandomFlux):
        pipeline = flux_pipeline(path, device, dtype)
    else:
        folder = local(path)
        without = dict.fromkeys(text_parts(DiffusionPipeline.load_config(folder)))
        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype, **without).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def start_of(
    pipeline: DiffusionPipeline,
    backbone: Flux | StableDiffusion3,
    prompts: Sequence[str],
    x: Latents,
    guidance: float,
) -> dict[str, Tensor]:
    """The arguments of the stock pipeline's call that say what it starts from.

    Raises:
        UserError: it is neither FLUX.1's nor Stable Diffusion 3's.
    """
    if not isinstance(pipeline, FluxPipeline | StableDiffusion3Pipeline):
        raise UserError(
            f"{type(pipeline).__name__}: its loop is not measured; choose a scale or --backbone "
            "of FLUX.1 or Stable Diffusion 3"
        )
    encoded = backbone.encode(prompts)
    start = {
        "latents": x if isinstance(pipeline, FluxPipeline) else unpack(x, backbone.patch),
        "prompt_embeds": encoded.tokens,
        "pooled_prompt_embeds": encoded.pooled,
    }
    if backbone.passes(guidance) > 1:
        negative = backbone.encode([""] * len(prompts))
        start["negative_prompt_embeds"] = negative.tokens
        start["negative_pooled_prompt_embeds"] = negative.pooled
    return start


def measure(settings: TrainSettings, device: str, repeats: int) -> dict[str, Any]:
    """All that this benchmark measures, with what it was measured on."""
    settings, where = admitted(settings, device), torch.device(device)
    both = ways(settings, where)
    ended = {name: way.passes() for name, way in both.items()}
    # One rollout fills a queue by itself.
    seconds = side_by_side(
        {name: way.sample for name, way in both.items()}, where, repeats, queued=1
    )
    ours, theirs = (ended[name][0].float() for name in ("rollout", "stock"))
    return {
        **provenance(where),
        "scale": settings.scale,
        "backbone": settings.backbone.loader,
        "precision": settings.compute.precision,
        "resolution": settings.resolution,
        "batch": len(ours),
        "steps": settings.training.steps,
        "guidance": settings.training.guidance,
        "repeats": repeats,
        **{name: {"seconds": seconds[name], **ended[name][1]} for name in both},
        "over_stock": seconds["stock"] / seconds["rollout"],
        "largest_difference": float((ours - theirs).abs().max()),
    }


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: measure both, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollout")
    add_choice(parser)
    parser.add_argument("--repeats", type=int, default=8, help="measured rollouts of each kind")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with leased_device() as device:
        found = measure(chosen(arguments, device), device, arguments.repeats)
    sys.stdout.write(
        f"{found['batch']} images in {found['steps']} steps: {found['rollout']['seconds']:.3f} s, "
        f"stock {found['stock']['seconds']:.3f} s, {found['over_stock']:.3f} times its speed; "
        f"latents at most {found['largest_difference']:.1e} apart\n"
    )
    write_json(arguments.out, found)


if __name__ == "__main__":
    main()
