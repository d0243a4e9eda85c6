"""The report's chapters: which tables and figures stand in each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from leapalign.experiments import Experiments


@dataclass(frozen=True, slots=True)
class Section:
    """A chapter.

    Args:
        key: its anchor.
        title: its heading.
        short: its name in the navigation.
        shows: the names of its tables and figures, or patterns of them, in order. A figure with a
            table's name follows that table.
    """

    key: str
    title: str
    short: str
    shows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chapter:
    """A section and the exhibits that it shows in these experiments."""

    section: Section
    exhibits: tuple[str, ...]


SECTIONS = (
    Section(
        "preference",
        "Preference rewards and held-out evaluators",
        "Preference",
        ("main", "scores", "radar*", "rewards", "sd3*", "threshold", "seeds"),
    ),
    Section("geneval", "Compositional alignment", "GenEval", ("geneval",)),
    Section("training", "Training", "Training", ("reward_curves*", "progress", "budgets")),
    Section("hacking", "Reward hacking", "Hacking", ("hacking", "artefacts")),
    Section("ablations", "Ablations", "Ablations", ("ablation_*", "nested", "gradient_norms")),
    Section("images", "Images", "Images", ("grid", "grid_*", "enlarged")),
    Section(
        "methods",
        "What the methods are",
        "Methods",
        ("properties", "design_space", "trajectories", "flowbp", "policy_gradients"),
    ),
    Section("further", "Further results", "Further", ()),
    Section("cost", "Cost", "Cost", ("cost", "cost_*")),
    Section("deviations", "Settings beside the paper’s", "Settings", ("deviations",)),
)
OPEN = "further"
"""The section of what no other names."""


def chapters(experiments: Experiments) -> list[Chapter]:
    """Every section with what it shows; an empty one is left out."""
    names = list(dict.fromkeys([*experiments.tables, *experiments.figures]))
    found = {section.key: _matching(section.shows, names) for section in SECTIONS}
    named = {name for several in found.values() for name in several}
    found[OPEN] = [name for name in names if name not in named]
    return [Chapter(s, tuple(found[s.key])) for s in SECTIONS if found[s.key]]


def _matching(patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    found = [name for pattern in patterns for name in names if fnmatchcase(name, pattern)]
    return list(dict.fromkeys(found))
