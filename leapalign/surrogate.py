"""The backward sweep: a direct-gradient method's loss, differentiated along its Plan.

The image that a Plan describes is linear in the recorded velocities, so the gradient of the loss
with respect to the weights is a sum of vector-Jacobian products, each with a cotangent known
beforehand. They are taken one at a time, last leap first: one transformer graph is alive at any
moment, whatever the number of active steps. The result equals autograd through the paper's latent
connectors (Eq. 4-10).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from leapalign.kernels.leap import land
from leapalign.plan import Leap, Plan
from leapalign.rollout import Rollout, Velocity
from leapalign.steps import Latents, PerSample
from leapalign.transfer import queued

Distances = Float[Tensor, "leaps batch"]


def landing(record: Rollout, leaps: Sequence[Leap]) -> Latents:
    """Each sample's recorded leap x̂[stop] = x[start] + Σ_i weight[i] v[i] (Eq. 4, 5)."""
    x, v, weight = _last_terms(record, leaps)
    return x + weight[:, None, None] * v


def _last_terms(record: Rollout, leaps: Sequence[Leap]) -> tuple[Latents, Latents, PerSample]:
    """Each leap's sum up to its last term, that term's velocity, and its weight."""
    sums, velocities, weights = [], [], []
    for b, leap in enumerate(leaps):
        *earlier, (last, weight) = leap.weight.items()
        x = record.states[leap.start][b]
        for i, earlier_weight in earlier:
            x = x + earlier_weight * record.velocities[i][b]
        sums.append(x)
        velocities.append(record.velocities[last][b])
        weights.append(weight)
    x = torch.stack(sums)
    return x, torch.stack(velocities), _on(x, weights)


def _on(x: Latents, values: Sequence[float]) -> Float[Tensor, " values"]:
    """Numbers of plans, in the latents' type and on their device."""
    return queued(torch.tensor(values, dtype=x.dtype), x.device)


def image_latents(record: Rollout, plans: Sequence[Plan]) -> Latents:
    """The latents whose reward is taken: the generated x_0, or the last leap's prediction of it."""
    landed = landing(record, [plan.leaps[-1] for plan in plans])
    return torch.stack(
        [
            landed[b] if plan.reward_on == "prediction" else _reached(record, plan.leaps[-1], b)
            for b, plan in enumerate(plans)
        ]
    )


def _reached(record: Rollout, leap: Leap, b: int) -> Float[Tensor, "tokens channels"]:
    """Where a sample's path was at a leap's end, or as far as it was recorded."""
    return record.states[min(leap.stop, len(record.states) - 1)][b]


def connector_distances(record: Rollout, plans: Sequence[Plan]) -> Distances:
    """Mean |x[stop] - x̂[stop]| of every leap (Eq. 13); NaN at an image that was never reached."""
    rows = []
    for leaps in zip(*(plan.leaps for plan in plans), strict=True):
        reached = [_reached(record, leap, b) for b, leap in enumerate(leaps)]
        _, distance = land(*_last_terms(record, leaps), torch.stack(reached))
        rows.append(distance)
    distances = torch.stack(rows)
    for b, plan in enumerate(plans):
        if plan.horizon < record.grid.end:
            distances[-1, b] = torch.nan
    return distances


def similarity_weight(distances: Distances, plans: Sequence[Plan]) -> Float[Tensor, " batch"]:
    """The loss weight w = 1 / Σ max(d, τ) over the distances a plan counts (Eq. 13), or 1."""
    weights = torch.ones(len(plans), dtype=distances.dtype, device=distances.device)
    for b, plan in enumerate(plans):
        similarity = plan.similarity
        if similarity is None:
            continue
        counts = zip(distances[:, b], similarity.counts(len(plan.leaps)), strict=True)
        if counted := [distance for distance, counts_here in counts if counts_here]:
            weights[b] = 1.0 / torch.stack(counted).clamp_min(similarity.floor).sum()
    return weights


@dataclass(frozen=True, slots=True)
class Replay:
    """One velocity evaluation with gradient, for some of the samples.

    Args:
        rows: the samples that make it.
        index: grid index per such sample.
        scale: weight · gain per such sample.
        joint: whether each index is its leap's start, where the nested gradient leaves through the
            input.
    """

    rows: Sequence[int]
    index: Sequence[int]
    scale: Sequence[float]
    joint: Sequence[bool]


