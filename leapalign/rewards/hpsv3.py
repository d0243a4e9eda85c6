"""HPSv3 (Ma et al., 2025): a Qwen2-VL that reads image and prompt and rates them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2VLConfig,
    Qwen2VLImageProcessor,
    Qwen2VLModel,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from leapalign.errors import UserError
from leapalign.rewards.images import by_size, resize, to_tensor
from leapalign.rewards.instruction import REWARD_TOKEN, Instruction, read_instruction
from leapalign.rewards.reward import Reward
from leapalign.rewards.weights import load_strictly, read_state_dict, verify

WEIGHTS = "HPSv3.safetensors"
IMAGE_TOKEN = "<|image_pad|>"


class Rater(nn.Module):
    """Qwen2-VL and the reward head, read at the reward token: mean and log sigma of a rating."""

    def __init__(self, config: Qwen2VLConfig, reward_token_id: int) -> None:
        """Build it without weights; the head has the official sizes."""
        super().__init__()
        self.model = Qwen2VLModel(config)
        self.rm_head = nn.Sequential(
            nn.Linear(config.text_config.hidden_size, 1024),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(1024, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
        )
        self.reward_token_id = reward_token_id

    def forward(
        self, tokens: dict[str, Tensor], pixels: Tensor, grid: Tensor
    ) -> Float[Tensor, "batch 2"]:
        """Mean and log sigma of each rating.

        The official forward counts positions plainly, 0 to L-1 on all three axes of the rotary embedding, where
        stock Qwen2-VL would give image tokens their row and column.
        """
        ids = tokens["input_ids"]
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
        hidden = self.model(
            input_ids=ids,
            attention_mask=tokens["attention_mask"],
            position_ids=positions,
            pixel_values=pixels.to(self.model.dtype),
            image_grid_thw=grid,
            use_cache=False,
        ).last_hidden_state
        return self.rm_head(hidden[ids == self.reward_token_id].float())


class HPSv3(Reward):
    """HPSv3 from a Qwen2-VL folder that holds the reward's weights."""

    name: ClassVar[str] = "hpsv3"
    quantity: ClassVar[str] = "mean of the rating's distribution, about -5 to 15"

    def __init__(
        self,
        rater: Rater,
        tokenizer: PreTrainedTokenizerBase,
        processor: Qwen2VLImageProcessor,
        instruction: Instruction,
    ) -> None:
        """Score with a frozen `rater`."""
        self.rater = rater.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.processor = processor
        self.instruction = instruction

    @classmethod
    def load(cls, path: Path, device: torch.device) -> HPSv3:
        """Load from a folder with Qwen2-VL's configuration, tokenizer, processor and the weights.

        Raises:
            UserError: The weights are missing or damaged, or the official instruction is not at hand.
        """
        verify(path)
        instruction = read_instruction(path)
        state = rename(read_state_dict(path / WEIGHTS))
        try:
            config = Qwen2VLConfig.from_pretrained(path, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            processor = Qwen2VLImageProcessor.from_pretrained(path, local_files_only=True)
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: no Qwen2-VL folder: {error}") from error
        tokenizer.add_special_tokens({"extra_special_tokens": [REWARD_TOKEN]})
        config.text_config.vocab_size = len(state["model.language_model.embed_tokens.weight"])
        rater = Rater(config, tokenizer.convert_tokens_to_ids(REWARD_TOKEN))
        load_strictly(rater, state, path / WEIGHTS)
        trunk = state["model.language_model.norm.weight"].dtype
        rater.model.to(torch.bfloat16 if trunk == torch.bfloat16 else torch.float32)
        return cls(rater.to(device), tokenizer, processor, instruction)

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The rating's mean."""
        height, width = self._target(*images.shape[-2:])
        return self.rate(resize(images.float(), height, width), prompts)[:, 0]

    @torch.no_grad()
    def score_pil(
        self, images: Sequence[Image.Image], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The official path: Pillow's bicubic on 8-bit images."""
        scores = torch.empty(len(images))
        for (width, height), members in by_size(images).items():
            target = self._target(height, width)[::-1]
            batch = [
                to_tensor(images[i].convert("RGB").resize(target, Image.Resampling.BICUBIC))
                for i in members
            ]
            rated = self.rate(torch.stack(batch), [prompts[i] for i in members])
            scores[members] = rated[:, 0].cpu()
        return scores

    def rate(
        self, images: Float[Tensor, "batch 3 h w"], prompts: Sequence[str]
    ) -> Float[Tensor, "batch 2"]:
        """Mean and log sigma of the rating of images in [0, 1] that have the model's size."""
        device = self.rater.model.device
        # The processor divides by 255, so floats keep their gradient and their precision.
        prepared = self.processor(list(images * 255), do_resize=False, return_tensors="pt")
        grid = prepared["image_grid_thw"]
        patches = int(grid[0].prod()) // self.processor.merge_size**2
        texts = [self._text(prompt, patches) for prompt in prompts]
        tokens = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        pixels = prepared["pixel_values"].to(device)
        return self.rater(tokens.to(device), pixels, grid.to(device))

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Qwen2-VL's smart resize: sides divisible by a merged patch, about the right area."""
        size = self.processor.size
        return smart_resize(
            height,
            width,
            factor=self.processor.patch_size * self.processor.merge_size,
            min_pixels=self.instruction.pixels or size["shortest_edge"],
            max_pixels=self.instruction.pixels or size["longest_edge"],
        )

    def _text(self, prompt: str, patches: int) -> str:
        content = [{"type": "image"}, {"type": "text", "text": self.instruction.fill(prompt)}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return text.replace(IMAGE_TOKEN, IMAGE_TOKEN * patches)


def rename(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """From the official checkpoint's names to those of `Rater`; the language head is not needed."""
    prefixes = {"visual.": "model.visual.", "model.": "model.language_model.", "rm_head.": "rm_head."}
    return OrderedDict(
        (target + name.removeprefix(source), tensor)
        for name, tensor in state.items()
        for source, target in prefixes.items()
        if name.startswith(source)
    )
