"""Watch a training: score its snapshots, and look at the final model at a higher resolution.

    python -m eval.track --settings JSON [--snapshots DIR] [--transformer FILE] --work DIR --out DIR

A reward that is hacked rises while what was held out from training falls; over a training that
shows where it began. Each snapshot paints one image of every test prompt, from the noise that every
run has, and all evaluators score them: progress.csv. The final weights paint a few prompts larger
than they were trained to: enlarged.png, for defects that a small image hides.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eval.generate import generate, make_images, planned
from eval.ledger import merge_scores, shown, write_sheet
from eval.manifest import read_manifest
from eval.score import outputs_of, score_folder
from eval.tables import COLUMNS
from leapalign.devices import leased_device
from leapalign.errors import UserError, main_guard
from leapalign.files import write_text
from leapalign.record import record
from leapalign.settings import TrackSettings

PROGRESS = "progress.csv"
ENLARGED = "enlarged"


def snapshots_in(folder: Path | None) -> dict[int, Path]:
    """The snapshots of a training by iteration, earliest first.

    Raises:
        UserError: A file in the folder is no snapshot.
    """
    found = {}
    for path in sorted(folder.glob("[!.]*")) if folder else []:
        match = re.fullmatch(r"iteration-(\d+)", path.name)
        if match is None:
            raise UserError(f"{path}: no snapshot of a training; remove it")
        found[int(match[1])] = path
    return found


def track(
    settings: TrackSettings, snapshots: dict[int, Path], work: Path, device: str = "cpu"
) -> list[dict[str, object]]:
    """Score every snapshot.

    Args:
        settings: Prompts, evaluators.
        snapshots: Weights by iteration.
        work: A folder for the images and their scores; what an earlier run left there is used.
        device: Where the models run.

    Returns:
        A row per iteration, image and evaluator.
    """
    rows: list[dict[str, object]] = []
    for iteration, weights in snapshots.items():
        images, scores = work / f"{iteration:06d}" / "images", work / f"{iteration:06d}" / "scores"
        generate(settings.generate, weights, images, device)
        samples = read_manifest(images)
        score_folder(images, samples, outputs_of(settings.score, scores, device))
        rows += [{"iteration": iteration, **row} for row in merge_scores([scores], samples)]
    return rows


def enlarge(
    settings: TrackSettings, transformer: Path | None, work: Path, out: Path, device: str = "cpu"
) -> None:
    """Paint the prompts of the ledger's samples at the higher resolution."""
    larger = replace(settings.generate, resolution=settings.enlarged)
    samples = shown(planned(larger.evaluation))
    make_images(larger, transformer, samples, work / ENLARGED, device)
    write_sheet(work / ENLARGED, samples, out, ENLARGED)


def write_progress(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write progress.csv; of a training without snapshots it has a head alone."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["iteration", *COLUMNS, "evaluator"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.track",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--settings", required=True, help="a scale's tracking settings, as JSON")
    parser.add_argument("--snapshots", type=Path, nargs="?", help="the training's snapshots")
    parser.add_argument("--transformer", type=Path, nargs="?", help="the trained weights")
    parser.add_argument("--work", type=Path, required=True, help="folder for images and scores")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    arguments = parser.parse_args(argv)
    settings = TrackSettings.from_json(arguments.settings)
    snapshots = snapshots_in(arguments.snapshots)
    weights = [settings.generate.backbone.path, *settings.score.weights]
    with (
        leased_device() as device,
        record(arguments.out / "provenance.json", settings, weights, device),
    ):
        rows = track(settings, snapshots, arguments.work, device)
        write_progress(arguments.out / PROGRESS, rows)
        enlarge(settings, arguments.transformer, arguments.work, arguments.out, device)


if __name__ == "__main__":
    main()
