"""Starts a training on as many devices as its settings ask for, and sees it to its end.

- One device: in this process.
- Several of one node: torch's elastic agent starts one worker each, `leapalign.train`, and tells it
  its place by torchrun's environment variables.
- Several nodes: `srun` starts this launcher on each node of the Slurm job, with `--joins`; their
  agents meet on the first node.

A scheduler's signal goes on to the workers, which write a checkpoint and exit with 75: so does this
process, and asks for another turn by it. After a worker was lost, all start again from the last
checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType

import psutil

from leapalign.devices import cuda_devices, leased_devices
from leapalign.errors import INTERRUPTED, UserError, main_guard
from leapalign.interrupt import REQUEUE
from leapalign.settings import TrainSettings

WORKER = ("-m", "leapalign.train")

RESTARTS = 3
"""How often lost workers are replaced."""

KILLED = 128
"""Added to the number of the signal that ended a process, as shells do."""

NODE_SECONDS = 60
"""How long a node's workers may outlive those of another."""


@dataclass
class Notice:
    """A scheduler's word that time is up, which goes on to the processes started here."""

    received: bool = False

    def listen(self) -> None:
        """Take SIGTERM and SIGUSR1 for it."""
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._pass_on)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.received = True
        children = psutil.Process().children()
        if not children:  # nothing runs that could be lost
            raise SystemExit(REQUEUE)
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                child.send_signal(number)


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: that of `leapalign.train`, and the number of nodes."""
    parser = argparse.ArgumentParser(prog="python -m leapalign.launch", add_help=False)
    parser.add_argument("--settings", required=True)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--joins", action="store_true")
    own, rest = parser.parse_known_args(argv)
    worker = ["--settings", own.settings, *rest]
    devices = TrainSettings.from_json(own.settings).compute.devices
    if devices == 1:
        from leapalign.train import main as train  # a launcher of several loads no models

        train(worker)
        return
    share = even_share(devices, own.nodes)
    notice = Notice()
    notice.listen()
    # The agents' words, when one of them ends before the other: a worker's own error says it all.
    logging.disable(logging.ERROR)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    if own.joins:
        with leased_devices(share):
            code = start_workers(worker, share, own.nodes, *meeting_point())
    elif own.nodes == 1:
        with leased_devices(share):
            code = see_through(lambda: start_workers(worker, share), notice)
    else:
        joining = [*srun(own.nodes, share), sys.executable, "-m", "leapalign.launch"]
        joining += ["--joins", "--nodes", str(own.nodes), *worker]
        code = see_through(lambda: shell_code(subprocess.call(joining)), notice)
    raise SystemExit(code)


def even_share(devices: int, nodes: int) -> int:
    """The devices of each node.

    Raises:
        UserError: they cannot be shared out evenly.
    """
    if devices % nodes:
        raise UserError(
            f"compute.devices: {devices} devices cannot be shared evenly by {nodes} nodes; change "
            "it, or the scale's node.devices"
        )
    return devices // nodes


def see_through(turn: Callable[[], int], notice: Notice) -> int:
    """Take turns until no worker is lost in one; returns the exit code of the last.

    Raises:
        UserError: workers are lost again and again.
    """
    for restart in range(RESTARTS + 1):
        code = turn()
        if code <= KILLED or code == INTERRUPTED:
            return code
        if notice.received:  # too early for a worker to know what it means, or too late
            return REQUEUE
        if restart < RESTARTS:
            sys.stderr.write(
                f"a worker was lost ({signal_name(code)}); all go on from the last checkpoint "
                f"(restart {restart + 1} of {RESTARTS})\n"
            )
    raise UserError(
        f"workers were lost {RESTARTS + 1} times, the last one by {signal_name(code)} (SIGKILL "
        "often means out of memory); the last checkpoint is kept: run again to go on"
    )


def start_workers(
    worker: Sequence[str], count: int, nodes: int = 1, meeting: str = "localhost:0", name: str = ""
) -> int:
    """Run `count` workers here to their end, together with those of the other nodes.

    Args:
        worker: their command line.
        count: workers on this node.
        nodes: nodes that take part.
        meeting: host and port where the nodes' agents meet.
        name: of this turn, the same on all nodes.

    Returns:
        0, or the exit code of the worker that failed first; `KILLED` and more if a signal ended it.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=count,
            run_id=name or uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=meeting,
            max_restarts=0,  # `see_through` decides
            signals_to_handle="SIGINT,SIGHUP,SIGQUIT",  # `Notice` has the others
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)(*WORKER, *worker)
        except ChildFailedError as error:
            return shell_code(error.get_first_failure()[1].exitcode)
        except SignalException:
            raise KeyboardInterrupt from None
    return 0


def srun(nodes: int, devices: int) -> list[str]:
    """What starts one process on each node of this Slurm job, with this many devices each.

    Raises:
        UserError: this is no Slurm job.
    """
    if "SLURM_JOB_ID" not in os.environ or shutil.which("srun") is None:
        raise UserError(
            f"{nodes} nodes wanted, but this is no Slurm job: run Snakemake with "
            "`--profile profiles/slurm`, or lower compute.devices of the scale"
        )
    gpus = [f"--gpus-per-node={devices}"] if cuda_devices() else []
    each = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", *gpus]
    return ["srun", *each, "--cpu-bind=none", "--kill-on-bad-exit=0", f"--wait={NODE_SECONDS}"]


def meeting_point() -> tuple[str, str]:
    """Where the nodes that `srun` started meet, and under which name: the same on all of them."""
    job, step = os.environ["SLURM_JOB_ID"], os.environ["SLURM_STEP_ID"]
    query = ["scontrol", "show", "hostnames", os.environ["SLURM_STEP_NODELIST"]]
    hosts = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    port = 20000 + (int(job) + int(step)) % 10000  # below those that systems give out themselves
    return f"{hosts[0]}:{port}", f"{job}.{step}"


def shell_code(code: int) -> int:
    """A process' exit code as shells have it."""
    return KILLED - code if code < 0 else code


def signal_name(code: int) -> str:
    """The signal that a shell's exit code tells of."""
    try:
        return signal.Signals(code - KILLED).name
    except ValueError:
        return f"exit code {code}"


if __name__ == "__main__":
    main()
