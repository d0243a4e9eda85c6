"""How the ledger's results came about, as the report prints it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from paper.ledger import Ledger, Run
from paper.names import run_label
from paper.provenance import STAGES, Provenance


@dataclass(frozen=True, slots=True)
class Entry:
    """One run and seed: who made it, when, on what, how long."""

    run: str
    label: str
    seed: int
    revision: str
    settings: str
    device: str
    started: str
    seconds: dict[str, float]
    memory: float | None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run's numbers come from, over its seeds."""

    label: str
    seeds: tuple[int, ...]
    settings: str
    revisions: tuple[str, ...]
    devices: tuple[str, ...]
    started: str


@dataclass(frozen=True, slots=True)
class History:
    """All entries, and what they have in common.

    Args:
        entries: one per run and seed.
        origins: run → where its numbers come from.
        revisions: every code revision that took part.
        devices: every device.
        packages: every version of every package.
        weights: weights file → digest.
        settings: run's name → the first seed's resolved settings, as JSON.
        gaps: run's name → why it is not here.
        seconds: the compute time of all stages.
    """

    entries: tuple[Entry, ...]
    origins: dict[str, Origin]
    revisions: tuple[str, ...]
    devices: tuple[str, ...]
    packages: dict[str, str]
    weights: dict[str, str]
    settings: dict[str, str]
    gaps: dict[str, str]
    seconds: float


def history(ledger: Ledger) -> History:
    """The history of a ledger."""
    runs = ledger.runs.values()
    records = [record for run in runs for record in run.provenance.values()]
    stages = [record.stage(stage) for record in records for stage in STAGES]
    entries = tuple(_entry(run, seed) for run in runs for seed in run.provenance)
    return History(
        entries=entries,
        origins={run: _origin(list(group)) for run, group in groupby(entries, lambda e: e.run)},
        revisions=_unique(entry.revision for entry in entries),
        devices=_unique(str(stage["device"]) for stage in stages if "device" in stage),
        packages=_versions(stages),
        weights={name: digest for stage in stages for name, digest in _digests(stage)},
        settings={run.name: _settings(run.record) for run in runs},
        gaps=dict(ledger.gaps),
        seconds=sum(second for entry in entries for second in entry.seconds.values()),
    )


def _origin(entries: Sequence[Entry]) -> Origin:
    """What a run's entries, one per seed, have in common."""
    first = entries[0]
    return Origin(
        label=first.label,
        seeds=tuple(entry.seed for entry in entries),
        settings=first.settings,
        revisions=_unique(entry.revision for entry in entries),
        devices=_unique(entry.device for entry in entries if entry.device),
        started=" to ".join(
            _unique(f(entry.started[:10] for entry in entries) for f in (min, max))
        ),
    )


def _entry(run: Run, seed: int) -> Entry:
    record = run.provenance[seed]
    last = record.stage("train") or record.stage("generate")
    memories = [record.stage(stage).get("peak_memory_mb") for stage in STAGES]
    return Entry(
        run=run.name,
        label=run_label(run.name),
        seed=seed,
        revision=_revision(last.get("git") or {}),
        settings=record.settings_hash,
        device=str(last.get("device", "")),
        started=str(last.get("started", ""))[:16].replace("T", " "),
        seconds={stage: float(record.stage(stage).get("seconds") or 0) for stage in STAGES},
        memory=max((memory for memory in memories if memory is not None), default=None),
    )


def _revision(git: Mapping[str, Any]) -> str:
    revision = str(git.get("revision") or "unknown")[:10]
    return f"{revision} + changes" if git.get("dirty") else revision


def _versions(stages: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for stage in stages:
        named = dict(stage.get("packages") or {})
        if "python" in stage:
            named["python"] = stage["python"]
        for package, version in named.items():
            if version not in found.setdefault(package, []):
                found[package].append(version)
    return {package: ", ".join(versions) for package, versions in sorted(found.items())}


def _digests(stage: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every weights file that a stage read, with its folder, and its digest."""
    for folder, files in (stage.get("weights") or {}).items():
        for name, digest in files.items():
            yield f"{folder}/{name}", digest


def _settings(record: Provenance) -> str:
    settings = {stage: record.settings(stage) for stage in STAGES if record.stage(stage)}
    return json.dumps(settings, indent=2, ensure_ascii=False)


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