def replays_of(leaps: Sequence[Leap]) -> Iterator[Replay]:
    """The replays of one leap per sample, the m-th active step of all samples together."""
    for m in range(max(len(leap.active) for leap in leaps)):
        rows = [b for b, leap in enumerate(leaps) if m < len(leap.active)]
        steps = [(leaps[b], leaps[b].active[m]) for b in rows]
        yield Replay(
            rows=rows,
            index=[i for _, i in steps],
            scale=[leap.weight[i] * leap.gain[i] for leap, i in steps],
            joint=[leap.start == i for leap, i in steps],
        )


def schedule(plans: Sequence[Plan]) -> list[tuple[int, Replay]]:
    """All replays of a batch and the position of the leap of each, last leap first."""
    legs = list(zip(*(plan.leaps for plan in plans), strict=True))
    return [
        (position, replay)
        for position in reversed(range(len(legs)))
        for replay in replays_of(legs[position])
    ]


def sweep(
    velocity: Velocity,
    record: Rollout,
    plans: Sequence[Plan],
    cotangent: Latents,
    before_last: Callable[[], object] | None = None,
) -> int:
    """Accumulate the weights' gradient of a loss from its gradient at the image (Eq. 10).

    Args:
        velocity: the field, with gradient to its weights.
        record: the rollout.
        plans: one per sample, all with the same number of leaps.
        cotangent: dL/dx_image [batch, tokens, channels].
        before_last: called just before the last replay, where a distributed run reduces its
            gradients.

    Returns:
        The number of replays made, summed over the samples.
    """
    g, nested, evaluations = cotangent, torch.zeros_like(cotangent), 0
    position, replays = len(plans[0].leaps) - 1, schedule(plans)
    for n, (leg, replay) in enumerate(replays):
        if leg < position:
            g, nested, position = _cross_joint(plans, g, nested), torch.zeros_like(g), leg
        if n == len(replays) - 1 and before_last is not None:
            before_last()
        x = _replay(velocity, record, replay, g, crosses=leg > 0)
        if x.grad is not None:
            for row, joint, slope in zip(replay.rows, replay.joint, x.grad, strict=True):
                if joint:
                    nested[row] = slope
        evaluations += len(replay.rows)
    return evaluations


def _replay(
    velocity: Velocity, record: Rollout, replay: Replay, g: Latents, *, crosses: bool
) -> Float[Tensor, "rows tokens channels"]:
    """One vector-Jacobian product; the returned input holds its gradient if a joint is crossed."""
    x = torch.stack([record.states[i][b] for b, i in zip(replay.rows, replay.index, strict=True)])
    x = x.detach().requires_grad_(crosses and any(replay.joint))
    rows, index = (queued(torch.tensor(n), x.device) for n in (replay.rows, replay.index))
    whole = len(rows) == len(g)
    v = (velocity if whole else velocity[rows])(x, record.times(index))
    v.backward(_on(g, replay.scale)[:, None, None] * g[rows])
    return x


def _cross_joint(plans: Sequence[Plan], g: Latents, nested: Latents) -> Latents:
    """The cotangent one leap earlier: g + α·nested (Eq. 10), or α·nested alone (Eq. 14)."""
    alpha = _on(g, [plan.nesting for plan in plans])[:, None, None]
    direct = _on(g, [0.0 if plan.nested_only else 1.0 for plan in plans])[:, None, None]
    return direct * g + alpha * nested


def renoise(velocity: Velocity, record: Rollout, image: Latents, noise: Latents) -> Rollout:
    """DRaFT-LV's re-noised copy (arXiv 2309.17400, Alg. 1): x = (1-σ) x_0 + σ ε at the last σ.

    Args:
        velocity: the field.
        record: the rollout the image came from.
        image: x_0, detached.
        noise: ε, standard normal.

    Returns:
        A record whose last two states are the copy and its denoised image; earlier ones are those
        of `record`.
    """
    last = record.grid.steps - 1
    sigma = record.grid.sigmas[last]
    x = (1.0 - sigma) * image + sigma * noise
    with torch.no_grad():
        v = velocity(x, record.times(last))
    denoised = x + record.grid.delta(last) * v
    return Rollout(
        record.grid,
        [*record.states[:last], x, denoised],
        [*record.velocities[:last], v],
        evaluations=len(image),
    )
