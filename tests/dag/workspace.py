"""A copy of the suite to run Snakemake in, apart from the user's results."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "Snakefile",
    "config.yaml",
    "environment.yml",
    "profiles",
    "leapalign",
    "baselines",
    "benchmarks",
    "eval",
    "paper",
    "docs",
)
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))


@dataclass(frozen=True)
class Workspace:
    """A folder with the suite's code and settings, free to edit; the weights are linked."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Workspace:
        """Copy the suite into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        ignored = shutil.ignore_patterns("__pycache__")
        for name in COPIED:
            source, target = ROOT / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=ignored)
            else:
                shutil.copy(source, target)
        without_weights = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / "pocket", folder / "pocket", ignore=without_weights)
        (folder / "pocket" / "weights").symlink_to(ROOT / "pocket" / "weights")
        return cls(folder)

    def snakemake(self, command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run `snakemake <command>` here, at the smoke scale unless the command says otherwise."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [SNAKEMAKE, *shlex.split(command)],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def planned(self, target: str = "all", config: str = "scale=smoke") -> dict[str, int]:
        """The jobs a dry run plans, by rule; empty if there is nothing to do."""
        done = self.snakemake(f"{target} --dry-run --cores 2 --config {config}")
        assert done.returncode == 0, done.stdout + done.stderr
        return job_counts(done.stdout)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that occurs once in a file."""
        file = self.folder / path
        text = file.read_text()
        assert text.count(old) == 1, f"{path} has {text.count(old)} times {old!r}"
        file.write_text(text.replace(old, new))


def job_counts(output: str) -> dict[str, int]:
    """The last table of job counts in Snakemake's output."""
    *_, table = [
        "",
        *re.findall(r"^job +count\n[- ]+\n(.*?)^total", output, re.DOTALL | re.MULTILINE),
    ]
    return {name: int(count) for name, count in re.findall(r"^(\S+) +(\d+)$", table, re.MULTILINE)}
