"""The provenance of a job: settings, code, packages, weights, machine and cost, as JSON."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from leapalign.files import require_writable, write_json
from leapalign.settings import Canonical
from leapalign.weights import fingerprint, nameable

PACKAGES = (
    "accelerate",
    "diffusers",
    "numpy",
    "open_clip_torch",
    "peft",
    "pillow",
    "safetensors",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)


@contextlib.contextmanager
def record(
    path: Path, settings: Canonical, weights: Sequence[str], device: str
) -> Iterator[dict[str, Any]]:
    """Time a job and, where it ends well, write its provenance to `path`, atomically.

    Args:
        path: the JSON file.
        settings: the stage's settings.
        weights: folders and files of weights that the job reads.
        device: `cpu`, or the name torch knows the device by.

    Yields:
        A dictionary of further entries to write; an entry replaces one of the same name, such as
        `seconds` of a training that was resumed.

    Raises:
        OSError: `path` cannot be written, said before the job begins.
    """
    require_writable(path.parent)
    started, clock = datetime.datetime.now(datetime.UTC), time.monotonic()
    extra: dict[str, Any] = {}
    yield extra
    entries = {
        "settings": json.loads(settings.json()),
        "settings_hash": settings.hash(),
        "git": git_state(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "weights": {nameable(name): fingerprint(name) for name in weights},
        "device": _device_name(device),
        "cores": os.cpu_count(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 2),
        "peak_memory_mb": peak_memory_mb(),
    }
    write_json(path, entries | extra)


def git_state() -> dict[str, Any]:
    """The revision of the code, and whether tracked files differ from it; nulls outside git."""
    root = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(root), *arguments]
            return subprocess.run(
                command, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"revision": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def package_versions() -> dict[str, str]:
    """The versions of the packages that numbers depend on, where installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def peak_memory_mb() -> float:
    """The most memory taken so far, in MB (10^6 bytes): by tensors on the GPU, if one is in use.

    Without one, the process' largest resident memory.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return round(torch.cuda.max_memory_allocated() / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def _device_name(device: str) -> str:
    if device == "cpu":
        return f"cpu ({platform.machine()})"
    import torch

    return f"{device} ({torch.cuda.get_device_name(device)})"
