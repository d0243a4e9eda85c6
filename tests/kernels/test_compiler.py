"""Triton's compiler takes every kernel, not only its interpreter."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def launched() -> set[str]:
    """The jitted functions that an operation launches, by their place in a launch `f[grid](…)`."""
    names = set()
    for file in (ROOT / "leapalign/kernels").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Subscript(value=ast.Name(id=name))):
                    names.add(f"leapalign.kernels.{file.stem}.{name}")
    return names


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
def test_every_kernel_compiles_for_an_h200(tmp_path: Path) -> None:
    settings = {
        "TRITON_INTERPRET": "0",
        "LEAPALIGN_KERNELS": "1",
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    environment = {**os.environ, **settings}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.hopper"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == launched()
