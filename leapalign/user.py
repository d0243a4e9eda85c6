"""`config.yaml`: what the user asks for, and what of their own they bring."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from leapalign.parsing import dump, parse
from leapalign.settings import Positive

CONFIG = "config.yaml"
HANDED_DOWN = "LEAPALIGN_CONFIG"
"""The environment's variable in which jobs find what Snakemake was asked for."""

RunName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


@dataclass(frozen=True, slots=True)
class UserConfig:
    """The scale, how many seeds, where results go, what is the user's own, what is to be fetched.

    Attributes:
        scale: `auto`, a name in `leapalign/configs/scales`, or the user's own YAML file.
        methods: run → a method's YAML file, or its class, `module:Class` or `file.py:Class`.
        checkpoints: run → finished weights, which are only sampled and scored.
        fetch: entries of `leapalign/registry.yaml`, with spaces between them.
        mirror: a folder to fetch them from; else from where they are published.
        cache: a folder for what is computed once, prompts' encodings above all; by default
            `leapalign` in the user's own cache.
    """

    scale: str = "auto"
    seeds: Positive = 1
    results: str = "results"
    methods: Mapping[RunName, str] = field(default_factory=dict)
    checkpoints: Mapping[RunName, str] = field(default_factory=dict)
    fetch: str = ""
    mirror: str = ""
    cache: str = ""


def user_config() -> UserConfig:
    """What Snakemake was asked for, in its own process and in its jobs; elsewhere the defaults."""
    return _read(os.environ.get(HANDED_DOWN, "{}"))


def hand_down(user: UserConfig) -> None:
    """Tell the jobs, which `snakemake --config` does not reach."""
    os.environ[HANDED_DOWN] = json.dumps(dump(user), sort_keys=True)


@functools.cache
def _read(text: str) -> UserConfig:
    return parse(UserConfig, json.loads(text), HANDED_DOWN)
