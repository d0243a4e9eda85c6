"""Where a run's numbers come from, where that is not a training here at the present settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from leapalign.settings import plain_name
from leapalign.weights import nameable
from paper import numbers
from paper.ledger import Ledger
from paper.names import present
from paper.provenance import Provenance
from paper.style import Metric

DIGEST = 12
"""Digits of a SHA-256 that are printed."""


def origin(ledger: Ledger, run: str) -> list[str]:
    """What a reader must know of where a measured run's numbers come from."""
    record = ledger.runs[run].record
    recorded = {stage: record.settings(stage) for stage in ("train", "generate", "score")}
    changed = [
        f"{key} = {numbers.setting(was)} against {numbers.setting(now)}"
        for key, was, now in _outdated(recorded, present(run, ledger.scale))
    ]
    outdated = f"Measured with other settings than the present ones: {', '.join(changed)}."
    return [*_finished(record), *([outdated] if changed else [])]


def own_metrics(ledger: Ledger) -> tuple[Metric, ...]:
    """The scores of the user's own rewards, which settings name by their class."""
    evaluators = {
        evaluator
        for run in ledger.runs.values()
        for evaluator in run.record.settings("score").get("evaluators", {})
        if ":" in evaluator
    }
    names = sorted(map(plain_name, evaluators))
    return tuple(Metric(name, name, name, 4, 4) for name in names)


def _finished(record: Provenance) -> list[str]:
    """That images come from weights which were brought, if they do."""
    if record.stage("train"):
        return []
    base = nameable(str(record.get("generate", "backbone", "path")))
    return [
        f"Weights from {name} (SHA-256 {', '.join(f'{d[:DIGEST]}…' for d in files.values())}), "
        "not trained here."
        for name, files in (record.stage("generate").get("weights") or {}).items()
        if name != base
    ]


def _outdated(
    recorded: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """The leaves of what was recorded that are other now: key, then, now."""
    for key in sorted(recorded.keys() & now.keys()):
        was, is_now, name = recorded[key], now[key], f"{prefix}{key}"
        if isinstance(was, Mapping) and isinstance(is_now, Mapping):
            yield from _outdated(was, is_now, f"{name}.")
        elif was != is_now:
            yield name, was, is_now
