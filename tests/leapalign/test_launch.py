"""The launcher: workers of one node or several, their signals, losses and exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from leapalign.config import RunConfig, resolve_run
from leapalign.errors import UserError
from leapalign.launch import Notice, even_share, see_through, shell_code, signal_name, srun
from leapalign.settings import Compute

ROOT = Path(__file__).parents[2]

# A stand-in for `leapalign.train`: notes its place, then does what its first word says.
WORKER = """
import json, os, signal, sys, time
from pathlib import Path

folder, what = Path(sys.argv[-2]), sys.argv[-1]
rank = int(os.environ["RANK"])

def stop(number, frame):
    (folder / f"stopped-{rank}").write_text(signal.Signals(number).name)
    sys.exit(75)

for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, stop)
turn = len(list(folder.glob(f"place-{rank}-*")))
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "CUDA_VISIBLE_DEVICES")
place = {name: os.environ.get(name) for name in names}
(folder / f"place-{rank}-{turn}").write_text(json.dumps(place))
if what == "dies" and rank == 1 and turn == 0:
    os.kill(os.getpid(), signal.SIGKILL)
if what == "errs" and rank == 1:
    sys.exit("error: a mistake")
if what in ("errs", "waits"):
    time.sleep(100)
"""

# Slurm's `srun --nodes=N ... COMMAND`, all nodes on this machine; signals reach the tasks.
SRUN = """#!{python}
import os, signal, subprocess, sys
nodes = int(sys.argv[1].removeprefix("--nodes="))
step = dict(SLURM_STEP_ID="3", SLURM_STEP_NODELIST="this machine")
command = sys.argv[sys.argv.index({python!r}) :]
command[1:3] = ["-c", os.environ["START"]]  # for `-m leapalign.launch`: the stand-in there too
tasks = [subprocess.Popen(command, env=os.environ | step) for _ in range(nodes)]
signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = "#!/bin/sh\necho localhost\n"


@pytest.fixture(scope="module")
def settings() -> str:
    run = RunConfig(method="leapalign/configs/leapalign.yaml")
    train = resolve_run("leapalign", run, "smoke", 0).train
    return replace(train, compute=Compute(devices=2)).json()


class Launch:
    """A launcher in a process of its own, whose workers are the stand-in."""

    def __init__(self, folder: Path, settings: str, *words: str, **environment: str) -> None:
        worker = folder / "worker.py"
        worker.write_text(WORKER)
        start = f"from leapalign import launch; launch.WORKER = ({str(worker)!r},); launch.main()"
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", start, "--settings", settings, *words[:-1], folder, words[-1]],
            env=os.environ
            | {"LEAPALIGN_DEVICES": "", "PYTHONPATH": str(ROOT), "START": start}
            | environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self) -> tuple[int, str]:
        """Its exit code and what it said."""
        said = self.process.communicate(timeout=100)[1]
        return self.process.returncode, said

    def places(self, turn: int = 0) -> list[dict[str, str | None]]:
        """What its workers know of their places in a turn, by rank."""
        found = sorted(self.folder.glob(f"place-*-{turn}"))
        return [json.loads(path.read_text()) for path in found]

    def all_running(self) -> None:
        """Wait until both workers have begun."""
        deadline = time.monotonic() + 100
        while len(self.places()) < 2:
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.1)


def test_workers_know_their_places_and_see_the_leased_devices_alone(
    tmp_path: Path, settings: str
) -> None:
    # Devices of other names than any machine's: their locks are this test's own.
    launch = Launch(tmp_path, settings, "ends", LEAPALIGN_DEVICES="t7,t8,t9")
    assert launch.ended() == (0, "")
    assert launch.places() == [
        {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": "2",
            "GROUP_RANK": "0",
            "CUDA_VISIBLE_DEVICES": "t7,t8",
        }
        for rank in "01"
    ]


def test_a_lost_worker_is_replaced_and_all_start_again(tmp_path: Path, settings: str) -> None:
    launch = Launch(tmp_path, settings, "dies")
    code, said = launch.ended()
    assert (code, said.count("\n")) == (0, 1)
    assert "a worker was lost (SIGKILL); all go on from the last checkpoint (restart 1 of" in said
    assert len(list(tmp_path.glob("place-1-*"))) == 2


def test_a_workers_own_error_is_the_launchers_and_is_not_tried_again(
    tmp_path: Path, settings: str
) -> None:
    launch = Launch(tmp_path, settings, "errs")
    assert launch.ended() == (1, "error: a mistake\n")
    assert launch.places(turn=1) == []


def test_a_schedulers_signal_reaches_all_workers_and_asks_for_another_turn(
    tmp_path: Path, settings: str
) -> None:
    launch = Launch(tmp_path, settings, "waits")
    launch.all_running()
    launch.process.send_signal(signal.SIGUSR1)
    assert launch.ended() == (75, "")
    stopped = [(tmp_path / f"stopped-{rank}").read_text() for rank in range(2)]
    assert "SIGUSR1" in stopped
    assert launch.places(turn=1) == []


def test_several_nodes_share_the_workers_of_one_training(tmp_path: Path, settings: str) -> None:
    for name, text in (("srun", SRUN.format(python=sys.executable)), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path, job = os.pathsep.join([str(tmp_path), os.environ["PATH"]]), str(os.getpid())
    launch = Launch(tmp_path, settings, "--nodes", "2", "waits", PATH=path, SLURM_JOB_ID=job)
    launch.all_running()
    first, second = launch.places()
    assert (first["RANK"], second["RANK"], first["WORLD_SIZE"]) == ("0", "1", "2")
    assert first["LOCAL_RANK"] == second["LOCAL_RANK"] == "0"
    assert {first["GROUP_RANK"], second["GROUP_RANK"]} == {"0", "1"}
    launch.process.terminate()
    assert launch.ended() == (75, "")
    assert all((tmp_path / f"stopped-{rank}").exists() for rank in range(2))


@pytest.mark.parametrize(
    ("codes", "received", "last"),
    [
        ([0], False, 0),
        ([137, 134, 0], False, 0),
        ([137, 1], False, 1),
        ([75], True, 75),
        ([143], True, 75),  # told before it could listen
        ([130], False, 130),
    ],
)
def test_turns_are_taken_until_no_worker_is_lost(
    codes: list[int], received: bool, last: int
) -> None:
    left = iter(codes)
    assert see_through(lambda: next(left), Notice(received)) == last
    assert next(left, None) is None


def test_workers_lost_again_and_again_end_with_one_line() -> None:
    with pytest.raises(UserError, match=r"lost 4 times, the last one by SIGKILL .* run again"):
        see_through(lambda: 137, Notice())


def test_what_cannot_be_started_is_refused_with_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    assert even_share(16, 2) == 8
    with pytest.raises(UserError, match="16 devices cannot be shared evenly by 3 nodes"):
        even_share(16, 3)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UserError, match="--profile profiles/slurm"):
        srun(2, 8)


def test_exit_codes_are_as_shells_have_them() -> None:
    assert [shell_code(code) for code in (0, 1, 75, -9)] == [0, 1, 75, 137]
    assert signal_name(137) == "SIGKILL"
    assert signal_name(255) == "exit code 255"
