"""A training that is killed at any moment and run again ends as if it had never been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leapalign.settings import TrainSettings

ROOT = Path(__file__).parents[2]
WALL_CLOCK = ("seconds", "peak_memory_mb")
PATIENCE = 300.0


def start(settings: TrainSettings, folder: Path) -> subprocess.Popen[str]:
    """The command that the training rule runs."""
    command = [sys.executable, "-m", "leapalign.train", "--settings", settings.json()]
    command += ["--out", str(folder / "out"), "--checkpoints", str(folder / "checkpoints")]
    command += ["--snapshot-every", "3"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "LEAPALIGN_DEVICES": ""},
        stderr=subprocess.PIPE,
        text=True,
        # As in a terminal, though tests that were started in the background may ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Its messages, once it has ended well."""
    _, messages = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, messages
    return messages


def wait_for(process: subprocess.Popen[str], checkpoints: Path, iteration: int) -> None:
    """Return once the checkpoint of `iteration` is there."""
    deadline = time.monotonic() + PATIENCE
    while not (checkpoints / f"iteration-{iteration:06d}").exists():
        assert process.poll() is None, "the training ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_after(process: subprocess.Popen[str], checkpoints: Path, iteration: int) -> None:
    """Kill -9 once the checkpoint of `iteration` is there, and a moment has passed."""
    wait_for(process, checkpoints, iteration)
    time.sleep(random.SystemRandom().uniform(0.0, 0.1))
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the training ended before it could be killed"


def outcome(folder: Path) -> tuple[dict[str, bytes], list[dict[str, object]]]:
    """The bytes of all weights, and the log without what the wall clock decides."""
    lines = [json.loads(line) for line in (folder / "out/log.jsonl").read_text().splitlines()]
    for line in lines:
        for key in WALL_CLOCK:
            del line[key]
    weights = sorted((folder / "out").rglob("*.safetensors"))
    return {str(path.relative_to(folder / "out")): path.read_bytes() for path in weights}, lines


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "unbroken", tmp_path / "killed"


def test_a_killed_training_resumes_to_the_same_weights_and_log(
    settings: TrainSettings, folders: tuple[Path, Path]
) -> None:
    unbroken, killed = folders
    iterations, every = settings.training.iterations, settings.training.checkpoint_every
    victim = random.SystemRandom().choice(range(every, iterations // 2, every))
    first = start(settings, killed)
    kill_after(first, killed / "checkpoints", victim)
    assert not (killed / "out" / "weights").exists()
    messages = finish(start(settings, killed))
    assert f"of {iterations}" in messages
    assert "resumed at iteration" in messages
    finish(start(settings, unbroken))
    assert outcome(killed)[1] == outcome(unbroken)[1]
    assert outcome(killed)[0] == outcome(unbroken)[0]
    watched = [f"snapshots/iteration-{done:06d}" for done in range(3, iterations, 3)]
    file = "transformer/diffusion_pytorch_model.safetensors"
    assert list(outcome(killed)[0]) == [f"{folder}/{file}" for folder in (*watched, "weights")]
    assert "fine-tuned by LeapAlign" in (killed / "out/weights/README.md").read_text()
    # Finished, it leaves nothing that would cut a forced retraining short.
    assert not (killed / "checkpoints").exists()
    provenance = json.loads((killed / "out/provenance.json").read_text())
    assert provenance["settings_hash"] == settings.hash()


def test_ctrl_c_ends_a_training_with_130_and_keeps_its_checkpoint(
    settings: TrainSettings, tmp_path: Path
) -> None:
    process = start(settings, tmp_path)
    wait_for(process, tmp_path / "checkpoints", settings.training.checkpoint_every)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, messages
    assert "run the same command again to go on" in messages.splitlines()[-1]
    assert list((tmp_path / "checkpoints").glob("iteration-*"))
