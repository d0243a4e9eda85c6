"""What each run cost: iterations, images, transformer passes, time and memory; and the forecast."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean

import pandas as pd

from leapalign.experiments import Exhibit
from paper import notes
from paper.estimates import Estimates
from paper.ledger import Ledger, Run
from paper.names import run_label
from paper.provenance import Provenance
from paper.published import published
from paper.table import Cell, Column, Interval, Note, Row, Table

COLUMNS = (
    Column("iterations", "Iterations"),
    Column("images", "Images"),
    Column("nfe", "NFE"),
    Column("predicted_nfe", "NFE, predicted"),
    Column("device_hours", "Device hours", digits=3),
    Column("predicted_hours", "Device hours, predicted", digits=3),
    Column("seconds", "Seconds"),
    Column("seconds_per_iteration", "Seconds / iteration", digits=2),
    Column("peak_memory_mb", "Peak memory (MB)"),
    Column("predicted_memory_mb", "Peak memory, predicted (MB)"),
    Column("skipped_groups", "Skipped groups"),
)
GRADIENT = Column("grad_norm", "Gradient norm", digits=3, best=None)
MEMORY = Column("peak_memory_mb", "Peak memory (MB)", best="lowest")
PASSES = Column("nfe_per_image", "NFE / image", digits=1, best="lowest")

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Cost:
    """One run's totals, averaged over its seeds; None where its log does not say."""

    iterations: float
    images: float
    nfe: float
    seconds: float
    seconds_per_iteration: float
    peak_memory_mb: float
    skipped_groups: float | None
    nfe_per_image: float
    grad_norm: float

    def device_hours(self, devices: int) -> float:
        """What it held its devices for."""
        return self.seconds * devices / HOUR


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was expected of a training as it began, over its seeds; None where nobody said."""

    predicted_nfe: float | None = None
    predicted_hours: float | None = None
    predicted_memory_mb: float | None = None


def forecast(records: Iterable[Provenance]) -> Forecast:
    """The forecasts that trainings recorded; older ones have none."""
    said = [record.stage("train").get("predicted") for record in records]
    told = [each for each in said if each]
    if not told:
        return Forecast()
    hours = [each["seconds"] * each["devices"] / HOUR for each in told]
    passes, memory = (fmean(each[key] for each in told) for key in ("nfe", "peak_memory_mb"))
    return Forecast(passes, fmean(hours), memory)


def cost(log: pd.DataFrame) -> Cost:
    """The totals of a training log, which counts images, passes and seconds cumulatively."""
    by_seed = log.groupby("seed")
    total = {key: float(by_seed[key].max().mean()) for key in ("images", "nfe", "seconds")}
    iterations = float(by_seed.size().mean())
    skipped = log["skipped_groups"] if "skipped_groups" in log else pd.Series(dtype=float)
    return Cost(
        iterations=iterations,
        images=total["images"],
        nfe=total["nfe"],
        seconds=total["seconds"],
        seconds_per_iteration=total["seconds"] / iterations,
        peak_memory_mb=float(by_seed["peak_memory_mb"].max().mean()),
        skipped_groups=float(by_seed["skipped_groups"].sum().mean())
        if skipped.notna().any()
        else None,
        nfe_per_image=total["nfe"] / total["images"],
        grad_norm=float(by_seed["grad_norm"].mean().mean()),
    )


def cost_cell(ledger: Ledger, run: str, key: str) -> Cell:
    """One of a run's totals, for a table of scores; empty for a run without a training log."""
    log = pd.DataFrame() if ledger.gap(run) else ledger.runs[run].training
    return Cell() if log.empty else Cell(ours=Interval(getattr(cost(log), key)))


def cost_table(name: str, exhibit: Exhibit, estimates: Estimates) -> Table:
    """The cost of every trained run of the exhibit."""
    ledger = estimates.ledger
    footnotes = notes.footnotes(ledger, exhibit.runs)
    rows = []
    for run in exhibit.runs:
        gap = ledger.gap(run)
        if gap is None and not ledger.runs[run].trained:
            continue
        log = pd.DataFrame() if gap else ledger.runs[run].training
        if gap is None and log.empty:
            gap = "its ledger has no train.csv"
        values = {} if gap else _values(ledger.runs[run], cost(log))
        cells = tuple(_cell(run, column.key, values) for column in COLUMNS)
        rows.append(Row(run, run_label(run), cells, gap, footnotes.marks.get(run, ())))
    about = (
        "Means over training seeds. NFE counts transformer passes: a forward pass is 1, one with "
        "gradient and its backward pass 3. Seconds are wall time on the recorded device; memory is "
        "the process' own or, on a GPU, that of its tensors, which is what is predicted. What is "
        "predicted was recorded as the training began; before that was done, it is a gap."
    )
    return Table(
        name, exhibit.title, "Method", COLUMNS, tuple(rows), (*footnotes.listed, Note(about))
    )


def _values(run: Run, found: Cost) -> dict[str, float | None]:
    """A run's entries by column."""
    devices = run.record.get("train", "compute", "devices") or 1
    foreseen = forecast(run.provenance.values())
    return asdict(found) | asdict(foreseen) | {"device_hours": found.device_hours(devices)}


def _cell(run: str, key: str, values: Mapping[str, float | None]) -> Cell:
    value = values.get(key)
    return Cell(ours=None if value is None else Interval(value), published=_published(run, key))


def _published(run: str, key: str) -> float | None:
    """The paper's own budget; it states that of LeapAlign, and its baselines share it."""
    settings = published().settings
    budget = {
        "iterations": settings["iterations"],
        "images": settings["iterations"] * settings["batch"],
    }
    return budget.get(key) if run == "leapalign" else None
