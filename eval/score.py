"""Score a folder of images, one file of scores per evaluator.

All evaluators of a scale, in one process:

    python -m eval.score --settings JSON --images DIR --out DIR

One evaluator, for any folder of images; prompts come from the folder's manifest, or from a file
with one prompt for each image in the order of the file names:

    python -m eval.score --metric NAME --weights PATH --images DIR [--prompts FILE] --out FILE

Finished scores are kept in a journal beside the scores; a second run computes what is missing.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.fingerprints import fingerprint
from eval.inputs import read_samples
from eval.journal import Journal
from eval.manifest import Sample, read_bytes, read_image
from eval.progress import batches
from eval.scorers import GENEVAL, Entry, Score, Scorer, make_scorer
from leapalign.devices import leased_device
from leapalign.errors import UserError, main_guard
from leapalign.files import write_text
from leapalign.record import record
from leapalign.settings import ScoreSettings

COLUMNS = ["image", "prompt_index", "image_index", "prompt", "tag", "score"]
BATCH = 50


def score_folder(folder: Path, samples: Sequence[Sample], outputs: Mapping[Path, Scorer]) -> None:
    """Score every sample with every scorer; writes each scorer's CSV file at its path.

    Raises:
        UserError: An image cannot be read or scored; the message names it.
    """
    identities = [
        fingerprint(read_bytes(folder, sample), sample.prompt, json.dumps(sample.metadata))
        for sample in samples
    ]
    for scorer in outputs.values():
        for sample in samples:
            scorer.check(sample)
    for out, scorer in outputs.items():
        keys = [fingerprint(scorer.depends_on, identity) for identity in identities]
        journal = Journal(out.with_suffix(".journal.jsonl"))
        missing = [pair for pair in zip(keys, samples, strict=True) if pair[0] not in journal]
        if missing:
            _score_missing(folder, missing, scorer, journal)
        _write(out, scorer, samples, [journal[key] for key in keys])


def _score_missing(
    folder: Path, missing: Sequence[tuple[str, Sample]], scorer: Scorer, journal: Journal
) -> None:
    score = scorer.load()
    for batch in batches(missing, BATCH, f"score {scorer.name}"):
        samples = [sample for _, sample in batch]
        entries = _attempt(score, folder, samples, scorer.name)
        scored = {key: entry for (key, _), entry in zip(batch, entries, strict=True)}
        journal.add({key: entry for key, entry in scored.items() if math.isfinite(entry["score"])})
        for sample, entry in zip(samples, entries, strict=True):
            if not math.isfinite(entry["score"]):
                raise UserError(
                    f"{folder / sample.image}: {scorer.name} gave {entry['score']}; "
                    "the other scores are kept, look at this image"
                )


def _attempt(score: Score, folder: Path, samples: Sequence[Sample], name: str) -> list[Entry]:
    """Score a batch; if that fails, image by image, to name the one at fault."""
    images = [read_image(folder, sample) for sample in samples]
    try:
        entries = score(images, samples)
    except (UserError, ValueError, RuntimeError) as error:
        if len(samples) > 1:
            return [_attempt(score, folder, [sample], name)[0] for sample in samples]
        raise UserError(f"{folder / samples[0].image}: {name} failed: {error}") from error
    if len(entries) != len(samples):
        where = f"{folder / samples[0].image} and the {len(samples) - 1} images after it"
        raise UserError(f"{where}: {name} gave {len(entries)} scores")
    return entries


def _write(out: Path, scorer: Scorer, samples: Sequence[Sample], entries: Sequence[Entry]) -> None:
    """The CSV file, and beside GenEval's the official per-image records."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sample, entry in zip(samples, entries, strict=True):
        row = [getattr(sample, column) for column in COLUMNS[:-1]]
        # repr keeps every digit of a float32 score.
        writer.writerow([*row, repr(entry["score"])])
    if scorer.name == GENEVAL:
        records = [_official(*pair) for pair in zip(samples, entries, strict=True)]
        write_text(out.with_suffix(".jsonl"), "".join(json.dumps(one) + "\n" for one in records))
    write_text(out, text.getvalue())


def _official(sample: Sample, entry: Entry) -> dict[str, object]:
    """A result record that the official summary script reads."""
    return {
        "filename": sample.image,
        "tag": sample.tag,
        "prompt": sample.prompt,
        "correct": entry["correct"],
        "reason": entry["reason"],
        "metadata": json.dumps(sample.metadata),
        "details": entry["details"],
    }


def outputs_of(settings: ScoreSettings, out: Path, device: str) -> dict[Path, Scorer]:
    """The files of a scale's evaluators in the folder `out`, and their scorers."""
    weights = {**settings.evaluators, GENEVAL: settings.detector}
    return {out / f"{name}.csv": make_scorer(name, path, device) for name, path in weights.items()}


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's arguments, in either of its two forms."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--settings", help="a scale's score settings, as JSON")
    form.add_argument("--metric", help="hpsv2, pickscore, hpsv3 or geneval")
    parser.add_argument("--weights", help="the metric's weights; geneval: module:function")
    parser.add_argument("--images", type=Path, required=True, help="the folder of images")
    parser.add_argument("--prompts", type=Path, help="the prompts, if there is no manifest")
    parser.add_argument("--out", type=Path, required=True, help="folder, or with --metric file")
    arguments = parser.parse_args(argv)
    if arguments.metric and not arguments.weights:
        parser.error("--metric needs --weights")
    return arguments


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    arguments = parse_arguments(argv)
    samples = read_samples(arguments.images, arguments.prompts)
    with leased_device() as device:
        if arguments.settings:
            settings = ScoreSettings.from_json(arguments.settings)
            weights = list(settings.evaluators.values())
            outputs = outputs_of(settings, arguments.out, device)
            with record(arguments.out / "provenance.json", settings, weights, device):
                score_folder(arguments.images, samples, outputs)
        else:
            scorer = make_scorer(arguments.metric, arguments.weights, device)
            score_folder(arguments.images, samples, {arguments.out: scorer})


if __name__ == "__main__":
    main()
