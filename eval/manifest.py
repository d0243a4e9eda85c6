"""A folder of images and its manifest: which image shows which prompt."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from leapalign.errors import UserError
from leapalign.files import write_text

MANIFEST = "manifest.jsonl"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a folder.

    Attributes:
        image: File name in the folder.
        prompt_index: The prompt's place in its file, from 0.
        prompt: Its text.
        image_index: Which of the prompt's images this is, from 0.
        seed: Root seed of the noise it was sampled from; None for images of other origin.
        metadata: The prompt's GenEval metadata; empty for a plain prompt.
    """

    image: str
    prompt_index: int
    prompt: str
    image_index: int
    seed: int | None
    metadata: Mapping[str, Any]

    @property
    def tag(self) -> str:
        """GenEval's task, or nothing."""
        return self.metadata.get("tag", "")


def write_manifest(folder: Path, samples: Sequence[Sample]) -> None:
    """Write the folder's manifest, atomically."""
    lines = [json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples]
    write_text(folder / MANIFEST, "".join(lines))


def read_manifest(folder: Path) -> tuple[Sample, ...]:
    """Read the folder's manifest.

    Raises:
        UserError: The manifest is missing, empty or unreadable, or names an image twice.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: no such file; generate the images first")
    samples: dict[str, Sample] = {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                sample = Sample(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}, line {number}: {error}; generate again") from None
            if sample.image in samples:
                raise UserError(f"{path}, line {number}: {sample.image} occurs twice")
            samples[sample.image] = sample
    if not samples:
        raise UserError(f"{path}: empty; generate the images first")
    return tuple(samples.values())


def read_bytes(folder: Path, sample: Sample) -> bytes:
    """The bytes of a sample's file, checked to be an image as far as that is quick.

    Raises:
        UserError: The image is missing or damaged, or has more than 8 bits a channel.
    """
    path = folder / sample.image
    if not path.is_file():
        raise UserError(f"{path}: missing; generate it again, or mend the manifest")
    data = path.read_bytes()
    with _readable(path), Image.open(BytesIO(data)) as image:
        if image.mode.startswith(("I", "F")):
            raise UserError(f"{path}: mode {image.mode}; convert it to 8 bits a channel")
        image.verify()
    return data


def open_image(folder: Path, sample: Sample) -> Image.Image:
    """A sample's file as Pillow opens it, decoded: in its own mode, turned as it is stored.

    Raises:
        UserError: The image is missing or damaged.
    """
    path = folder / sample.image
    with _readable(path), Image.open(path) as image:
        image.load()
        return image


def upright(image: Image.Image) -> Image.Image:
    """An image in RGB, turned as its EXIF data say."""
    return ImageOps.exif_transpose(image).convert("RGB")


def read_image(folder: Path, sample: Sample) -> Image.Image:
    """A sample's pixels, upright and in RGB.

    Raises:
        UserError: The image is missing or damaged.
    """
    return upright(open_image(folder, sample))


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    # Pillow's decoders report damage by any of these.
    try:
        yield
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        remedy = "delete it and generate it again"
        raise UserError(f"{path}: not a readable image ({error}); {remedy}") from None
