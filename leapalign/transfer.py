"""Small tensors made on the host for a device that is not waited for."""

from __future__ import annotations

import torch
from torch import Tensor


def queued(values: Tensor, device: torch.device) -> Tensor:
    """The host's values on a device: the copy waits in the device's queue, the host for nothing.

    A plain copy to a GPU would hold the host until all that was asked of the GPU before is done,
    and what comes next would reach the GPU late.
    """
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)
