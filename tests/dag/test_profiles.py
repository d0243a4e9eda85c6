"""What Snakemake asks of a scheduler: told by a dry run, and in the words of `sbatch` itself."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.dag.workspace import ROOT, SNAKEMAKE

SCALE = """
extends: smoke
description: a training on {devices} GPUs
runs: [base, leapalign]
training: {{batch: 32}}
compute: {{devices: {devices}}}
node: {{devices: 8, cores: 4, memory: 64}}
"""
TRAIN = "results/{scale}/train/leapalign/seed0/provenance.json"

# Each of Slurm's commands: answers what Snakemake must know, notes what is submitted.
SLURM = """#!/bin/sh
cd "$(dirname "$0")" || exit
case $(basename "$0") in
sinfo) echo gpu ;;
sshare | sacctmgr) echo project ;;
sbatch) echo "$*" > part && mv part submitted && exit 1 ;;
esac
"""


def scale(folder: Path, devices: int) -> tuple[Path, str]:
    """A scale with trainings on so many devices, and what is made of one."""
    path = folder / f"gpus{devices}.yaml"
    path.write_text(SCALE.format(devices=devices))
    return path, TRAIN.format(scale=path.stem)


@pytest.mark.parametrize(
    ("devices", "asked"),
    [
        (8, {"nodes": "1", "gpu": "8", "mem_mb": "512000", "cpus_per_task": "32"}),
        (16, {"nodes": "2", "gres": "gpu:8", "mem_mb": "512000", "tasks": "2", "mpi": "srun"}),
    ],
)
def test_a_dry_run_says_what_a_training_asks_for(pristine, tmp_path, devices, asked):
    path, target = scale(tmp_path, devices)
    done = pristine.snakemake(f"-n --profile profiles/slurm --config scale={path} -- {target}")
    assert done.returncode == 0, done.stdout + done.stderr
    [line] = re.findall(r"^Resources of job 0: (.*)$", done.stdout, re.M)
    told = dict(pair.split("=", 1) for pair in line.split(", "))
    assert asked.items() <= told.items()
    assert int(told["runtime"]) >= 30
    assert told["slurm_extra"] == "--signal=TERM@900"


def test_slurm_gets_one_task_a_node_and_each_nodes_gpus(workspace, tmp_path):
    for name in ("sbatch", "sinfo", "sacct", "squeue", "sacctmgr", "sshare", "scontrol", "scancel"):
        (tmp_path / name).write_text(SLURM)
        (tmp_path / name).chmod(0o755)
    path, target = scale(tmp_path, 16)
    words = f"--profile profiles/slurm --retries 0 --config scale={path} -- {target}".split()
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        [SNAKEMAKE, *words],
        cwd=workspace.folder,
        env=environment | {"PYTHONPATH": str(workspace.folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 100
    while not (tmp_path / "submitted").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.kill()
    process.communicate()
    submitted = (tmp_path / "submitted").read_text().partition(" --wrap")[0]
    for option in ("-p gpu", "-A project", "--nodes=2", "--ntasks=2", "--gres=gpu:8"):
        assert f" {option} " in f"{submitted} "
    assert "--signal=TERM@900" in submitted
    assert "--gpus" not in submitted


def test_a_mistyped_profile_is_refused(pristine):
    done = pristine.snakemake("-n --profile profiles/slrum --config scale=smoke")
    assert done.returncode != 0
    assert "slrum" in done.stdout + done.stderr


def test_the_kubernetes_job_has_as_many_gpus_as_it_gives_to_jobs():
    job = yaml.safe_load((ROOT / "docs/examples/kubernetes.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    gpus = container["resources"]["limits"]["nvidia.com/gpu"]
    assert f"gpu={gpus}" in container["command"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
