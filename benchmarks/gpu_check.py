"""The fused operations on this machine: correct on fresh inputs, then how fast; one JSON.

    python -m benchmarks.gpu_check --out results/benchmarks/gpu_check.json

Without a CUDA device it runs at a tiny size through Triton's interpreter: that proves the check
itself, and the kernels' arithmetic; its times mean nothing.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import torch

# Before Triton is imported, which decides then whether it interprets.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from benchmarks.cases import Maker, errors, odd_cases
from benchmarks.kernels import FLUX, TINY, measure
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json
from leapalign.kernels import dispatch
from tests import tolerances

BOUND = {
    torch.float32: tolerances.KERNEL_FLOAT32,
    torch.bfloat16: tolerances.KERNEL_BFLOAT16,
}


def correctness(device: torch.device, seed: int) -> list[dict[str, Any]]:
    """Every operation's errors at odd shapes, contiguous and not, in both types."""
    generator = torch.Generator(device).manual_seed(seed)
    rows = []
    for dtype, bound in BOUND.items():
        for contiguous in (True, False):
            for case in odd_cases(Maker(generator, dtype, contiguous)):
                found = errors(case, generator)
                rows.append(
                    {
                        "name": case.name,
                        "shape": list(case.inputs[0].shape),
                        "dtype": str(dtype).removeprefix("torch."),
                        "contiguous": contiguous,
                        "errors": found,
                        "bound": bound,
                        "passes": all(error <= bound for error in found.values()),
                    }
                )
    return rows


@main_guard
def main() -> None:
    """Command line: check and measure, write JSON; fails where an error is over its bound."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the inputs; by default a new one"
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    if not dispatch.ENABLED:
        raise UserError("gpu_check needs Triton, and LEAPALIGN_KERNELS=1 in the environment")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    rows = correctness(device, seed)
    failed = [row for row in rows if not row["passes"]]
    for row in failed:
        sys.stdout.write(f"over its bound: {row}\n")
    sys.stdout.write(f"{len(rows) - len(failed)} of {len(rows)} cases are right, seed {seed}\n")
    speed = measure(device, TINY if device.type == "cpu" else FLUX)
    write_json(arguments.out, {"seed": seed, "correctness": rows, "speed": speed})
    if failed:
        raise UserError(f"{len(failed)} cases are over their bounds: see {arguments.out}")


if __name__ == "__main__":
    main()
