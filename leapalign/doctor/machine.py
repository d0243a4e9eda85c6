"""The machine: its devices and their memory, RAM, cores; one at hand, or one that is only named."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass

import psutil

from leapalign.devices import cuda_devices
from leapalign.errors import UserError

GIGABYTE = 10**9
USABLE = 0.95
"""Share of a device's memory, or of the RAM, that a training may fill: a driver's context and the
allocator's gaps take some."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device.

    Args:
        name: as its maker calls it.
        memory: bytes that a training may use.
    """

    name: str
    memory: int


@dataclass(frozen=True, slots=True)
class Machine:
    """What trainings run on.

    Args:
        devices: its devices.
        here: whether it is this machine.
        cuda: whether the devices are CUDA devices; else it is the CPU, in all of the RAM.
        ram: bytes; 0 where that is not known.
    """

    devices: tuple[Device, ...]
    here: bool = True
    cuda: bool = True
    ram: int = 0

    @property
    def memory(self) -> int:
        """Bytes on the smallest device."""
        return min(device.memory for device in self.devices)

    @property
    def name(self) -> str:
        """For people: `8 x NVIDIA H100, 80 GB`."""
        first = self.devices[0]
        return f"{len(self.devices)} x {first.name}, {first.memory / GIGABYTE:.0f} GB"


def this_machine() -> Machine:
    """The devices that nvidia-smi lists and `CUDA_VISIBLE_DEVICES` leaves, else the CPU."""
    ram = psutil.virtual_memory().total
    wanted, listed = cuda_devices(), _listed()
    found = [listed[name] for name in wanted if name in listed]
    if len(found) < len(wanted):  # parts of a device, for example, which nvidia-smi does not list
        found = _seen_by_torch() or [Device("CUDA device of unknown memory", 0)] * len(wanted)
    cpu = Device(f"CPU ({platform.machine()}, {os.cpu_count()} cores)", round(USABLE * ram))
    return Machine(tuple(found) or (cpu,), cuda=bool(found), ram=ram)


def _seen_by_torch() -> list[Device]:
    import torch

    names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [Device(torch.cuda.get_device_name(name), memory_of(name, 1)) for name in names]


def named_machine(text: str) -> Machine:
    """The machine called `8x80`: so many NVIDIA devices of so many GB.

    Raises:
        UserError: it is not of this form.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None or not int(match[1]):
        raise UserError(f"--machine: `{text}` must read DEVICESxGIGABYTES, as 8x80 or 1x141")
    gigabytes = int(match[2])
    name = {40: "A100", 80: "H100", 141: "H200"}.get(gigabytes, "device")
    return Machine((Device(name, gigabytes * GIGABYTE),) * int(match[1]), here=False)


def memory_of(device: str, processes: int) -> int:
    """Bytes that each of a training's processes may use on the device that torch calls `device`."""
    if device == "cpu":
        return round(USABLE * psutil.virtual_memory().total / processes)
    import torch

    return round(USABLE * torch.cuda.get_device_properties(device).total_memory)


def _listed() -> dict[str, Device]:
    """nvidia-smi's devices, by index and by UUID."""
    query = [
        "nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits",
    ]  # fmt: skip
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    devices = {}
    for line in answer.stdout.splitlines():
        index, uuid, name, mebibytes = (field.strip() for field in line.split(","))
        devices[index] = devices[uuid] = Device(name, round(USABLE * int(mebibytes) * 2**20))
    return devices
