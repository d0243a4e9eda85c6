"""A scale's trainings on a machine: what each will take, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rich.table import Table

from leapalign.doctor.checks import refuse
from leapalign.doctor.cost import Estimate, Rates, estimate, from_sheet, measured
from leapalign.doctor.fit import AUTO, fitted
from leapalign.doctor.folders import Unforetold
from leapalign.doctor.machine import GIGABYTE, Machine
from leapalign.doctor.memory import Forecast
from leapalign.doctor.rehearsal import in_parts, rehearse
from leapalign.errors import UserError
from leapalign.settings import RunSettings, TrainSettings

COLUMNS = {
    "state": ("weights", "optimiser", "average", "gradients"),
    "gathered": ("gathered",),
    "transformer": ("activations", "paths", "prompts", "loading"),
    "decoder": ("decoder weights", "decoder"),
    "reward": ("reward weights", "reward"),
}
"""Columns of memory, and the parts that they sum up, as they are at the peak."""


@dataclass(frozen=True, slots=True)
class Planned:
    """One training.

    Args:
        run: its name.
        settings: as it would be made.
        memory: what it takes on each device; None where it cannot be made.
        cost: the same of its time.
        refusal: why it cannot.
        unforetold: why it can, but what it takes cannot be told.
    """

    run: str
    settings: TrainSettings
    memory: Forecast | None = None
    cost: Estimate | None = None
    refusal: str | None = None
    unforetold: str | None = None


def plan(runs: Iterable[RunSettings], machine: Machine) -> Iterator[Planned]:
    """Each training on a machine; one not at hand chooses the micro-batches anew."""
    for run in runs:
        if run.train is None:
            continue
        settings = _on(run.train, machine)
        try:
            refuse(settings)
            chosen, memory = fitted(settings, _each(machine, settings))
        except Unforetold as error:
            if run.train.training.micro_batch == AUTO:
                why = f"{error}; set training.micro_batch to a number"
                yield Planned(run.run, run.train, refusal=why)
            else:
                yield Planned(run.run, run.train, unforetold=str(error))
            continue
        except UserError as error:
            yield Planned(run.run, settings, refusal=str(error))
            continue
        yield Planned(run.run, chosen, memory, _cost(chosen, machine))


def _on(settings: TrainSettings, machine: Machine) -> TrainSettings:
    """The training with as many of the machine's devices as it would like."""
    if machine.here:
        return settings
    devices = min(settings.compute.devices, len(machine.devices))
    compute = replace(settings.compute, devices=devices)
    return in_parts(replace(settings, compute=compute), "auto")


def _each(machine: Machine, settings: TrainSettings) -> int:
    """Bytes for each process; on a CPU they share the memory."""
    devices = settings.compute.devices
    if not machine.cuda:
        return machine.memory // devices
    if devices > len(machine.devices):
        raise UserError(
            f"compute.devices: {devices} devices wanted, {len(machine.devices)} found; set it to "
            f"{len(machine.devices)} or less"
        )
    return machine.memory


def _cost(settings: TrainSettings, machine: Machine) -> Estimate | None:
    if machine.here:
        rates: Rates | None = measured(settings, "cuda:0" if machine.cuda else "cpu")
    else:
        rates = from_sheet(settings, machine.devices[0].name)
    return estimate(settings, rates, rehearse(settings)) if rates else None


def table(planned: Iterable[Planned], machine: Machine) -> Table:
    """A row a training, and their sum."""
    shown = Table(title=f"Trainings on {machine.name}", title_justify="left", show_footer=True)
    rows = list(planned)
    costs = [row.cost for row in rows if row.cost is not None]
    shown.add_column("run", "all", no_wrap=True)
    shown.add_column("devices", justify="right")
    shown.add_column("micro-batch\n(decoded)", justify="right")
    shown.add_column("peak GB", justify="right")
    for name in COLUMNS:
        shown.add_column(name, justify="right")
    shown.add_column("NFE", _thousands(sum(cost.evaluations for cost in costs)), justify="right")
    shown.add_column("images", f"{sum(cost.images for cost in costs):,}", justify="right")
    shown.add_column("hours", justify="right")
    total = sum(cost.device_hours for cost in costs)
    shown.add_column(f"{'GPU' if machine.cuda else 'CPU'} hours", _hours(total), justify="right")
    for row in rows:
        shown.add_row(*_cells(row))
    return shown


def _cells(row: Planned) -> list[str]:
    compute, training = row.settings.compute, row.settings.training
    if row.memory is None:
        said = "[red]refused[/red]" if row.refusal else "not foretold"
        return [row.run, str(compute.devices), said]
    images = compute.image_batch or training.micro_batch
    there = {**row.memory.resident, **row.memory.phases[row.memory.phase]}
    parts = [sum(there.get(part, 0) for part in parts) for parts in COLUMNS.values()]
    cells = [
        row.run,
        str(compute.devices),
        f"{training.micro_batch} ({images})",
        _gigabytes(row.memory.peak),
        *map(_gigabytes, parts),
    ]
    if row.cost is None:
        return [*cells, *["–"] * 4]
    hours = row.cost.seconds / 3600.0
    return [
        *cells,
        _thousands(row.cost.evaluations),
        f"{row.cost.images:,}",
        _hours(hours),
        _hours(row.cost.device_hours),
    ]


def _gigabytes(size: int) -> str:
    return f"{size / GIGABYTE:.3g}"


def _thousands(count: int) -> str:
    return f"{count / 1000:,.0f}k"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.2g}"
