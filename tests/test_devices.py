"""The GPU lease, between real processes on pretend devices."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from leapalign.devices import cuda_devices, lease, leased_device
from leapalign.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from leapalign.devices import lease
with lease(int(sys.argv[2]), folder=Path(sys.argv[1])) as held:
    print(",".join(held), flush=True)
    sys.stdin.readline()
"""


class Holder:
    """A process that holds devices until told to let go."""

    def __init__(self, folder, count=1):
        command = [sys.executable, "-c", HOLD, str(folder), str(count)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def devices(self):
        return self.process.stdout.readline().strip().split(",")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def let_go(self):
        self.process.communicate("\n", timeout=30)


@pytest.fixture
def four(monkeypatch):
    monkeypatch.setenv("LEAPALIGN_DEVICES", "0,1,2,3")


@pytest.mark.usefixtures("four")
def test_processes_side_by_side_never_share_a_device(tmp_path):
    holders = [Holder(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        held = [name for names in pool.map(Holder.devices, holders) for name in names]
    assert sorted(held) == ["0", "1", "2", "3"]
    with pytest.raises(UserError, match="no 1 free devices"), lease(1, folder=tmp_path, timeout=0):
        pass
    for holder in holders:
        holder.let_go()


@pytest.mark.usefixtures("four")
def test_a_killed_process_frees_its_devices(tmp_path):
    holder = Holder(tmp_path, count=4)
    assert len(holder.devices()) == 4
    holder.kill()
    with lease(4, folder=tmp_path, timeout=5) as held:
        assert held == ("0", "1", "2", "3")


@pytest.mark.usefixtures("four")
def test_who_waits_holds_nothing_back(tmp_path):
    first = Holder(tmp_path, count=3)
    assert len(first.devices()) == 3
    waiting = Holder(tmp_path, count=2)
    with lease(1, folder=tmp_path, timeout=5) as held:
        assert held == ("3",)
    first.let_go()
    assert len(waiting.devices()) == 2
    waiting.let_go()


@pytest.mark.usefixtures("four")
def test_more_devices_than_there_are_is_an_error(tmp_path):
    with pytest.raises(UserError, match="5 devices wanted, 4 found"), lease(5, folder=tmp_path):
        pass


def test_without_devices_the_cpu_works(monkeypatch):
    monkeypatch.setenv("LEAPALIGN_DEVICES", "")
    assert cuda_devices() == ()
    with leased_device() as device:
        assert device == "cpu"


def test_a_job_sees_only_its_own_device(monkeypatch, tmp_path):
    monkeypatch.setenv("LEAPALIGN_DEVICES", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with leased_device() as device:
        import os

        assert (device, os.environ["CUDA_VISIBLE_DEVICES"]) == ("cuda:0", "5")
