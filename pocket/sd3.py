"""Builds the pocket SD3, a stock StableDiffusion3Pipeline folder, from the pocket FLUX.

    python -m pocket.sd3 --out results/pocket_weights/sd3

takes over autoencoder, T5 and tokenizers, trains two CLIP text encoders (1 minute) and distils the
transformer (8 minutes), all on one core. A finished stage is kept: run the command again after an
interruption.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5EncoderModel,
    T5TokenizerFast,
)

from leapalign.backbones.encodings import EncodedPrompts
from leapalign.errors import main_guard
from leapalign.rewards.weights import write_checksums
from pocket.base import load_texts
from pocket.distill import PHASE, distill, make_student
from pocket.text import TOKENS, WIDTH, train_clip
from pocket.transformer import Pool, save
from pocket.world import all_prompts

BASE = Path("pocket/weights/base")
GUIDANCE = 2.0
"""The guidance of its model card; any works, for it is the true one."""
SHIFT = 3.0
"""SD3.5's."""
TAKEN = {
    "tokenizer": "tokenizer",
    "tokenizer_2": "tokenizer",
    "tokenizer_3": "tokenizer_2",
    "text_encoder_3": "text_encoder_2",
}
"""Our parts that are the pocket FLUX's, by its name for them."""

log = logging.getLogger(__name__)


def take(base: Path, folder: Path) -> None:
    """Copy what the pocket FLUX has; the autoencoder in half precision, as SD3.5 is released."""
    for part, source in TAKEN.items():
        shutil.copytree(base / source, folder / part, dirs_exist_ok=True)
    vae = AutoencoderKL.from_pretrained(base / "vae", dtype=torch.bfloat16)
    vae.save_pretrained(folder / "vae")


def build_clip(folder: Path, part: str, seed: int) -> None:
    """A CLIP text encoder; side by side the states of both are as wide as the T5's."""
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    train_clip(tokenizer, WIDTH // 2, seed).save_pretrained(folder / part)


@torch.no_grad()
def encode_all(folder: Path) -> EncodedPrompts:
    """Every prompt of the world as the stock pipeline encodes it, and the empty one."""
    prompts = [*(line["prompt"] for line in all_prompts()), ""]
    tokens, _, pooled, _ = assemble(folder, make_student()).encode_prompt(
        prompts, None, None, do_classifier_free_guidance=False, max_sequence_length=TOKENS
    )
    return EncodedPrompts(tokens, pooled)


def build_transformer(base: Path, folder: Path, seed: int) -> None:
    """Distil the pocket FLUX's transformer."""
    torch.manual_seed(seed)
    teacher = FluxTransformer2DModel.from_pretrained(base / "transformer", dtype=torch.float32)
    vae = AutoencoderKL.from_pretrained(base / "vae").eval()
    pool = Pool(vae, load_texts(base), np.random.default_rng(seed), PHASE.tags)
    save(distill(teacher.eval(), pool, encode_all(folder)), folder / "transformer")


def assemble(folder: Path, transformer: SD3Transformer2DModel) -> StableDiffusion3Pipeline:
    """The pipeline of the parts in `folder` and this transformer."""
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2"),
        tokenizer_2=CLIPTokenizer.from_pretrained(folder / "tokenizer_2"),
        text_encoder_3=T5EncoderModel.from_pretrained(folder / "text_encoder_3"),
        tokenizer_3=T5TokenizerFast.from_pretrained(folder / "tokenizer_3"),
    )


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Build what is missing in `--out`."""
    parser = argparse.ArgumentParser(prog="python -m pocket.sd3", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--base", type=Path, default=BASE, help="the pocket FLUX's folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    base, folder, seed = arguments.base, arguments.out, arguments.seed
    folder.mkdir(parents=True, exist_ok=True)
    take(base, folder)
    stages = {
        "text_encoder": lambda: build_clip(folder, "text_encoder", seed),
        "text_encoder_2": lambda: build_clip(folder, "text_encoder_2", seed + 1),
        "transformer": lambda: build_transformer(base, folder, seed),
    }
    for part, build in stages.items():
        if not (folder / part / "config.json").exists():
            log.info("building %s", part)
            build()
    transformer = SD3Transformer2DModel.from_pretrained(
        folder / "transformer", dtype=torch.bfloat16
    )
    pipeline = assemble(folder, transformer)
    pipeline.save_config(folder)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    write_checksums(folder)


if __name__ == "__main__":
    main()
