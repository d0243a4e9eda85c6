"""Group-relative policy gradients: advantages, clipped ratio, replay of stochastic steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from leapalign.errors import UserError
from leapalign.kernels.sde import sde_log_prob
from leapalign.rollout import Rollout, Velocity
from leapalign.steps import StochasticStep
from leapalign.transfer import queued

# The largest |ρ - 1| that rounding may leave before any update. A mean log-density lies between
# about 1 and 4, where neighbouring float32 values are 1.2e-7 to 2.4e-7 apart: this allows four to
# eight of them, and is a hundredth of the usual clip range, 1e-4. On a CPU at pocket scale, replays
# in the rollout's own micro-batches leave exactly 0.
RATIO_ROUNDING = 1e-6


def group_advantages(
    rewards: Float[Tensor, "prompts group"], clip: float
) -> Float[Tensor, "prompts group"]:
    """GRPO's advantages (arXiv 2402.03300, Sec. 4.1.2): rewards standardised in each group.

    A = (r - mean) / (std + 1e-8), with the unbiased standard deviation.

    Args:
        rewards: one row per prompt.
        clip: advantages are bounded to ±clip.

    Returns:
        The advantages; a row of NaN where all rewards of a group are equal: such a group teaches
        nothing and is skipped.
    """
    spread = rewards.std(dim=1, keepdim=True)
    advantages = (rewards - rewards.mean(dim=1, keepdim=True)) / (spread + 1e-8)
    return advantages.clamp(-clip, clip).masked_fill(spread == 0, torch.nan)


def mixed_advantages(
    rewards: Float[Tensor, "prompts group rewards"], clip: float
) -> Float[Tensor, "prompts group"]:
    """MixGRPO's advantages (arXiv 2507.21802) under several rewards: the mean of each one's.

    Args:
        rewards: one row per prompt; their units do not matter.
        clip: the mean is bounded to ±clip.

    Returns:
        The advantages. A reward that is equal in all of a group has no say there; a row of NaN
        where all of them are.
    """
    each = torch.stack([group_advantages(of_one, clip=math.inf) for of_one in rewards.unbind(-1)])
    undecided = each.isnan().all(dim=0)
    return each.nan_to_num(0.0).mean(dim=0).clamp(-clip, clip).masked_fill(undecided, torch.nan)


def batch_advantages(
    rewards: Float[Tensor, "prompts group"], clip: float
) -> Float[Tensor, "prompts group"]:
    """Flow-GRPO's advantages: the mean is each group's, the spread the whole batch's.

    A = (r - mean) / (std + 1e-4), with the population's standard deviation.

    Args:
        rewards: one row per prompt.
        clip: advantages are bounded to ±clip.

    Returns:
        The advantages; a row of NaN where all rewards of a group are equal, as `group_advantages`.
    """
    spread = rewards.std(dim=1, keepdim=True)
    deviation = rewards - rewards.mean(dim=1, keepdim=True)
    advantages = deviation / (rewards.std(correction=0) + 1e-4)
    return advantages.clamp(-clip, clip).masked_fill(spread == 0, torch.nan)


def clipped_loss(
    ratio: Float[Tensor, " batch"], advantage: Float[Tensor, " batch"], clip: float
) -> Float[Tensor, " batch"]:
    """PPO's clipped objective (arXiv 1707.06347, Eq. 7), negated: max(-A ρ, -A clip(ρ, 1 ± ε))."""
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1.0 - clip, 1.0 + clip))


@dataclass(frozen=True, slots=True)
class PolicyUpdate:
    """What one replay of the policy needs beside the record.

    Args:
        rule: the stochastic step the rollout took.
        clip: ε of the clipped ratio.
        scale: factor on every term of the loss, 1 / (images in the update · trained steps).
    """

    rule: StochasticStep
    clip: float
    scale: float


@dataclass(slots=True)
class ReplayedPolicy:
    """Sums over the replays of an update.

    Args:
        loss: the scaled loss.
        clipped: terms whose ratio left [1 - ε, 1 + ε].
        deviation: the largest |ρ - 1| seen; at most `RATIO_ROUNDING` before any update.
        terms: replays, summed over samples.
    """

    loss: float = 0.0
    clipped: int = 0
    deviation: float = 0.0
    terms: int = 0


def check_faithful(deviation: float, iteration: int) -> None:
    """Refuse to train on a replay that does not repeat its rollout: ρ = 1 before any update.

    Args:
        deviation: the largest |ρ - 1| met while the weights were the rollout's own.
        iteration: for the message.

    Raises:
        UserError: it is more than rounding, so clipping and gradient would be those of noise.
    """
    if not deviation <= RATIO_ROUNDING:
        raise UserError(
            f"iteration {iteration}: before any update the ratio differs from 1 by {deviation:.1e} "
            f"(rounding allows {RATIO_ROUNDING:.0e}), so the replay does not repeat the rollout: "
            "remove dropout from the transformer, use float32, or keep to one attention kernel"
        )


def replay_policy(
    velocity: Velocity,
    record: Rollout,
    steps: Sequence[Sequence[int]],
    advantages: Float[Tensor, " batch"],
    update: PolicyUpdate,
    before_last: Callable[[], object] | None = None,
) -> ReplayedPolicy:
    """Accumulate the gradient of the clipped objective over a recorded batch's trained steps.

    Args:
        velocity: the field, with gradient to its weights.
        record: the stochastic rollout with its log-probabilities.
        steps: the trained indices of each sample, equally many; replayed in the order given.
        advantages: one per sample.
        update: rule, clip range and scale.
        before_last: called just before the last replay, where a distributed run reduces its
            gradients.
    """
    losses, deviations = [], []
    for m in range(len(steps[0])):
        indices = [chosen[m] for chosen in steps]
        x, x_next, old = (
            torch.stack([column[i + shift][b] for b, i in enumerate(indices)])
            for column, shift in ((record.states, 0), (record.states, 1), (record.log_probs, 0))
        )
        if m == len(steps[0]) - 1 and before_last is not None:
            before_last()
        index = queued(torch.tensor(indices), x.device)
        transition = update.rule.transition(*record.levels(index))
        density = sde_log_prob(x, velocity(x, record.times(index)), x_next, transition)
        ratio = torch.exp(density - old)
        loss = update.scale * clipped_loss(ratio, advantages, update.clip).sum()
        loss.backward()
        losses.append(loss.detach())
        deviations.append((ratio.detach() - 1.0).abs())
    # Read at the end: a number asked of a GPU waits for all that comes before it.
    deviation = torch.cat(deviations)
    return ReplayedPolicy(
        loss=sum(torch.stack(losses).tolist()),
        clipped=int((deviation > update.clip).sum()),
        deviation=float(deviation.max()),
        terms=len(deviation),
    )
