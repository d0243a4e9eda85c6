"""Training checkpoints: written whole or not at all, resumed only under their own settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from leapalign.errors import UserError
from leapalign.files import write_json

SETTINGS = "settings.json"
# What reading a cut, changed or missing file of a checkpoint raises, or writing to a full disk.
DAMAGE: tuple[type[Exception], ...] = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    UnpicklingError,
    SafetensorError,
)


@dataclass
class Tally:
    """What a training has spent so far; saved with every checkpoint.

    Args:
        iteration: iterations done.
        evaluations: forward-equivalents, summed over samples.
        images: images generated.
        seconds: time spent in iterations, over all resumptions.
    """

    iteration: int = 0
    evaluations: int = 0
    images: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """For accelerate's checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From accelerate's checkpoint."""
        for key, value in state.items():
            setattr(self, key, value)


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one run in one folder; the last two are kept.

    Args:
        folder: `results/<scale>/checkpoints/<run>/seed<s>`.
        accelerator: saves and loads everything prepared by or registered with it.
        settings_hash: names the settings; a checkpoint of others is refused.
    """

    folder: Path
    accelerator: Accelerator
    settings_hash: str

    def _complete(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("iteration-*") if path.suffix != ".partial")

    def save(self, iteration: int) -> None:
        """Write a checkpoint beside the others, and only then give it its name.

        Raises:
            UserError: it cannot be written, for want of space perhaps; the one before is kept.
        """
        final = self.folder / f"iteration-{iteration:06d}"
        partial = final.with_suffix(".partial")
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        try:
            self.accelerator.save_state(str(partial))
        except DAMAGE as error:
            raise UserError(
                f"{partial}: cannot be written ({_reason(error)}); is the disk full? Free some "
                "space and run again: training goes on from the checkpoint before this one"
            ) from error
        if not self.accelerator.is_main_process:
            return
        write_json(partial / SETTINGS, {"settings_hash": self.settings_hash})
        if not final.exists():
            partial.rename(final)
        for old in self._complete()[:-2]:
            shutil.rmtree(old)

    def resume(self) -> bool:
        """Load the latest complete checkpoint, if there is one.

        Raises:
            UserError: it was made under other settings, or cannot be read.
        """
        found = self._complete()
        if not found:
            return False
        latest = found[-1]
        try:
            made_under = json.loads((latest / SETTINGS).read_text())["settings_hash"]
            if made_under == self.settings_hash:
                self.accelerator.load_state(str(latest))
                return True
        except DAMAGE as error:
            raise UserError(
                f"{latest}: damaged ({_reason(error)}); remove it to go on from the one before"
            ) from error
        raise UserError(
            f"{latest}: made under other settings ({made_under}, now {self.settings_hash}); "
            f"remove {self.folder} to train anew, or restore the settings"
        )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
