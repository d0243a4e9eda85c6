"""What a ledger says of how its results came about: settings, machine, time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from leapalign.settings import GenerateSettings, plain_name

STAGES = ("train", "generate", "score")

SINCE = {key.name: key.default for key in fields(GenerateSettings) if key.default is not MISSING}
"""Settings of images that a ledger need not have."""


@dataclass(frozen=True)
class Provenance:
    """One seed's `provenance.json`: a record per stage, `train` absent for the untrained model."""

    record: Mapping[str, Any]

    def stage(self, name: str) -> Mapping[str, Any]:
        """The record of a stage; empty where the run has none."""
        return self.record.get(name) or {}

    def settings(self, stage: str) -> Mapping[str, Any]:
        """The resolved settings of a stage.

        A ledger from before images had a setting lacks it: it was at its default.
        """
        recorded = self.stage(stage).get("settings") or {}
        return {**SINCE, **recorded} if stage == "generate" and recorded else recorded

    def get(self, stage: str, *keys: str) -> Any:  # noqa: ANN401 - any JSON value
        """A setting by its path, or None where it does not apply."""
        value: Any = self.settings(stage)
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    @property
    def scale(self) -> str | None:
        """The scale's name."""
        return self.get("generate", "scale")

    @property
    def reward(self) -> str | None:
        """The name of the training reward; None for the untrained model."""
        name = self.get("train", "training", "reward", "name")
        return None if name is None else plain_name(name)

    @property
    def settings_hash(self) -> str:
        """A digest of all stages' settings but the training seed, equal for seeds of one run."""
        settings = {name: dict(self.settings(name)) for name in STAGES}
        settings["train"].pop("seed", None)
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def evaluation_hash(self) -> str:
        """A digest of how the run was sampled and scored, equal for runs that may be compared."""
        settings = {name: self.settings(name) for name in ("generate", "score")}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
