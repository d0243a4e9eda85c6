"""Generate the images that a run is evaluated on.

    python -m eval.generate --settings JSON [--transformer FILE] --out DIR

Every run gets the same prompts and the same noise: an image's noise is a function of the
evaluation's seed, its prompt and its place among the prompt's images alone. Images are lossless
PNGs; `manifest.jsonl`, written last, says what they show. A second run makes what is missing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

import leapalign.backbones
import leapalign.kernels
import leapalign.rollout
from eval.fingerprints import fingerprint, sources
from eval.manifest import MANIFEST, Sample, write_manifest
from eval.progress import batches
from eval.threads import THREADS, ahead
from leapalign import compute, grid, steps, streams
from leapalign.backbones.backbone import Backbone
from leapalign.data import read_prompts
from leapalign.devices import leased_device
from leapalign.errors import UserError, main_guard
from leapalign.files import replacing, write_text
from leapalign.parsing import resolve
from leapalign.record import record
from leapalign.rollout import rollout
from leapalign.settings import Evaluation, GenerateSettings
from leapalign.weights import check_weights
from leapalign.weights import fingerprint as weights_fingerprint

STATE = "fingerprint.txt"


def planned(evaluation: Evaluation) -> tuple[Sample, ...]:
    """The images to make: for each prompt, in the order of its file, its images.

    Raises:
        UserError: The prompts file is missing or has a bad line.
    """
    prompts = read_prompts(evaluation.prompts)[: evaluation.limit]
    each = range(evaluation.images_per_prompt)
    places = [(index, prompt, image) for index, prompt in enumerate(prompts) for image in each]
    return tuple(
        Sample(f"{n:05d}.png", index, prompt.text, image, evaluation.seed, prompt.metadata)
        for n, (index, prompt, image) in enumerate(places)
    )


def generate(
    settings: GenerateSettings, transformer: Path | None, out: Path, device: str = "cpu"
) -> None:
    """Make the images that are missing in the folder `out`, and its manifest.

    Args:
        settings: Backbone, resolution and evaluation.
        transformer: Fine-tuned weights; the backbone's own if None.
        out: The folder. Images that other settings or weights made are removed from it.
        device: Where the backbone runs.

    Raises:
        UserError: A prompts file, backbone or weights file is unusable.
    """
    make_images(settings, transformer, planned(settings.evaluation), out, device)


def make_images(
    settings: GenerateSettings,
    transformer: Path | None,
    samples: Sequence[Sample],
    out: Path,
    device: str = "cpu",
) -> None:
    """`generate` these samples only."""
    _keep_only(_fingerprint(settings, transformer, samples), out)
    missing = [sample for sample in samples if not (out / sample.image).is_file()]
    if missing:
        precision: torch.dtype = getattr(torch, settings.precision)
        backbone = resolve(settings.backbone.loader, "backbone.loader").load(
            settings.backbone.path,
            settings.resolution,
            device,
            dtype=precision,
        )
        if transformer is not None:
            backbone.load_weights(transformer)
        if precision != torch.float32:
            compute.lower(backbone.transformer, precision)
        prompts = [sample.prompt for sample in missing]
        backbone.prefetch(prompts, settings.evaluation.guidance)
        # One image more than a batch: the next batch is sampled while this one is written, and
        # none after that before this one is.
        count = settings.evaluation.batch + 1
        made = _made(backbone, missing, settings.evaluation)
        with ThreadPoolExecutor(THREADS) as pool:
            for written in ahead(pool, partial(_write, out), made, count):
                written.result()
    write_manifest(out, samples)


def _made(
    backbone: Backbone, samples: Sequence[Sample], evaluation: Evaluation
) -> Iterator[tuple[Sample, Image.Image]]:
    """Each sample and its image, sampled in batches as they are asked for."""
    for batch in batches(samples, evaluation.batch, "generate"):
        yield from zip(batch, to_pil(sample_images(backbone, batch, evaluation)), strict=True)


def _write(out: Path, made: tuple[Sample, Image.Image]) -> None:
    sample, image = made
    with replacing(out / sample.image) as temporary:
        image.save(temporary)


@torch.inference_mode()
def sample_images(
    backbone: Backbone, samples: Sequence[Sample], evaluation: Evaluation
) -> Float[Tensor, "batch 3 height width"]:
    """Sample images in [0, 1] by Euler steps; each has a noise of its own, whatever the batch."""
    noise = [
        streams.stream(evaluation.seed, sample.prompt_index, sample.image_index, "evaluation noise")
        for sample in samples
    ]
    velocity = backbone.field([sample.prompt for sample in samples], evaluation.guidance)
    path = rollout(velocity, backbone.latents(noise), backbone.grid(evaluation.steps))
    return backbone.decode(path.states[-1]).float()


def to_pil(images: Float[Tensor, "batch 3 height width"]) -> list[Image.Image]:
    """Images in [0, 1] in 8 bits, rounded as diffusers rounds, in one transfer from their device.

    Raises:
        UserError: One is not finite.
    """
    if not bool(torch.isfinite(images).all()):
        raise UserError("the model made an image that is not finite; its weights are damaged")
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(image) for image in pixels.contiguous().cpu().numpy()]


def _fingerprint(
    settings: GenerateSettings, transformer: Path | None, samples: Sequence[Sample]
) -> str:
    """A digest of all that decides the images; the batch's size does not."""
    weights = [settings.backbone.path, *([str(transformer)] if transformer else [])]
    one_at_a_time = replace(settings, evaluation=replace(settings.evaluation, batch=1))
    return fingerprint(
        one_at_a_time.json(),
        json.dumps([weights_fingerprint(path) for path in weights]),
        json.dumps([asdict(sample) for sample in samples]),
        sources(
            leapalign.backbones,
            leapalign.kernels,
            compute,
            grid,
            leapalign.rollout,
            steps,
            streams,
        ),
    )


def _keep_only(state: str, out: Path) -> None:
    """Remove the images of an earlier state; those of this one are as good as new."""
    path = out / STATE
    if path.is_file() and path.read_text() == state:
        return
    for stale in [out / MANIFEST, *out.glob("[0-9]*.png")]:
        stale.unlink(missing_ok=True)
    write_text(path, state)


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--settings", required=True, help="a scale's generation settings, as JSON")
    parser.add_argument(
        "--transformer",
        type=Path,
        nargs="?",
        help="fine-tuned weights, a file or a folder; none for the base's own",
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder for the images")
    arguments = parser.parse_args(argv)
    settings = GenerateSettings.from_json(arguments.settings)
    check_weights(settings.backbone.path, "backbone.path")
    weights = [settings.backbone.path]
    if arguments.transformer:
        if not arguments.transformer.exists():
            raise UserError(f"{arguments.transformer}: no such weights; train the run first")
        weights.append(str(arguments.transformer))
    with (
        leased_device() as device,
        record(arguments.out / "provenance.json", settings, weights, device),
    ):
        generate(settings, arguments.transformer, arguments.out, device)


if __name__ == "__main__":
    main()
