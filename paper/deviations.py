"""What differs from the paper at this scale: its settings beside the ledger's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from leapalign.experiments import Exhibit
from paper import numbers
from paper.estimates import Estimates
from paper.ledger import Ledger
from paper.names import run_label
from paper.notes import remarks
from paper.provenance import Provenance
from paper.published import published
from paper.style import METRICS, REFERENCE
from paper.table import Cell, Column, Note, Row, Table


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting: its key in `published.yaml`, its printed name, how to find it, whose it is."""

    key: str
    label: str
    find: Callable[[Provenance, Ledger], Any]
    run: str = REFERENCE


def _at(stage: str, *keys: str) -> Callable[[Provenance, Ledger], Any]:
    return lambda record, _: record.get(stage, *keys)


def _reward(record: Provenance, _: Ledger) -> str | None:
    name = record.reward
    return METRICS[name].label if name in METRICS else name


def _prompts(_: Provenance, ledger: Ledger) -> int:
    return ledger.runs[REFERENCE].scores["prompt_index"].nunique()


SETTINGS = (
    Setting("base", "Base model", _at("train", "backbone", "path")),
    Setting("reward", "Training reward", _reward),
    Setting("resolution", "Resolution (px)", _at("train", "resolution")),
    Setting("batch", "Images per iteration", _at("train", "training", "batch")),
    Setting("iterations", "Iterations", _at("train", "training", "iterations")),
    Setting("train_steps", "Rollout steps in training", _at("train", "training", "steps")),
    Setting(
        "evaluation_steps", "Sampling steps in evaluation", _at("generate", "evaluation", "steps")
    ),
    Setting("guidance", "Guidance (embedded)", _at("train", "training", "guidance")),
    Setting("test_prompts", "Test prompts", _prompts),
    Setting(
        "images_per_prompt", "Images per prompt", _at("generate", "evaluation", "images_per_prompt")
    ),
    Setting("learning_rate", "Learning rate", _at("train", "training", "optimizer", "lr")),
    Setting("weight_decay", "Weight decay", _at("train", "training", "optimizer", "weight_decay")),
    Setting("betas", "AdamW betas", _at("train", "training", "optimizer", "betas")),
    Setting("ema", "EMA decay", _at("train", "training", "ema")),
    Setting("clip", "Gradient clip", _at("train", "training", "clip")),
    Setting("threshold", "Loss threshold λ", _at("train", "training", "reward", "threshold")),
    Setting("discount", "Gradient discount α", _at("train", "method", "settings", "nesting")),
    Setting("similarity_floor", "Similarity floor τ", _at("train", "method", "settings", "tau")),
    Setting(
        "draft_lv_copies",
        "DRaFT-LV re-noisings n",
        _at("train", "method", "settings", "copies"),
        "draft_lv",
    ),
    Setting(
        "drtune_steps",
        "DRTune training steps K",
        _at("train", "method", "settings", "active"),
        "drtune",
    ),
    Setting(
        "early_stop",
        "ReFL early stop, last steps m",
        _at("train", "method", "settings", "last"),
        "refl",
    ),
)


def deviations_table(name: str, exhibit: Exhibit, estimates: Estimates) -> Table:
    """Every setting of the paper beside ours, and what single runs change of the shared budget."""
    ledger = estimates.ledger
    rows = tuple(row for setting in SETTINGS if (row := _row(setting, ledger)) is not None)
    columns = (Column("published", "Paper"), Column("ours", "Here"), Column("differs", "Differs"))
    differing = sum(row.cells[2].words == "yes" for row in rows)
    about = (
        f"{differing} of {len(rows)} settings differ from the paper's FLUX.1-dev runs. "
        "Ours are read from the ledger's provenance."
    )
    texts = [f"{run_label(run)}: {text}" for run in exhibit.runs for text in remarks(ledger, run)]
    notes = tuple(Note(text) for text in [about, *texts])
    return Table(name, exhibit.title, "Setting", columns, rows, notes)


def _row(setting: Setting, ledger: Ledger) -> Row | None:
    """The row of a setting; None where neither side has it."""
    theirs = published().settings.get(setting.key)
    gap = ledger.gap(setting.run)
    record = None if gap else ledger.runs[setting.run].record
    ours = setting.find(record, ledger) if record else None
    if ours is None and theirs is None:
        return None
    cells = (
        "not stated" if theirs is None else numbers.setting(theirs),
        numbers.NOTHING if ours is None else numbers.setting(ours),
        "yes" if None not in (ours, theirs) and not _equal(ours, theirs) else "",
    )
    return Row(setting.key, setting.label, tuple(Cell(words=words) for words in cells))


def _equal(ours: object, theirs: object) -> bool:
    """Whether two settings read the same, so that 3.5 and 3.50, or a list and a tuple, agree."""
    return numbers.setting(ours) == numbers.setting(theirs)
