"""What the view knows of a job: its name, its log, how far it is."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TAIL_BYTES = 4096
_DONE_OF_TOTAL = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Job:
    """A running job.

    Attributes:
        name: what it does, for people.
        logs: the files its output goes to.
        started: when, by `time.monotonic`.
    """

    name: str
    logs: tuple[Path, ...]
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(
        cls, message: str | None, rule: str, wildcards: Mapping[str, str], logs: Sequence[str]
    ) -> Job:
        """A job by its rule's message, else by its rule and wildcards."""
        return cls(message or " ".join([rule, *wildcards.values()]), tuple(map(Path, logs)))

    @property
    def seconds(self) -> float:
        """How long it has run."""
        return time.monotonic() - self.started

    def tail(self, lines: int = 1) -> list[str]:
        """The last lines of its log that are not blank."""
        text = "\n".join(_tail(log) for log in self.logs)
        return [line for line in text.replace("\r", "\n").splitlines() if line.strip()][-lines:]

    def complaint(self, lines: int) -> list[str]:
        """The last lines of its log that tell no progress."""
        return [line for line in self.tail(lines) if not _DONE_OF_TOTAL.search(line)]

    def progress(self) -> tuple[int, int] | None:
        """Done and total, as `12/100` in its log's last line says."""
        for line in self.tail():
            found = _DONE_OF_TOTAL.search(line)
            if found and int(found[2]) > 0:
                return int(found[1]), int(found[2])
        return None


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
