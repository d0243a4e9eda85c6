"""The progress view: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import datetime
import logging
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_leapalign import interrupt
from snakemake_logger_plugin_leapalign.jobs import Job

_FAILED_LINES = 15
_BAR_WIDTH = 24
# Resources that say nothing to a scheduler, or again what another one says.
_OUR_OWN = ("tmpdir", "seconds", "mem", "mem_mib", "disk", "disk_mb", "disk_mib")
_TOLD = "Nothing to be done"
# Said already, by the failed job's own log.
_REPEATED = ("CalledProcessError", "At least one job did not complete successfully")


class LogHandler(LogHandlerBase):
    """Shows jobs done, running and to do.

    A dry run keeps Snakemake's own output, which leaves out the resources of jobs that have a
    message: what a scheduler would be asked for is added.
    """

    def __post_init__(self) -> None:
        """Nothing is shown until the first job starts."""
        self.console = Console(file=sys.stderr, highlight=False)
        self.running: dict[int, Job] = {}
        self.done, self.total = 0, 0
        self.started = time.monotonic()
        self.live: Live | None = None
        self.events = {
            LogEvent.RUN_INFO: self._planned,
            LogEvent.JOB_INFO: self._job_started,
            LogEvent.JOB_FINISHED: self._job_finished,
            LogEvent.JOB_ERROR: self._job_failed,
            LogEvent.ERROR: self._message,
            None: self._message,
        }

    @property
    def writes_to_stream(self) -> bool:
        """Whether this view replaces Snakemake's."""
        return not self.common_settings.dryrun

    @property
    def writes_to_file(self) -> bool:
        """Never: Snakemake keeps its own log file."""
        return False

    @property
    def has_filter(self) -> bool:
        """Snakemake's filter applies (`--quiet`, `--verbose`)."""
        return False

    @property
    def has_formatter(self) -> bool:
        """The view has its own wording."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """The view draws no graph."""
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Take in one of Snakemake's log records."""
        if self.common_settings.dryrun:
            if getattr(record, "event", None) is LogEvent.JOB_INFO:
                self._asked(record)
            return
        try:
            handle = self.events.get(getattr(record, "event", None))
            if handle is not None:
                handle(record)
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Take the bars down and say how it ended."""
        if self.live is not None:
            self.live.stop()
            self.live = None
        if self.total and not self.common_settings.dryrun:
            self._say(f"{self.done} of {self.total} jobs done in {duration(self._elapsed())}")
            self.total = 0
        super().close()

    def render(self) -> Table:
        """All jobs in one line, then a line for each running job."""
        table = Table.grid(padding=(0, 1))
        count, bar = f"{self.done}/{self.total} jobs", _bar(self.done, self.total)
        table.add_row(count, bar, duration(self._elapsed()))
        for job in list(self.running.values()):
            progress = job.progress()
            bar = _bar(*progress) if progress else ProgressBar(pulse=True, width=_BAR_WIDTH)
            last = " ".join(job.tail())
            table.add_row(f"  {job.name}", bar, Text(last, overflow="ellipsis", no_wrap=True))
        return table

    def _planned(self, record: Any) -> None:  # noqa: ANN401 - a record with Snakemake's fields
        self.total = record.stats["total"]

    def _asked(self, record: Any) -> None:  # noqa: ANN401
        asked = {
            name: value
            for name, value in record.resources.items()
            if not name.startswith("_") and name not in _OUR_OWN and value is not None
        }
        if asked:
            listed = ", ".join(f"{name}={value}" for name, value in asked.items())
            # Where Snakemake writes of the job, from a thread of its own: before or after this.
            sys.stdout.write(f"Resources of job {record.jobid}: {listed}\n")

    def _job_started(self, record: Any) -> None:  # noqa: ANN401
        job = Job.of(record.rule_msg, record.rule_name, record.wildcards, record.log)
        self.running[record.jobid] = job
        if self.console.is_terminal and self.live is None:
            self.live = Live(get_renderable=self.render, console=self.console, transient=True)
            self.live.start()
        elif not self.console.is_terminal:
            self._say(f"start  {job.name}")

    def _job_finished(self, record: Any) -> None:  # noqa: ANN401
        self.done += 1
        job = self.running.pop(record.job_id, None)
        if job is not None:
            count = f"{self.done}/{self.total}"
            self._say(f"{count:>7}  {job.name} ({duration(job.seconds)})")

    def _job_failed(self, record: Any) -> None:  # noqa: ANN401
        job = self.running.pop(record.jobid, None)
        if job is None:
            return
        if interrupt.received():
            self._say(f"stopped: {job.name}")
            return
        self._say(f"failed: {job.name}", style="bold red")
        for line in job.complaint(_FAILED_LINES):
            self._say(f"    {line}")
        for log in job.logs:
            self._say(f"    (log: {log})")

    def _message(self, record: logging.LogRecord) -> None:
        message = record.getMessage().strip()
        told = record.levelno >= logging.WARNING and not any(text in message for text in _REPEATED)
        if told or message.startswith(_TOLD) or self.common_settings.verbose:
            self._say(message)

    def _say(self, text: str, style: str | None = None) -> None:
        clock = "" if self.console.is_terminal else f"{datetime.datetime.now():%H:%M:%S} "
        self.console.print(f"{clock}{text}", style=style, markup=False, soft_wrap=True)

    def _elapsed(self) -> float:
        return time.monotonic() - self.started


def duration(seconds: float) -> str:
    """A time span for people: `7 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=done, width=_BAR_WIDTH)
