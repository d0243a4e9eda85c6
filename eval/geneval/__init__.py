"""GenEval (Ghosh et al., 2023, arXiv:2310.11513): its decision logic and its summary."""

from eval.geneval.judge import Verdict, judge
from eval.geneval.records import Detection, Metadata, Options
from eval.geneval.summary import Summary, summarize

__all__ = [
    "Detection",
    "Metadata",
    "Options",
    "Summary",
    "Verdict",
    "judge",
    "summarize",
]
