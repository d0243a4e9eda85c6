"""A training iteration taken apart: where its time and memory go, and its bare transformer passes.

A phase lasts from its first call until another phase's: the rollout and the replay from their first
transformer pass, with a replay's backwards; the reward from the decoder's first call, with the
gradient through both; the optimiser from its step. What comes before them all is the draws, of
prompts and noise. The phases' seconds add up to the iteration's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from benchmarks.passes import Pass, recorded, repeat
from benchmarks.timing import clock
from leapalign.training import Training


@dataclass
class Phase:
    """Seconds spent in a phase, and the most memory allocated in it, bytes; 0 on a CPU."""

    seconds: float = 0.0
    peak: int = 0


@dataclass
class Phases:
    """A stopwatch that always runs for exactly one phase."""

    device: torch.device
    found: dict[str, Phase] = field(default_factory=dict)
    _now: str = ""
    _since: float = 0.0

    def begin(self, name: str) -> None:
        """Go over to a phase; the device is waited for only where that is another one."""
        if name == self._now:
            return
        now = clock(self.device)
        on_cuda = self.device.type == "cuda"
        if self._now:
            phase = self.found.setdefault(self._now, Phase())
            phase.seconds += now - self._since
            if on_cuda:
                phase.peak = max(phase.peak, torch.cuda.max_memory_allocated(self.device))
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        self._now, self._since = name, now


def device_of(module: nn.Module) -> torch.device:
    """Where a module's weights are."""
    return next(module.parameters()).device


@contextlib.contextmanager
def watched(training: Training) -> Iterator[dict[str, Phase]]:
    """Measure the phases of the iteration inside the `with` block."""
    backbone = training.problem.backbone
    phases = Phases(device_of(backbone.transformer))

    def passing(*_: object) -> None:
        phases.begin("replay" if torch.is_grad_enabled() else "rollout")

    def decoding(*_: object) -> None:
        phases.begin("reward")

    def stepping(*_: object) -> None:
        phases.begin("optimiser")

    decoder: nn.Module = backbone.pipeline.vae.decoder
    hooks = [
        backbone.transformer.register_forward_pre_hook(passing),
        decoder.register_forward_pre_hook(decoding),
        register_optimizer_step_pre_hook(stepping),
    ]
    phases.begin("draws")
    try:
        yield phases.found
    finally:
        phases.begin("")
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Turn:
    """One iteration, and the transformer passes that it made, made again with nothing around them.

    Attributes:
        phases: of the iteration.
        passes: that it made.
        bare: seconds of making them again.
    """

    phases: dict[str, Phase]
    passes: list[Pass]
    bare: float

    @property
    def seconds(self) -> float:
        """Of the iteration."""
        return sum(phase.seconds for phase in self.phases.values())


def take_turn(training: Training) -> Turn:
    """One iteration, at once followed by its bare passes."""
    transformer = training.problem.backbone.transformer
    device = device_of(transformer)
    with recorded(transformer) as passes, watched(training) as phases:
        training.iterate()
    begun = clock(device)
    repeat(transformer, passes)
    return Turn(phases, passes, clock(device) - begun)


def summary(turns: Sequence[Turn]) -> dict[str, float]:
    """Median seconds of an iteration and of its bare passes, their ratio, and its passes."""
    passes = turns[-1].passes
    return {
        "step_seconds": median(turn.seconds for turn in turns),
        "bare_seconds": median(turn.bare for turn in turns),
        "multiple": median(turn.seconds / turn.bare for turn in turns),
        "sample_forwards": sum(each.batch for each in passes if not each.replays),
        "sample_replays": sum(each.batch for each in passes if each.replays),
    }
