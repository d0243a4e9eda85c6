"""The pocket HPSv3: a tiny Qwen2-VL with the reward head, one image token for each cell."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLImageProcessor

from leapalign.rewards.hpsv3 import IMAGE_TOKEN, WEIGHTS, HPSv3, Rater
from leapalign.rewards.instruction import FILE, PROMPT, REWARD_TOKEN, Instruction
from pocket.rewards.facts import prompt_table
from pocket.rewards.grid import ANSWERS, Answers
from pocket.rewards.hpsv2 import half_precision, save_tensors
from pocket.rewards.tokenizer import train_tokenizer
from pocket.world import CELLS, SIZE

PATCH, MERGE, WIDTH = 8, 2, 128
INSTRUCTION = f"{PROMPT} {REWARD_TOKEN}"
MARKS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|video_pad|>",
    IMAGE_TOKEN,
    REWARD_TOKEN,
    "<|end|>",
)
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


class HPSv3Student(nn.Module):
    """The model in training, with a head that answers for the grid's cells."""

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
        self.cells = nn.Linear(WIDTH, ANSWERS)
        tokens = self.reward.tokenize((SIZE, SIZE), prompt_table().texts)
        start = int((tokens[0] == tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)).nonzero().max()) + 2
        self.preamble, self.prompts = tokens[0, :start], tokens[:, start:]

    def rate(
        self, images: Float[Tensor, "batch 3 64 64"], rows: Int[Tensor, "batch prompts"]
    ) -> tuple[Float[Tensor, "batch prompts 2"], Answers]:
        """Mean and log sigma of each image's rating under several prompts, and the dense answers.

        The prompts of an image follow it in one sequence and do not see each other, so the image is
        read once; each rating is what the prompt alone would get.
        """
        trunk, seen = self.rater.model, self.reward.see(images)
        count, prompts = rows.shape
        ids = torch.cat([self.preamble.expand(count, -1), self.prompts[rows].flatten(1)], dim=1)
        words = trunk.language_model.embed_tokens(ids)
        is_image = (ids == trunk.config.image_token_id)[..., None]
        start, length = len(self.preamble), self.prompts.shape[1]
        turn = torch.cat([torch.zeros(start), torch.arange(prompts * length) // length + 1])
        order = torch.cat([torch.arange(start), start + torch.arange(prompts * length) % length])
        visible = (turn[None] == 0) | (turn[None] == turn[:, None])
        visible &= order[None] <= order[:, None]
        hidden = trunk.language_model(
            inputs_embeds=words.masked_scatter(is_image, seen),
            attention_mask=visible.expand(count, 1, -1, -1),
            position_ids=order.expand(3, count, -1),
            use_cache=False,
        ).last_hidden_state
        rated = self.rater.rm_head(hidden[ids == self.rater.reward_token_id])
        cells = self.cells(seen.unflatten(0, (count, CELLS * CELLS)))
        return rated.unflatten(0, (count, prompts)), Answers(cells)

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
    """The world's words and Qwen2-VL's marks; the chat template holds image and text alone."""
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
