"""Builds the pocket base model, a stock FluxPipeline folder, from nothing.

    python -m pocket.base --out results/pocket_weights/base

trains the text encoders (1 minute), the autoencoder (10 minutes) and the flow transformer (25
minutes), all on one core. A finished stage is kept: run the command again after an interruption.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from leapalign.backbones.encodings import EncodedPrompts
from leapalign.errors import main_guard
from pocket.text import clip_pooled, t5_states, token_ids, train_text
from pocket.transformer import SHIFT, Texts, save, train_transformer
from pocket.vae import train_vae
from pocket.world import all_prompts

log = logging.getLogger(__name__)


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """FLUX's dynamic shifting, set so that 16 image tokens give a shift of about 1.65."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=16,
        max_image_seq_len=256,
        shift=SHIFT,
    )


def build_text(folder: Path, seed: int) -> None:
    """Stage 1: both tokenizers and text encoders."""
    t5_tokenizer, t5, clip_tokenizer, clip = train_text(seed)
    t5_tokenizer.save_pretrained(folder / "tokenizer_2")
    t5.save_pretrained(folder / "text_encoder_2")
    clip_tokenizer.save_pretrained(folder / "tokenizer")
    clip.save_pretrained(folder / "text_encoder")


def build_vae(folder: Path, seed: int) -> None:
    """Stage 2: the autoencoder."""
    train_vae(seed).save_pretrained(folder / "vae")


def load_texts(folder: Path) -> Texts:
    """Every prompt of the world through the trained text encoders."""
    prompts = [line["prompt"] for line in all_prompts()]
    t5 = T5EncoderModel.from_pretrained(folder / "text_encoder_2").eval()
    clip = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    t5_ids = token_ids(T5TokenizerFast.from_pretrained(folder / "tokenizer_2"), prompts)
    clip_ids = token_ids(CLIPTokenizer.from_pretrained(folder / "tokenizer"), prompts)
    with torch.no_grad():
        return Texts(EncodedPrompts(t5_states(t5, t5_ids), clip_pooled(clip, clip_ids)))


def build_transformer(folder: Path, seed: int) -> None:
    """Stage 3: the flow transformer, over the text encoders and latents of stages 1 and 2."""
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    model = train_transformer(vae, load_texts(folder), seed)
    save(model, folder / "transformer")


STAGES = {"text_encoder": build_text, "vae": build_vae, "transformer": build_transformer}


def assemble(folder: Path) -> FluxPipeline:
    """The pipeline of the parts in `folder`; its index and scheduler are written beside them."""
    pipeline = FluxPipeline(
        scheduler=make_scheduler(),
        vae=AutoencoderKL.from_pretrained(folder / "vae"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder_2=T5EncoderModel.from_pretrained(folder / "text_encoder_2"),
        tokenizer_2=T5TokenizerFast.from_pretrained(folder / "tokenizer_2"),
        transformer=FluxTransformer2DModel.from_pretrained(
            folder / "transformer", dtype=torch.bfloat16
        ),
    )
    pipeline.save_config(folder)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    return pipeline


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Build what is missing in `--out`."""
    parser = argparse.ArgumentParser(prog="python -m pocket.base", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the pipeline's folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for part, build in STAGES.items():
        if not (arguments.out / part / "config.json").exists():
            log.info("building %s", part)
            shutil.rmtree(arguments.out / part, ignore_errors=True)
            build(arguments.out, arguments.seed)
    assemble(arguments.out)


if __name__ == "__main__":
    main()
