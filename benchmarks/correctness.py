"""Every fused operation, outputs and gradients, against its reference in float64, on fresh inputs.

    python -m benchmarks.correctness --out results/benchmarks/correctness.json

Without a CUDA device the kernels need Triton's interpreter, TRITON_INTERPRET=1 in the environment.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import Maker, errors, odd_cases
from benchmarks.machine import provenance
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json
from leapalign.kernels import dispatch
from tests import tolerances

BOUND = {
    torch.float32: tolerances.KERNEL_FLOAT32,
    torch.bfloat16: tolerances.KERNEL_BFLOAT16,
}


def check(device: torch.device, seed: int, operations: Collection[str]) -> list[dict[str, Any]]:
    """These operations' errors, or all's, at odd shapes, contiguous and not, in both types."""
    generator = torch.Generator(device).manual_seed(seed)
    rows = []
    for dtype, bound in BOUND.items():
        for contiguous in (True, False):
            for case in odd_cases(Maker(generator, dtype, contiguous)):
                if operations and case.name not in operations:
                    continue
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
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: check, write JSON; fails where an error is over its bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.correctness")
    parser.add_argument(
        "--seed", type=int, default=None, help="of the inputs; by default a new one"
    )
    parser.add_argument("--operations", nargs="+", default=(), help="by default all")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    if not (dispatch.IN_BLOCKS and (torch.cuda.is_available() or dispatch.INTERPRETED)):
        raise UserError(
            "the check needs Triton, LEAPALIGN_KERNELS=1 in the environment and a CUDA device, or "
            "TRITON_INTERPRET=1 instead of one"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    rows = check(device, seed, arguments.operations)
    failed = [row for row in rows if not row["passes"]]
    for row in failed:
        sys.stdout.write(f"over its bound: {row}\n")
    sys.stdout.write(f"{len(rows) - len(failed)} of {len(rows)} cases are right, seed {seed}\n")
    write_json(arguments.out, {**provenance(device), "seed": seed, "cases": rows})
    if failed:
        raise UserError(f"{len(failed)} cases are over their bounds: see {arguments.out}")


if __name__ == "__main__":
    main()
