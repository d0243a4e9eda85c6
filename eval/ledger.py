"""Collect what one run and seed measured into its ledger, the only thing the paper is made from.

    python -m eval.ledger --images DIR --scores DIR... [--train DIR] [--track DIR] --out DIR

The ledger holds scores.csv (all evaluators and probes), train.csv (one row an iteration, except for
the untrained base), provenance.json (of every stage), and samples.png with samples.json: the first
image of prompts from all over the file, side by side. Of a run that was watched it also holds
progress.csv, and enlarged.png with enlarged.json.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from eval.manifest import Sample, read_image, read_manifest
from leapalign.errors import UserError, main_guard
from leapalign.files import replacing, write_text

SHOWN = 12
TILE = 256
PROVENANCE = "provenance.json"
WATCHED = ("progress.csv", "enlarged.png", "enlarged.json")

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stages:
    """The folders of a run's stages.

    Attributes:
        images: Generated images.
        scores: Their scores, a CSV file an evaluator; the first of them has the provenance.
        train: The training; None for the base.
        track: How the training was watched; None where it was not.
    """

    images: Path
    scores: Sequence[Path]
    train: Path | None = None
    track: Path | None = None


def collect(stages: Stages, out: Path) -> None:
    """Write the ledger `out` from the folders of the stages.

    Raises:
        UserError: A file of a stage is missing or unreadable, or the scores are not of the images.
    """
    samples = read_manifest(stages.images)
    table = merge_scores(stages.scores, samples)
    folders = {"generate": stages.images, "score": stages.scores[0]}
    folders |= {"train": stages.train} if stages.train else {}
    folders |= {"track": stages.track} if stages.track else {}
    provenance = {stage: _read_json(folder / PROVENANCE) for stage, folder in folders.items()}
    _write_csv(out / "scores.csv", table)
    if stages.train:
        _write_csv(out / "train.csv", read_log(stages.train / "log.jsonl"))
    write_sheet(stages.images, shown(samples), out, "samples")
    if stages.track:
        for name in WATCHED:
            with replacing(out / name) as draft:
                shutil.copyfile(stages.track / name, draft)
    write_text(out / PROVENANCE, json.dumps(provenance, indent=1, sort_keys=True) + "\n")


def merge_scores(folders: Sequence[Path], samples: Sequence[Sample]) -> list[Row]:
    """All evaluators' scores in one table, with a column `evaluator`; the digits stay as they are.

    Raises:
        UserError: There are none, or an evaluator's are not those of the samples, in order.
    """
    files = sorted((path for folder in folders for path in folder.glob("*.csv")), key=_stem)
    if not files:
        raise UserError(f"{folders[0]}: no scores; run the score stage first")
    expected = [sample.image for sample in samples]
    merged: list[Row] = []
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        if [row.get("image") for row in rows] != expected:
            raise UserError(f"{path}: not the images of the manifest; run the score stage again")
        merged += [{**row, "evaluator": path.stem} for row in rows]
    return merged


def _stem(path: Path) -> str:
    return path.stem


def read_log(path: Path) -> list[Row]:
    """A training log as a table, one row an iteration; null becomes an empty cell.

    Raises:
        UserError: The log is missing or empty, or a line of it is no JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [dict(json.loads(line)) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}; train the run again") from None
    if not rows:
        raise UserError(f"{path}: empty; train the run again")
    return rows


def shown(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The first image of some prompts from all over the file."""
    first = [sample for sample in samples if sample.image_index == 0]
    count = min(SHOWN, len(first))
    return tuple(first[(2 * i + 1) * len(first) // (2 * count)] for i in range(count))


def write_sheet(folder: Path, samples: Sequence[Sample], out: Path, name: str) -> None:
    """Write <name>.png, a row of tiles, and <name>.json, which says where each tile is."""
    tiles = [read_image(folder, sample) for sample in samples]
    for tile in tiles:
        tile.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    sheet = Image.new("RGB", (width * len(tiles), height), "white")
    for column, tile in enumerate(tiles):
        sheet.paste(tile, (column * width, 0))
    with replacing(out / f"{name}.png") as temporary:
        sheet.save(temporary)
    description = {
        "tile": [width, height],
        "samples": [
            {
                "prompt_index": sample.prompt_index,
                "prompt": sample.prompt,
                "tag": sample.tag,
                "box": [column * width, 0, column * width + tile.width, tile.height],
            }
            for column, (sample, tile) in enumerate(zip(samples, tiles, strict=True))
        ],
    }
    write_text(out / f"{name}.json", json.dumps(description, indent=1, ensure_ascii=False) + "\n")


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _read_json(path: Path) -> Any:  # noqa: ANN401  (whatever the stage recorded)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}; run that stage again") from None


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.ledger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, required=True, help="generated images")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="their scores")
    parser.add_argument("--train", type=Path, nargs="?", help="the training; none for the base")
    parser.add_argument("--track", type=Path, nargs="?", help="how it was watched, if it was")
    parser.add_argument("--out", type=Path, required=True, help="the ledger's folder")
    arguments = parser.parse_args(argv)
    folders = arguments.images, arguments.scores, arguments.train, arguments.track
    collect(Stages(*folders), arguments.out)


if __name__ == "__main__":
    main()
