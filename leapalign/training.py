"""A run while it trains: accumulate, clip, step, average; and all that it holds, loaded."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from leapalign.adapters import adapted
from leapalign.average import Average
from leapalign.backbones.backbone import Backbone
from leapalign.checkpoint import Tally
from leapalign.compute import fit, keep_to_flash_attention, load_types
from leapalign.data import Sampler, read_prompts
from leapalign.doctor.admission import admitted
from leapalign.errors import UserError
from leapalign.log import log_line
from leapalign.method import Method, Progress, combined
from leapalign.optimizer import adamw
from leapalign.parallel import Processes, present
from leapalign.parsing import resolve
from leapalign.problem import TrainingProblem
from leapalign.rewards import load_reward
from leapalign.settings import Training as Budget
from leapalign.settings import TrainSettings
from leapalign.sharding import shard, whole


class Diverged(UserError):
    """Training met a loss or gradient that is not finite."""


@dataclass
class Training:
    """Everything a run holds while it trains."""

    method: Method
    problem: TrainingProblem
    optimizer: torch.optim.Optimizer
    average: Average
    tally: Tally
    clip: float

    def iterate(self) -> dict[str, Any]:
        """One iteration: as many optimiser steps as the method asks for; returns its log line."""
        started = time.perf_counter()
        iteration, problem = self.tally.iteration, self.problem
        steps, norms = [], []
        updates = self.method.updates(problem, iteration)
        while True:
            problem.sharding.accumulate()
            progress = next(updates, None)
            if progress is None:
                break
            steps.append(progress)
            if progress.trains:
                norms.append(self._step(iteration, progress))
        steps = [combined(parts) for parts in zip(*problem.processes.collect(steps), strict=True)]
        if not any(step.rewards for step in steps):
            raise UserError(f"iteration {iteration}: the method yielded no Progress with rewards")
        self.tally.iteration += 1
        self.tally.evaluations += problem.passes * sum(step.evaluations for step in steps)
        self.tally.images += sum(step.images for step in steps)
        self.tally.seconds += time.perf_counter() - started
        return log_line(iteration, steps, norms, self.tally)

    def _step(self, iteration: int, progress: Progress) -> float:
        """Clip, check, step and average; returns the gradient's norm before clipping."""
        norm = float(
            whole(torch.nn.utils.clip_grad_norm_(self.average.trained.values(), self.clip))
        )
        if not (math.isfinite(norm) and math.isfinite(progress.loss)):
            raise Diverged(
                f"iteration {iteration}: loss {progress.loss}, gradient norm {norm}, rewards "
                f"{min(progress.rewards):.4g} to {max(progress.rewards):.4g}; the last checkpoint "
                "holds weights from before it. Lower training.optimizer.lr, training.clip or the "
                "method's nesting"
            )
        self.problem.sharding.release()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensors are those in use, and are loaded in place."""
        self.problem.sharding.release()
        transformer = self.problem.backbone.transformer
        return {
            "weights": {name: weight.detach() for name, weight in self.average.trained.items()},
            "optimizer": get_optimizer_state_dict(transformer, self.optimizer),
            "average": self.average.state_dict(),
            "tally": self.tally.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint that was read into `state_dict`."""
        self.problem.sharding.release()
        transformer = self.problem.backbone.transformer
        set_optimizer_state_dict(transformer, self.optimizer, state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.tally.load_state_dict(state["tally"])


def prepare(settings: TrainSettings, device: str) -> Training:
    """Load model, reward and prompts of a run, everything checked before any long work."""
    processes = present()
    method: Method = settings.method.build()
    budget = settings.training
    method.check(budget.steps, budget.batch)
    method.check_rewards(budget.reward.name, budget.rewards_beside)
    processes.share(method.images_per_update(budget.batch))
    keep_to_flash_attention()
    settings = admitted(settings, device)
    budget = settings.training
    # A GenEval mix repeats its few counting prompts; a line of text that stands twice is a mistake.
    mixed = Path(budget.prompts).suffix == ".jsonl"
    sampler = Sampler(read_prompts(budget.prompts, repeats=mixed), settings.seed)
    loader = resolve(settings.backbone.loader, "backbone.loader")
    where = torch.device(device)
    types = load_types(settings.compute, budget.adapter)
    backbone = loader.load(settings.backbone.path, settings.resolution, where, **types)
    encode_prompts(backbone, drawn_prompts(method, sampler, budget), budget.guidance, processes)
    transformer = adapted(backbone.transformer, budget.adapter, settings.seed).train()
    compiles = settings.compute.compile and not method.repeats_rollout
    fit(backbone, replace(settings.compute, compile=compiles))
    sharding = shard(transformer, processes, settings.compute, where)
    average = Average(transformer, budget.ema)
    optimizer = adamw(transformer, budget.optimizer)
    reward, *beside = (load_reward(name, path, where) for name, path in budget.rewards.items())
    problem = TrainingProblem(
        backbone,
        reward,
        sampler,
        budget,
        settings.seed,
        processes,
        sharding,
        settings.compute.image_batch,
        beside,
    )
    return Training(method, problem, optimizer, average, Tally(), budget.clip)


def drawn_prompts(method: Method, sampler: Sampler, budget: Budget) -> list[str]:
    """The prompts that a whole training will draw, each once."""
    slots = range(method.prompts_per_iteration(budget.batch))
    return list(
        {sampler.draw(i, slot).text: None for i in range(budget.iterations) for slot in slots}
    )


def encode_prompts(
    backbone: Backbone, prompts: Sequence[str], guidance: float, processes: Processes
) -> None:
    """Encode a training's prompts beforehand, each process its share.

    The text encoders are gone before optimiser, average and activations need their memory.
    """
    backbone.prefetch(prompts[processes.rank :: processes.count], guidance)
    processes.wait()
    backbone.prefetch(prompts, guidance)  # the others', where they are on another disk
