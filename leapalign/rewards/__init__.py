"""Differentiable text-to-image rewards behind one interface.

`load_reward` knows HPSv2.1, PickScore, HPSv3, ImageReward and UnifiedReward, which only evaluates.
Each loads the official checkpoints, and any folder in the same file formats, through the same code.
"""

from __future__ import annotations

from pathlib import Path

import torch

from leapalign.errors import UserError
from leapalign.parsing import nearest, resolve
from leapalign.rewards.reward import Reward

REWARDS = {
    "hpsv2": "leapalign.rewards.hpsv2:HPSv2",
    "pickscore": "leapalign.rewards.pickscore:PickScore",
    "hpsv3": "leapalign.rewards.hpsv3:HPSv3",
    "imagereward": "leapalign.rewards.imagereward:ImageReward",
    "unifiedreward-alignment": "leapalign.rewards.unifiedreward:Alignment",
    "unifiedreward-quality": "leapalign.rewards.unifiedreward:Quality",
}

__all__ = ["REWARDS", "Reward", "load_reward"]


def load_reward(name: str, path: str | Path, device: torch.device | str = "cpu") -> Reward:
    """Load a reward from its weights.

    Args:
        name: One of `REWARDS`, or a `Reward` of the user's own, `module:Class` or `file.py:Class`.
        path: Its folder of weights, or a single file where the official release is one.
        device: Where it shall run; it stays float32 unless the checkpoint is bfloat16.

    Raises:
        UserError: The name is unknown, or the weights are missing or damaged.
    """
    if name not in REWARDS and ":" not in name:
        raise UserError(f"unknown reward `{name}`{nearest(name, REWARDS)}")
    cls = resolve(REWARDS.get(name, name), "reward")
    if not (isinstance(cls, type) and issubclass(cls, Reward)):
        raise UserError(f"reward: `{name}` is no subclass of leapalign.rewards.Reward")
    loaded: Reward = cls.load(Path(path), torch.device(device))
    return loaded
