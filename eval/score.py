"""Score a folder of images, one file of scores per evaluator.

All evaluators of a scale, in one process:

    python -m eval.score --settings JSON --images DIR --out DIR

One evaluator, for any folder of images; prompts come from the folder's manifest, or from a file
with one prompt for each image in the order of the file names:

    python -m eval.score --metric NAME --weights PATH --images DIR [--prompts FILE] --out FILE

Images of any mode are scored as the authors' own code would, rewards on pixels as they are stored
(whatever EXIF says), GenEval upright. Damaged ones and those of more than 8 bits a channel are
refused by name. Finished scores are kept in a journal beside the scores; a second run computes what
is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from eval.fingerprints import fingerprint
from eval.inputs import read_samples
from eval.journal import Journal
from eval.manifest import Sample, open_image, read_bytes
from eval.progress import batches
from eval.scorers import GENEVAL, Entry, Model, Scorer, make_scorer
from eval.tables import write_scores
from eval.threads import THREADS, ahead
from leapalign.devices import leased_device
from leapalign.errors import UserError, main_guard
from leapalign.files import require_writable, write_text
from leapalign.record import record
from leapalign.rewards import REWARDS
from leapalign.settings import ScoreSettings, plain_name

BATCH = 50
AHEAD = 2 * BATCH  # images decoded and prepared while others are being scored


def score_folder(folder: Path, samples: Sequence[Sample], outputs: Mapping[Path, Scorer]) -> None:
    """Score every sample with every scorer; writes each scorer's CSV file at its path.

    Raises:
        UserError: An image cannot be read or scored; the message names it.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        identities = list(pool.map(lambda sample: _identity(folder, sample), samples))
    for scorer in outputs.values():
        for sample in samples:
            scorer.check(sample)
    for out, scorer in outputs.items():
        keys = [fingerprint(scorer.depends_on, identity) for identity in identities]
        journal = Journal(out.with_suffix(".journal.jsonl"))
        missing = {
            key: sample for key, sample in zip(keys, samples, strict=True) if key not in journal
        }
        if missing:
            _score_missing(folder, missing, scorer, journal)
        _write(out, scorer, samples, [journal[key] for key in keys])


def _identity(folder: Path, sample: Sample) -> str:
    """A digest of all of a sample that a score may depend on."""
    return fingerprint(read_bytes(folder, sample), sample.prompt, json.dumps(sample.metadata))


def _score_missing(
    folder: Path, missing: Mapping[str, Sample], scorer: Scorer, journal: Journal
) -> None:
    """Score in batches, while threads decode and prepare the images of the next ones."""
    model = scorer.load()
    pool = ThreadPoolExecutor(THREADS)
    try:
        upcoming = ahead(
            pool, lambda sample: model.prepare(open_image(folder, sample)), missing.values(), AHEAD
        )
        for keys in batches(list(missing), BATCH, f"score {scorer.name}"):
            samples = [missing[key] for key in keys]
            outcomes = _outcomes(model, list(islice(upcoming, len(keys))), samples)
            scored = dict(zip(keys, outcomes, strict=True))
            journal.add({k: one for k, one in scored.items() if not isinstance(one, Exception)})
            for sample, outcome in zip(samples, outcomes, strict=True):
                if isinstance(outcome, Exception):
                    raise _failure(folder / sample.image, scorer.name, outcome) from outcome
    finally:
        pool.shutdown(cancel_futures=True)


def _outcomes(
    model: Model, prepared: Sequence[Future[Any]], samples: Sequence[Sample]
) -> list[Entry | Exception]:
    """Each image's entry, or why it has none; a batch that fails is tried image by image."""
    try:
        entries = model.score([one.result() for one in prepared], samples)
    except (UserError, ValueError, RuntimeError) as error:
        if len(samples) == 1:
            return [error]
        alone = zip(prepared, samples, strict=True)
        return [_outcomes(model, [one], [sample])[0] for one, sample in alone]
    if len(entries) != len(samples):
        return [ValueError(f"{len(entries)} scores for {len(samples)} images")] * len(samples)
    return list(entries)


def _failure(path: Path, name: str, error: Exception) -> UserError:
    """What is said of an image without a score; the others' are kept."""
    reason = str(error) if isinstance(error, UserError) else f"{name} failed: {error}"
    named = reason if str(path) in reason else f"{path}: {reason}"
    return UserError(f"{named}; finished scores are kept, run again for the rest")


def _write(out: Path, scorer: Scorer, samples: Sequence[Sample], entries: Sequence[Entry]) -> None:
    """The CSV file, and beside GenEval's the official per-image records."""
    if scorer.name == GENEVAL:
        records = [_official(*pair) for pair in zip(samples, entries, strict=True)]
        write_text(out.with_suffix(".jsonl"), "".join(json.dumps(one) + "\n" for one in records))
    write_scores(out, samples, [entry["score"] for entry in entries])
    missing = sum(entry["score"] is None for entry in entries)
    if missing:
        sys.stderr.write(
            f"{out}: {missing} of {len(entries)} images have no score ({scorer.name}'s reply could "
            "not be read); they are left empty\n"
        )


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
    weights = dict(settings.evaluators)
    if settings.detector is not None:
        weights[GENEVAL] = settings.detector
    return {
        out / f"{plain_name(name)}.csv": make_scorer(name, path, device)
        for name, path in weights.items()
    }


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line's arguments, in either of its two forms."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.score",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    form = parser.add_mutually_exclusive_group(required=True)
    form.add_argument("--settings", help="a scale's score settings, as JSON")
    form.add_argument("--metric", help=f"a class, or one of {', '.join([*REWARDS, GENEVAL])}")
    parser.add_argument(
        "--weights",
        help="the metric's weights: a folder or a hub id; geneval: also module:function",
    )
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
            weights = settings.weights
            outputs = outputs_of(settings, arguments.out, device)
            with record(arguments.out / "provenance.json", settings, weights, device):
                score_folder(arguments.images, samples, outputs)
        else:
            require_writable(arguments.out.parent)
            scorer = make_scorer(arguments.metric, arguments.weights, device)
            score_folder(arguments.images, samples, {arguments.out: scorer})


if __name__ == "__main__":
    main()
