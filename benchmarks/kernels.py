"""The fused operations' speed: over their references, torch.compile and the copy bandwidth.

    python -m benchmarks.kernels --out results/benchmarks/kernels.json

FLUX's blocks with and without them, and forward and backward of every operation at FLUX.1's size.
All ratios are of times measured in turns in one run. The copy bandwidth is that of a tensor copy
too large for any cache; an operation's share of it counts the bytes that it must move at least.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from benchmarks.cases import Case, Maker
from benchmarks.machine import copy_bandwidth, provenance
from benchmarks.timing import side_by_side
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json
from leapalign.kernels.fuse import fuse

GIGABYTE = 1e9


@dataclass(frozen=True)
class Size:
    """How large the measured cases are.

    Attributes:
        batch: samples in a block.
        samples: that a block's operation takes by itself.
        text: text tokens.
        image: image tokens, a square number.
        heads: attention heads.
        width: of a head.
        latents: that a sampler steps.
        images: that a reward prepares.
        pixels: their side.
        view: side of what the reward sees.
        copied: elements copied for the bandwidth.
        repeats: measured turns.
        compiler: torch.compile's backend.
    """

    batch: int
    samples: int
    text: int
    image: int
    heads: int
    width: int
    latents: int
    images: int
    pixels: int
    view: int
    copied: int
    repeats: int
    compiler: str


SIZES = {
    "flux": Size(1, 8, 512, 4096, 24, 128, 128, 64, 1024, 224, 2**29, 10, "inductor"),
    "tiny": Size(1, 1, 3, 4, 2, 16, 1, 1, 20, 8, 2**16, 1, "aot_eager"),
}


def cases(generator: torch.Generator, size: Size) -> Iterator[Case]:
    """Every operation as a training step calls it: blocks in bf16, latents and images in float32.

    So large that no cache holds an operation's tensors.
    """
    blocks, outside = Maker(generator, torch.bfloat16), Maker(generator, torch.float32)
    channels, joint = size.heads * size.width, size.text + size.image
    latents = size.latents, size.image, 64
    yield blocks.modulate(size.samples, joint, channels)
    yield blocks.gated_add(size.samples, joint, channels)
    yield blocks.qk_rope(size.samples, (joint,), size.heads, size.width)
    yield blocks.qk_rope(size.samples, (size.text, size.image), size.heads, size.width)
    yield outside.leap(*latents)
    yield outside.sde_step(*latents)
    yield outside.sde_log_prob(*latents)
    yield outside.prepare(size.images, size.pixels, size.pixels, size.view)


def measure_case(case: Case, bandwidth: float, size: Size) -> dict[str, Any]:
    """Forward and backward of the kernels, the reference and the compiled reference."""
    device = case.inputs[0].device
    functions = {
        "kernel": case.operation,
        "reference": case.reference,
        "compiled": torch.compile(case.reference, backend=size.compiler, dynamic=False),
    }
    generator = torch.Generator(device).manual_seed(0)
    forwards = {n: functools.partial(case.forward, f) for n, f in functions.items()}
    graphs = {n: case.graph(f) for n, f in functions.items()}
    cotangents = graphs["kernel"].cotangents(generator)
    backwards = {n: functools.partial(g.gradients, cotangents) for n, g in graphs.items()}
    passes = {"forward": forwards, "backward": backwards}
    result: dict[str, Any] = {"name": case.name, "shape": list(case.inputs[0].shape)}
    for (direction, timed), traffic in zip(passes.items(), case.traffic, strict=True):
        seconds = side_by_side(timed, device, size.repeats)
        moved = traffic * case.inputs[0].nbytes
        result[direction] = {
            "microseconds": {name: 1e6 * value for name, value in seconds.items()},
            "over_reference": seconds["reference"] / seconds["kernel"],
            "over_compiled": seconds["compiled"] / seconds["kernel"],
            "share_of_copy_bandwidth": moved / seconds["kernel"] / bandwidth,
        }
    return result


def transformer_of(size: Size, device: torch.device) -> FluxTransformer2DModel:
    """One double and one single block of FLUX with random weights, in bf16."""
    height = size.width * 7 // 16 // 2 * 2  # FLUX.1: 56 of 128
    with torch.device(device):
        model = FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=size.width,
            num_attention_heads=size.heads,
            joint_attention_dim=64,
            pooled_projection_dim=64,
            axes_dims_rope=(size.width - 2 * height, height, height),
        )
    return model.to(torch.bfloat16)


def measure_blocks(size: Size, maker: Maker) -> dict[str, dict[str, float]]:
    """Milliseconds of a forward and backward of each block, stock and fused, eager and compiled."""
    device = maker.generator.device
    stock = transformer_of(size, device)
    fused = copy.deepcopy(stock)
    fuse(fused)
    ids = torch.zeros(size.text + size.image, 3, device=device)
    with torch.no_grad():
        rotary = stock.pos_embed(ids)
    channels = size.heads * size.width
    inputs = {
        "hidden_states": maker.normal(size.batch, size.image, channels),
        "encoder_hidden_states": maker.normal(size.batch, size.text, channels),
        "temb": maker.normal(size.batch, channels),
    }
    results = {}
    for name in ("transformer_blocks", "single_transformer_blocks"):
        blocks = {"stock": getattr(stock, name)[0], "fused": getattr(fused, name)[0]}
        blocks |= {
            f"{kind} compiled": torch.compile(block, backend=size.compiler, dynamic=False)
            for kind, block in blocks.items()
        }
        timed = {
            kind: functools.partial(_pass, block, inputs, rotary) for kind, block in blocks.items()
        }
        seconds = side_by_side(timed, device, size.repeats)
        results[name] = {kind: 1e3 * value for kind, value in seconds.items()} | {
            "over stock": seconds["stock"] / seconds["fused"],
            "over stock compiled": seconds["stock compiled"]
            / min(seconds["fused"], seconds["fused compiled"]),
        }
    return results


def _pass(block: nn.Module, inputs: dict[str, Tensor], rotary: tuple[Tensor, Tensor]) -> None:
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    text, image = block(**leaves, image_rotary_emb=rotary)
    (text.float().sum() + image.float().sum()).backward()
    block.zero_grad(set_to_none=True)


def measure(device: torch.device, size: Size) -> Iterator[dict[str, Any]]:
    """All that this benchmark measures; what is known so far, after blocks and each operation."""
    generator = torch.Generator(device).manual_seed(0)
    bandwidth = copy_bandwidth(device, size.copied, size.repeats)
    found = provenance(device)
    found["copy_gigabytes_per_second"] = bandwidth / GIGABYTE
    found["blocks"] = measure_blocks(size, Maker(generator, torch.bfloat16))
    for name, row in found["blocks"].items():
        sys.stdout.write(
            f"{name}: {row['over stock']:.2f} times stock's speed, "
            f"{row['over stock compiled']:.2f} the compiled one's\n"
        )
    yield found
    found["operations"] = rows = []
    for case in cases(generator, size):
        rows.append(measure_case(case, bandwidth, size))
        for direction in ("forward", "backward"):
            row = rows[-1][direction]
            sys.stdout.write(
                f"{case.name:12} {direction:8} {row['microseconds']['kernel']:10.1f} us, "
                f"{row['over_reference']:6.2f} times the reference's speed, "
                f"{row['over_compiled']:6.2f} the compiled one's, "
                f"{row['share_of_copy_bandwidth']:5.0%} of the copy bandwidth\n"
            )
        yield found


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: measure every operation, write JSON after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels")
    parser.add_argument("--size", choices=SIZES, default="flux")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available() and arguments.size != "tiny":
        raise UserError(
            "benchmarks.kernels needs a CUDA device and finds none; on a CPU the kernels run under "
            "Triton's interpreter alone, where no time means anything: --size tiny proves the code"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for found in measure(device, SIZES[arguments.size]):
        write_json(arguments.out, found)


if __name__ == "__main__":
    main()
