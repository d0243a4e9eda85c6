"""Artefact probes: what a reward that is hacked leaves in images, measured without a model.

    python -m eval.probes --images DIR [--base DIR] --out DIR

Each is a score per image beside the evaluators', so that tables compare runs by them as by any
score: `high_frequency`, the share of the luminance's spectral energy above half the Nyquist
frequency; `saturation`, the mean of HSV's S; `clipping`, the share of pixels with a channel at an
end of its range; `diversity`, the mean distance to the prompt's other images; `layout`, how far an
image of a few pixels' size is from the untrained model's of the same prompt and noise. Distances
are root mean squares over pixels in [0, 1].
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from eval.manifest import Sample, read_image, read_manifest
from eval.tables import write_scores
from leapalign.errors import UserError, main_guard

COARSE = 8
"""Side, in pixels, of the image of which only the layout is left."""

Pixels = Float[NDArray[np.float64], "height width 3"]


def high_frequency(pixels: Pixels) -> float:
    """Share of the luminance's energy, its mean apart, at frequencies above half of Nyquist's."""
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    energy = np.abs(np.fft.rfft2(luminance - luminance.mean())) ** 2
    energy[:, 1 : (luminance.shape[1] + 1) // 2] *= 2.0  # the half that a real transform leaves out
    rows, columns = np.fft.fftfreq(energy.shape[0]), np.fft.rfftfreq(luminance.shape[1])
    above = np.maximum(np.abs(rows)[:, None], columns[None, :]) > 0.25
    return float(energy[above].sum() / energy.sum()) if energy.any() else 0.0


def saturation(pixels: Pixels) -> float:
    """Mean of HSV's S, (max - min) / max."""
    high, low = pixels.max(-1), pixels.min(-1)
    return float(np.divide(high - low, high, out=np.zeros_like(high), where=high > 0).mean())


def clipping(pixels: Pixels) -> float:
    """Share of the pixels with a channel at 0 or 1."""
    return float(((pixels <= 0.0) | (pixels >= 1.0)).any(-1).mean())


def distance(first: Pixels, second: Pixels) -> float:
    """Root mean square of the difference."""
    return float(np.sqrt(np.mean((first - second) ** 2)))


def diversity(prompt: Sequence[Pixels]) -> list[float]:
    """Each image's mean distance to the others of its prompt; 0 for one alone."""
    apart = np.array([[distance(a, b) for b in prompt] for a in prompt])
    return (apart.sum(1) / max(len(prompt) - 1, 1)).tolist()


def coarse(image: Image.Image) -> Pixels:
    """An image in which only the layout is left."""
    return _pixels(image.resize((COARSE, COARSE), Image.Resampling.BOX))


def probe(folder: Path, base: Path | None) -> Mapping[str, list[float]]:
    """All probes of a folder's images, in the order of its manifest.

    Args:
        folder: Images with a manifest.
        base: The untrained model's images of the same prompts and noise; without them there is no
            `layout`.

    Raises:
        UserError: An image is missing or damaged, or the base's are of other prompts.
    """
    samples = read_manifest(folder)
    images = [read_image(folder, sample) for sample in samples]
    pixels = [_pixels(image) for image in images]
    found = {
        "high_frequency": [high_frequency(one) for one in pixels],
        "saturation": [saturation(one) for one in pixels],
        "clipping": [clipping(one) for one in pixels],
        "diversity": _by_prompt(samples, pixels),
    }
    if base is not None:
        if read_manifest(base) != samples:
            raise UserError(f"{base}: not the prompts and noise of {folder}; generate both again")
        found["layout"] = [
            distance(coarse(image), coarse(read_image(base, sample)))
            for image, sample in zip(images, samples, strict=True)
        ]
    return found


def _by_prompt(samples: Sequence[Sample], pixels: Sequence[Pixels]) -> list[float]:
    """The diversity of every image among those of its prompt."""
    values = [0.0] * len(samples)
    for prompt in {sample.prompt_index for sample in samples}:
        members = [n for n, sample in enumerate(samples) if sample.prompt_index == prompt]
        for n, value in zip(members, diversity([pixels[n] for n in members]), strict=True):
            values[n] = value
    return values


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, dtype=np.float64) / 255.0


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.probes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, required=True, help="the images")
    parser.add_argument("--base", type=Path, nargs="?", help="the untrained model's")
    parser.add_argument("--out", type=Path, required=True, help="folder, a CSV file per probe")
    arguments = parser.parse_args(argv)
    samples = read_manifest(arguments.images)
    for name, values in probe(arguments.images, arguments.base).items():
        write_scores(arguments.out / f"{name}.csv", samples, values)


if __name__ == "__main__":
    main()
