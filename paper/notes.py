"""The words below a table, all computed: footnotes, orders, claims, what numbers rest on."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.stats import Estimate
from leapalign.settings import Deviation
from paper import numbers
from paper.estimates import Estimates
from paper.ledger import Ledger
from paper.names import declared, run_label
from paper.orders import Order
from paper.origin import origin
from paper.published import published
from paper.style import REFERENCE, Metric
from paper.table import Column, Note, number_notes
from paper.verdict import Outcome, Verdict

TRAINING_REWARD = Note("The training reward: every other column is held out from training.", "†")


@dataclass(frozen=True, slots=True)
class Footnotes:
    """Footnotes on runs: the marks of each run, and the notes in order."""

    marks: Mapping[str, tuple[str, ...]]
    listed: tuple[Note, ...]


def footnotes(ledger: Ledger, runs: Sequence[str], reference: str = REFERENCE) -> Footnotes:
    """Every run's gap, declared deviations, and undeclared differences from the reference."""
    texts = {run: remarks(ledger, run, reference) for run in runs}
    numbered = number_notes(text for several in texts.values() for text in several)
    marks = {run: tuple(numbered[text].mark for text in several) for run, several in texts.items()}
    return Footnotes(marks, tuple(numbered.values()))


def rewards(ledger: Ledger, runs: Iterable[str]) -> set[str]:
    """The rewards that these of the ledger's runs were trained on."""
    measured = (ledger.runs[run] for run in runs if run in ledger.runs)
    records = (record for run in measured for record in run.provenance.values())
    return {record.reward for record in records if record.reward}


def about(
    estimates: Estimates, runs: Sequence[str], metric: Metric, reference: str = REFERENCE
) -> list[str]:
    """What the means and intervals rest on, run by run where they differ."""
    measured = estimates.ledger.runs
    trained = [run for run in runs if run in measured and measured[run].trained]
    found = {run: estimates.mean(run, metric) for run in trained or runs}
    sizes = {(e.images, e.prompts, e.seeds) for e in found.values() if e}
    if not sizes:
        return []
    images, prompts, seeds = max(sizes)
    text = (
        f"Means over {numbers.number(images, 0)} images of {numbers.number(prompts, 0)} prompts "
        f"from {_count(seeds, 'training seed')}; in brackets the 95% bootstrap interval. "
        f"Δ is the paired difference to {run_label(reference)} on shared prompts, noise and seeds."
    )
    if seeds == 1:
        text += " With one seed the intervals say nothing of how training varies."
    return [text, *([_uneven(found)] if len(sizes) > 1 else [])]


def score_column(metric: Metric, trained_on: Container[str]) -> Column:
    """A score's column, marked where it is the training reward."""
    label = f"{metric.label} (%)" if metric.percent else metric.label
    marks = (TRAINING_REWARD.mark,) if metric.evaluator in trained_on else ()
    return Column(metric.key, label, metric.digits, metric.published_digits, marks)


def sources(names: Sequence[str]) -> list[str]:
    """Where the paper's numbers stand."""
    texts = []
    for name in names:
        table = published().tables[name]
        source = published().sources[table.source]
        note = f" {table.note}" if table.note else ""
        texts.append(f"Paper: {table.where} (arXiv {source.arxiv}); {table.about}.{note}")
    return texts


def order(found: Order) -> str:
    """Both orders in one sentence."""
    return (
        f"Order by {found.label}, ours: {' > '.join(found.ours)}; "
        f"the paper's: {' > '.join(found.published)}; "
        f"{found.agreeing} of {found.pairs} pairs agree."
    )


def asserted(found: Verdict) -> str:
    """A claim and our difference in one sentence; its verdict depends on all claims together."""
    return f"{found.where}: {found.text} Here: {found.found or Outcome.UNMEASURED.value}."


def remarks(ledger: Ledger, run: str, reference: str = REFERENCE) -> list[str]:
    """A run's gap, or how its budget differs from what compared runs share."""
    if gap := ledger.gap(run):
        return [f"No results: {gap}."]
    excused = _excused(ledger, run)
    texts = origin(ledger, run) + [
        f"{d.key} = {numbers.setting(d.value)} instead of {numbers.setting(d.shared)}: {d.reason}."
        for d in excused
    ]
    allowed = {f"training.{d.key}" for d in (*excused, *_excused(ledger, reference))}
    changed = [
        f"{key} = {numbers.setting(own)} against {numbers.setting(other)}"
        for key, own, other in _changes(ledger, run, reference)
        if key not in allowed
    ]
    if changed:
        other = f"Measured with other settings than {run_label(reference)}"
        texts.append(f"{other}: {', '.join(changed)}.")
    return texts


def _excused(ledger: Ledger, run: str) -> list[Deviation]:
    """The declared deviations that the run was really trained with."""
    if ledger.gap(run):
        return []
    record = ledger.runs[run].record
    return [
        deviation
        for deviation in declared(run, ledger.scale)
        if record.get("train", "training", *deviation.key.split(".")) == deviation.value
    ]


def _changes(ledger: Ledger, run: str, beside: str) -> list[tuple[str, Any, Any]]:
    """Differences from the reference in what compared runs share: key, own, reference."""
    if run == beside or ledger.gap(beside):
        return []
    own, reference = ledger.runs[run].record, ledger.runs[beside].record
    changes = []
    for stage in ("generate", "score"):
        changes += _differences(own.settings(stage), reference.settings(stage))
    if own.stage("train") and reference.stage("train"):
        first, second = (
            {"training": record.get("train", "training")} for record in (own, reference)
        )
        changes += _differences(first, second)
    return changes


def _differences(
    first: Mapping[str, Any], second: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """The leaves of two nested mappings that differ, with their dotted keys."""
    found = []
    for key in sorted({*first, *second}):
        name, a, b = f"{prefix}{key}", first.get(key), second.get(key)
        if a and b and isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{name}.")
        elif a != b and (a or b):  # an earlier ledger lacks what is still empty
            found.append((name, a, b))
    return found


def _uneven(found: Mapping[str, Estimate | None]) -> str:
    listed = (
        f"{run_label(run)} {numbers.number(e.images, 0)} images, {_count(e.seeds, 'seed')}"
        for run, e in found.items()
        if e
    )
    return f"The runs rest on different numbers of images: {'; '.join(listed)}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
