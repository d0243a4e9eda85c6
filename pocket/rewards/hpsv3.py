"""The pocket HPSv3: a tiny Qwen2-VL, one merged image token per cell of the grid, with the reward head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLImageProcessor

from leapalign.rewards.hpsv3 import IMAGE_TOKEN, WEIGHTS, HPSv3, Rater
from leapalign.rewards.instruction import FILE, PROMPT, REWARD_TOKEN, Instruction
from pocket.rewards.data import KINDS
from pocket.rewards.hpsv2 import half_precision, save_tensors
from pocket.rewards.tokenizer import train_tokenizer
from pocket.world import CELLS, SIZE

PATCH, MERGE, WIDTH = 8, 2, 128
INSTRUCTION = f"{PROMPT} {REWARD_TOKEN}"
MARKS = ("<|vision_start|>", "<|vision_end|>", "<|video_pad|>", IMAGE_TOKEN, REWARD_TOKEN, "<|end|>")
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


class HPSv3Student(nn.Module):
    """The model in training, with a head that reads the grid's cells off the image tokens."""

    def __init__(self) -> None:
        """Random weights; seed torch first."""
        super().__init__()
        tokenizer = qwen_tokenizer()
        rater = Rater(configuration(tokenizer), tokenizer.convert_tokens_to_ids(REWARD_TOKEN))
        processor = Qwen2VLImageProcessor(
            patch_size=PATCH, merge_size=MERGE, min_pixels=SIZE * SIZE, max_pixels=SIZE * SIZE
        )
        self.reward = HPSv3(rater, tokenizer, processor, Instruction(INSTRUCTION))
        self.rater = rater.requires_grad_(True)
        self.cell_head = nn.Linear(WIDTH, KINDS)

    def rate(
        self, images: Float[Tensor, "batch 3 64 64"], prompts: Sequence[Sequence[str]]
    ) -> tuple[list[Float[Tensor, "batch 2"]], Float[Tensor, "batch kinds 4 4"]]:
        """Mean and log sigma of the images' ratings, for each list of prompts, and logits of the cells."""
        seen = self.reward.see(images)
        texts = [text for batch in prompts for text in batch]
        tokens = self.reward.tokenize(images.shape[-2:], texts)
        rated = self.rater(tokens, seen.repeat(len(prompts), 1)).chunk(len(prompts))
        cells = self.cell_head(seen.unflatten(0, (len(images), CELLS, CELLS)))
        return list(rated), cells.permute(0, 3, 1, 2)

    def save(self, folder: Path) -> None:
        """Write a Qwen2-VL folder with the reward's weights under the official names."""
        folder.mkdir(parents=True, exist_ok=True)
        self.rater.model.config.save_pretrained(folder)
        self.reward.tokenizer.save_pretrained(folder)
        self.reward.processor.save_pretrained(folder)
        (folder / FILE).write_text(INSTRUCTION, encoding="utf-8")
        state = {official_name(name): t for name, t in self.rater.state_dict().items()}
        save_tensors(half_precision(state), folder / WEIGHTS)


def official_name(name: str) -> str:
    """From `Rater`'s names to those of the official checkpoint."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def qwen_tokenizer() -> PreTrainedTokenizerFast:
    """The world's words and Qwen2-VL's marks, with a chat template that holds image and text alone."""
    return PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(MARKS),
        pad_token="<|end|>",
        eos_token="<|end|>",
        extra_special_tokens=list(MARKS[:-1]),
        chat_template=TEMPLATE,
    )


def configuration(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """A Qwen2-VL of about a million parameters."""
    vision = {
        "depth": 2,
        "embed_dim": 96,
        "hidden_size": WIDTH,
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    ids = tokenizer.convert_tokens_to_ids
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids(IMAGE_TOKEN),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
