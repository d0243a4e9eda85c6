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
from leapalign.steps import Latents

Distances = Float[Tensor, "leaps batch"]


def landing(record: Rollout, leaps: Sequence[Leap]) -> Latents:
    """Each sample's recorded leap x̂[stop] = x[start] + Σ_i weight[i] v[i] (Eq. 4, 5)."""
    x, v, weight = _last_terms(record, leaps)
    return x + weight[:, None, None] * v


def _last_terms(
    record: Rollout, leaps: Sequence[Leap]
) -> tuple[Latents, Latents, Float[Tensor, " batch"]]:
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
    return x, torch.stack(velocities), x.new_tensor(weights)


def image_latents(record: Rollout, plans: Sequence[Plan]) -> Latents:
    """The latents whose reward is taken: the generated x_0, or the last leap's prediction of it."""
    rows = torch.stack(
        [
            record.states[min(plan.leaps[-1].stop, len(record.states) - 1)][b]
            for b, plan in enumerate(plans)
        ]
    )
    predicts = torch.tensor([plan.reward_on == "prediction" for plan in plans])
    if bool(predicts.any()):
        rows[predicts] = landing(record, [plan.leaps[-1] for plan in plans])[predicts]
    return rows


def connector_distances(record: Rollout, plans: Sequence[Plan]) -> Distances:
    """Mean |x[stop] - x̂[stop]| of every leap (Eq. 13); NaN at an image that was never reached."""
    rows = []
    for leaps in zip(*(plan.leaps for plan in plans), strict=True):
        reached = [
            record.states[min(leap.stop, len(record.states) - 1)][b] for b, leap in enumerate(leaps)
        ]
        _, distance = land(*_last_terms(record, leaps), torch.stack(reached))
        rows.append(distance)
    distances = torch.stack(rows)
    distances[-1, [plan.horizon < record.grid.end for plan in plans]] = torch.nan
    return distances


def similarity_weight(distances: Distances, plans: Sequence[Plan]) -> Float[Tensor, " batch"]:
    """The loss weight w = 1 / Σ max(d, τ) over the distances a plan counts (Eq. 13), or 1."""
    weights = torch.ones(len(plans), dtype=distances.dtype, device=distances.device)
    for b, plan in enumerate(plans):
        similarity = plan.similarity
        if similarity is None:
            continue
        counted = torch.tensor(similarity.counts(len(plan.leaps)))
        if bool(counted.any()):
            weights[b] = 1.0 / distances[counted, b].clamp_min(similarity.floor).sum()
    return weights


@dataclass(frozen=True, slots=True)
class Replay:
    """One velocity evaluation with gradient, for the samples in `rows`.

    Args:
        rows: the samples that make it.
        index: grid index per such sample.
        scale: weight · gain per such sample.
        joint: whether each index is its leap's start, where the nested gradient leaves through the
            input.
    """

    rows: Tensor
    index: Tensor
    scale: Tensor
    joint: Tensor


def replays_of(leaps: Sequence[Leap]) -> Iterator[Replay]:
    """The replays of one leap per sample, the m-th active step of all samples together."""
    for m in range(max(len(leap.active) for leap in leaps)):
        rows = [b for b, leap in enumerate(leaps) if m < len(leap.active)]
        steps = [leaps[b].active[m] for b in rows]
        yield Replay(
            rows=torch.tensor(rows),
            index=torch.tensor(steps),
            scale=torch.tensor(
                [leaps[b].weight[i] * leaps[b].gain[i] for b, i in zip(rows, steps, strict=True)],
                dtype=torch.float64,
            ),
            joint=torch.tensor([leaps[b].start == i for b, i in zip(rows, steps, strict=True)]),
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
            nested[replay.rows[replay.joint]] = x.grad[replay.joint]
        evaluations += len(replay.rows)
    return evaluations


def _replay(
    velocity: Velocity, record: Rollout, replay: Replay, g: Latents, *, crosses: bool
) -> Float[Tensor, "rows tokens channels"]:
    """One vector-Jacobian product; the returned input holds its gradient if a joint is crossed."""
    x = torch.stack(
        [record.states[int(i)][int(b)] for b, i in zip(replay.rows, replay.index, strict=True)]
    )
    x = x.detach().requires_grad_(crosses and bool(replay.joint.any()))
    time = at_rows(record, replay)
    whole = len(replay.rows) == len(g)
    v = (velocity if whole else velocity[replay.rows])(x, time)
    v.backward(replay.scale.to(g)[:, None, None] * g[replay.rows])
    return x


def at_rows(record: Rollout, replay: Replay) -> Float[Tensor, " rows"]:
    """The model's time of each replayed sample."""
    state = record.states[0]
    return torch.tensor(record.grid.times, dtype=state.dtype)[replay.index].to(state.device)


def _cross_joint(plans: Sequence[Plan], g: Latents, nested: Latents) -> Latents:
    """The cotangent one leap earlier: g + α·nested (Eq. 10), or α·nested alone (Eq. 14)."""
    alpha = g.new_tensor([plan.nesting for plan in plans])[:, None, None]
    direct = g.new_tensor([0.0 if plan.nested_only else 1.0 for plan in plans])[:, None, None]
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
