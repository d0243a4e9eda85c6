"""All that is to be known from a GPU: one command of bounded time, one JSON to carry back.

    python -m benchmarks.gpu_check --out results/benchmarks/gpu_check.json

The fused operations are checked and timed, then FLUX.1-dev's iterations and rollouts; a rollout is
captured as a CUDA graph, and one operation runs under compute-sanitizer. Each part is a command of
its own: what breaks it, fills the device or takes too long is in the JSON as its error, beside what
it had found; the next goes on.

Without a CUDA device all goes the same way at a tiny size, the kernels by Triton's interpreter:
that proves the check itself, and the kernels' arithmetic; its times mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapalign.devices import cuda_devices
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json

SECONDS = {"flux": 480, "tiny": 1800}
"""For all parts together, by size."""
LINES = 20
"""Of what a part that failed said last."""


@dataclass(frozen=True)
class Part:
    """A command that writes JSON to the file after `--out`.

    Attributes:
        command: it.
        share: of all the time, which it may take.
        needs: a program without which it is left out.
        interprets: the kernels where there is no GPU; else the references take their place there.
    """

    command: Sequence[str]
    share: float
    needs: str = sys.executable
    interprets: bool = False

    def environment(self) -> dict[str, str]:
        """The variables that it runs under."""
        interpreted = self.interprets and not cuda_devices()
        kernels = {"LEAPALIGN_KERNELS": "1", "TRITON_INTERPRET": str(int(interpreted))}
        return {**os.environ, **kernels}


def parts(size: str) -> dict[str, Part]:
    """What is done at a size, the most wanted first."""
    python = sys.executable, "-m"
    found = {
        "correctness": Part((*python, "benchmarks.correctness"), 0.2, interprets=True),
        "kernels": Part((*python, "benchmarks.kernels", "--size", size), 0.35, interprets=True),
        "full_size": Part((*python, "benchmarks.full_size", "--size", size), 0.5),
        "rollout": Part((*python, "benchmarks.rollout", "--size", size, "--repeats", "1"), 0.2),
    }
    if size != "tiny":
        sanitizer = "compute-sanitizer"
        checked = *python, "benchmarks.correctness", "--operations", "leap"
        found["graphs"] = Part((*python, "benchmarks.graphs"), 0.15)
        found["sanitizer"] = Part((sanitizer, "--error-exitcode", "9", *checked), 0.15, sanitizer)
        found["memory"] = Part((*python, "benchmarks.memory", "--size", size), 0.2)
    return found


def perform(part: Part, seconds: float) -> dict[str, Any]:
    """What a part finds; with `error` where it failed, was stopped after its time, or left out."""
    if shutil.which(part.needs) is None:
        return {"error": f"left out: there is no {part.needs} here"}
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out, said = Path(folder) / "found.json", Path(folder) / "said"
        with said.open("wb") as stderr:
            # Its own group: a compiler's processes are to end with it.
            process = subprocess.Popen(
                [*part.command, "--out", str(out)],
                env=part.environment(),
                stderr=stderr,
                start_new_session=True,
            )
            try:
                problem = "" if process.wait(seconds) == 0 else f"exit code {process.returncode}"
            except subprocess.TimeoutExpired:
                problem = f"stopped after {seconds:.0f} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        found: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1)}
        if problem:
            last = said.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES:]
            found["error"] = "\n".join([problem, *last])
        if out.exists():
            found |= json.loads(out.read_text(encoding="utf-8"))
    return found


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: perform all parts, write JSON after each; fails if one has failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check")
    size = "flux" if cuda_devices() else "tiny"
    wanted = parts(size)
    parser.add_argument("--seconds", type=float, default=SECONDS[size], help="for all of it")
    parser.add_argument("--parts", nargs="+", choices=wanted, default=[*wanted])
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    end = time.monotonic() + arguments.seconds
    report = dict[str, Any]()
    for name in arguments.parts:
        part = wanted[name]
        left = min(part.share * arguments.seconds, end - time.monotonic())
        sys.stdout.write(f"{name}: at most {max(left, 0.0):.0f} s\n")
        sys.stdout.flush()
        report[name] = perform(part, left) if left > 0 else {"error": "no time was left"}
        write_json(arguments.out, report)
    failed = {name: row["error"] for name, row in report.items() if "error" in row}
    for name, error in failed.items():
        sys.stdout.write(f"{name} failed: {error}\n")
    if failed:
        raise UserError(f"{', '.join(failed)} failed: see {arguments.out}")


if __name__ == "__main__":
    main()
