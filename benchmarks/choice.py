"""Which models a benchmark measures, as its command line says: a scale's, or random ones."""

from __future__ import annotations

import argparse

from benchmarks.full_size import SIZES, check_device, settings_at, with_random_weights
from benchmarks.step import settings_of
from leapalign.errors import UserError
from leapalign.settings import TrainSettings


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Add the options that `chosen` reads."""
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--scale", default="pocket")
    models.add_argument("--size", choices=SIZES, help="random weights, as benchmarks.full_size")
    parser.add_argument("--backbone", help="one of the scale's other base models")


def chosen(arguments: argparse.Namespace, device: str) -> TrainSettings:
    """LeapAlign's training settings with the chosen models.

    Args:
        arguments: with those of `add_choice`.
        device: where it is to be measured.

    Raises:
        UserError: there is no such scale or base model, or the size needs another device.
    """
    if arguments.size is None:
        return settings_of("leapalign", arguments.scale, arguments.backbone)
    if arguments.backbone is not None:
        raise UserError("--backbone: names a base model of a --scale; leave out --size")
    check_device(arguments.size, device)
    return with_random_weights(settings_at(SIZES[arguments.size], "leapalign"))
