"""How runs are drawn, and how scores are named and rounded, everywhere the same."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from paper.names import published_name


@dataclass(frozen=True, slots=True)
class RunStyle:
    """How a run appears: its colour (safe for colour-blind readers) and its line."""

    color: str
    dash: str | tuple[float, tuple[float, ...]] = "solid"


@dataclass(frozen=True, slots=True)
class Metric:
    """A score: the evaluator that gives it, its label, how many digits it deserves.

    Args:
        key: its name in the published tables.
        evaluator: its name in the ledger.
        label: its printed name.
        digits: decimals printed for our means.
        published_digits: decimals the literature prints.
        tag: the GenEval task it is restricted to; None for all.
        macro: average the tasks' means instead of the images.
        percent: printed in percent.
    """

    key: str
    evaluator: str
    label: str
    digits: int
    published_digits: int
    tag: str | None = None
    macro: bool = False
    percent: bool = False

    @property
    def factor(self) -> float:
        """From the ledger's unit to the printed one."""
        return 100.0 if self.percent else 1.0

    def printed(self, scores: pd.DataFrame) -> pd.DataFrame:
        """Its evaluator's scores in printed units, of its task alone."""
        rows = scores if self.tag is None else scores[scores["tag"] == self.tag]
        return rows.assign(score=rows["score"] * self.factor)


# Okabe and Ito's colours; LeapAlign is vermilion in every figure, its variants are its neighbours.
RUNS = {
    "base": RunStyle("#8A8A8A", (0, (1, 1.2))),
    "dance_grpo": RunStyle("#CC79A7", (0, (4, 1.5))),
    "mix_grpo": RunStyle("#B98900", (0, (4, 1.5, 1, 1.5))),
    "refl": RunStyle("#0072B2"),
    "draft_lv": RunStyle("#3FA7DC", (0, (5, 1.2))),
    "drtune": RunStyle("#009E73"),
    "leapalign": RunStyle("#D55E00"),
    "flowbp_sparse": RunStyle("#E69F00"),
    "flowbp_bridge": RunStyle("#8E5BA6"),
    "flowbp_lagrange": RunStyle("#94715A"),
    "full_backprop": RunStyle("#6B7480", (0, (2, 1.2))),
    "mix_grpo_flash": RunStyle("#B98900", (0, (1, 1.2))),
    "flow_grpo": RunStyle("#882255", (0, (4, 1.5))),
    "flow_grpo_fast": RunStyle("#882255", (0, (1, 1.2))),
}

UNKNOWN = RunStyle("#5C6670", (0, (3, 1, 1, 1)))
VARIANTS = (
    RunStyle("#8E5BA6", (0, (5, 1.2))),
    RunStyle("#94715A", (0, (2, 1.2))),
    RunStyle("#3FA7DC", (0, (4, 1.5, 1, 1.5))),
    RunStyle("#5C6670", (0, (1, 1.2))),
)
"""The lines of a method's variants, in the order in which they are shown."""

REFERENCE = "leapalign"
BASE = "base"

HPSV2 = Metric("hpsv2", "hpsv2", "HPSv2.1", 4, 4)
PICKSCORE = Metric("pickscore", "pickscore", "PickScore", 3, 4)
HPSV3 = Metric("hpsv3", "hpsv3", "HPSv3", 3, 4)
GENEVAL = Metric("overall", "geneval", "GenEval", 4, 4, macro=True)
TASKS = tuple(
    Metric(tag, "geneval", label, 1, 2, tag=tag, percent=True)
    for tag, label in [
        ("single_object", "Single"),
        ("two_object", "Two"),
        ("counting", "Count"),
        ("colors", "Color"),
        ("position", "Position"),
        ("color_attr", "Attribute"),
    ]
)
IMAGEREWARD = Metric("imagereward", "imagereward", "ImageReward", 3, 4)
UR_ALIGN = Metric("ur_align", "unifiedreward-alignment", "UR-Align", 3, 4)
UR_IQ = Metric("ur_iq", "unifiedreward-quality", "UR-IQ", 3, 4)
SCORES = (HPSV2, HPSV3, PICKSCORE, UR_ALIGN, UR_IQ, IMAGEREWARD, GENEVAL)
"""What methods are compared by; a table shows those that were measured."""
LAYOUT = Metric("layout", "layout", "Layout change", 4, 4)
PROBES = (
    Metric("high_frequency", "high_frequency", "High frequencies", 2, 2, percent=True),
    Metric("saturation", "saturation", "Saturation", 2, 2, percent=True),
    Metric("clipping", "clipping", "Clipped pixels", 2, 2, percent=True),
    Metric("diversity", "diversity", "Diversity", 4, 4),
    LAYOUT,
)
METRICS = {metric.key: metric for metric in (*SCORES, *TASKS, *PROBES)}


def run_style(run: str) -> RunStyle:
    """The style of a run's method, on whatever task, reward or base model; variants have none."""
    return RUNS.get(published_name(run), UNKNOWN)


def styles(runs: Sequence[str]) -> dict[str, RunStyle]:
    """The styles of runs shown together: variants take theirs in order."""
    variants = itertools.cycle(VARIANTS)
    return {run: next(variants) if run_style(run) is UNKNOWN else run_style(run) for run in runs}
