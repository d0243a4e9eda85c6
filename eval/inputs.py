"""Which images a folder has and what they should show, for folders of any origin."""

from __future__ import annotations

from pathlib import Path

from eval.manifest import MANIFEST, Sample, read_manifest
from leapalign.data import read_prompts
from leapalign.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


def read_samples(folder: Path, prompts: Path | None = None) -> tuple[Sample, ...]:
    """The samples of any folder of images, ours (with a manifest) or not.

    Args:
        folder: The images.
        prompts: The prompts: of a folder without manifest one for each image, in the order of
            the file names; of a folder with manifest those it must have been made from.

    Raises:
        UserError: Manifest, prompts and images do not fit together.
    """
    known = read_prompts(prompts, repeats=True) if prompts else ()
    if (folder / MANIFEST).is_file() or prompts is None:
        samples = read_manifest(folder)
        for sample in samples if prompts else ():
            if sample.prompt not in {prompt.text for prompt in known[sample.prompt_index :][:1]}:
                raise UserError(
                    f"{folder / MANIFEST}: {sample.image} shows {sample.prompt!r}, which is not "
                    f"prompt {sample.prompt_index} of {prompts}; give the file it was made from"
                )
        return samples
    images = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if len(images) != len(known):
        raise UserError(f"{folder} has {len(images)} images, {prompts} {len(known)} prompts")
    return tuple(
        Sample(image, index, prompt.text, 0, None, prompt.metadata)
        for index, (image, prompt) in enumerate(zip(images, known, strict=True))
    )
