"""HPSv3 (Ma et al., 2025): a Qwen2-VL that reads image and prompt and rates them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int
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
from leapalign.rewards.images import resize, to_rgb, to_tensor
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

    def see(self, pixels: Tensor, grid: Tensor) -> Float[Tensor, "tokens width"]:
        """The tokens of all images, one after the other."""
        return self.model.visual(pixels.to(self.model.dtype), grid_thw=grid).pooler_output

    def forward(
        self, ids: Int[Tensor, "batch length"], seen: Float[Tensor, "tokens width"]
    ) -> Float[Tensor, "batch 2"]:
        """Mean and log sigma of each rating, from texts that are padded on the right.

        The official forward counts positions plainly, 0 to L-1 on all three axes of the rotary
        embedding, where stock Qwen2-VL would give image tokens their row and column.
        """
        words = self.model.language_model.embed_tokens(ids)
        is_image = (ids == self.model.config.image_token_id)[..., None]
        hidden = self.model.language_model(
            inputs_embeds=words.masked_scatter(is_image, seen.to(words.dtype)),
            # No mask: each token sees those before it, and padding comes after all that is read.
            attention_mask=None,
            position_ids=torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape),
            use_cache=False,
        ).last_hidden_state
        return self.rm_head(hidden[ids == self.reward_token_id].float())


class HPSv3(Reward):
    """HPSv3 from a Qwen2-VL folder that holds the reward's weights."""

    name: ClassVar[str] = "hpsv3"
    quantity: ClassVar[str] = "mean of the rating's distribution, about -5 to 15"
    range: ClassVar[tuple[float, float]] = (-50.0, 50.0)  # no bound of its own; far off is damage
    batch: ClassVar[int] = 8  # of some 1,200 tokens each

    def __init__(
        self,
        rater: Rater,
        tokenizer: PreTrainedTokenizerBase,
        processor: Qwen2VLImageProcessor,
        instruction: Instruction,
    ) -> None:
        """Score with a frozen `rater`."""
        self.rater = rater.eval().requires_grad_(False)
        self.device = rater.model.device
        self.tokenizer = tokenizer
        self.processor = processor
        self.instruction = instruction

    @classmethod
    def load(cls, path: Path, device: torch.device) -> HPSv3:
        """Load from a folder with Qwen2-VL's configuration, tokenizer, processor and the weights.

        Raises:
            UserError: The weights are missing or damaged, or the official instruction is not here.
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

    def transform(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 H W"]:
        """Antialiased bicubic resize to the model's size; still in [0, 1], but for overshoot."""
        return resize(images, *self._target(*images.shape[-2:]))

    def prepare(self, image: Image.Image) -> Float[Tensor, "3 H W"]:
        """Pillow's bicubic resize on 8-bit pixels."""
        size = self._target(image.height, image.width)[::-1]
        return to_tensor(to_rgb(image).resize(size, Image.Resampling.BICUBIC))

    def rate(
        self, prepared: Float[Tensor, "batch 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The rating's mean."""
        return self.rating(prepared, prompts)[:, 0]

    def rating(
        self, images: Float[Tensor, "batch 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, "batch 2"]:
        """Mean and log sigma of the rating of images in [0, 1] that have the model's size."""
        return self.rater(self.tokenize(images.shape[-2:], prompts), self.see(images))

    def see(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "tokens width"]:
        """The images' tokens, one image after the other."""
        # The processor divides by 255, so floats keep their gradient and their precision.
        prepared = self.processor(list(images * 255), do_resize=False, return_tensors="pt")
        return self.rater.see(
            prepared["pixel_values"].to(self.device), prepared["image_grid_thw"].to(self.device)
        )

    def tokenize(self, size: Sequence[int], prompts: Sequence[str]) -> Int[Tensor, "batch length"]:
        """Chat and instruction for each prompt, with room for a (height, width) `size` image."""
        side = self.processor.patch_size * self.processor.merge_size
        room = IMAGE_TOKEN * (size[0] // side * (size[1] // side))
        texts = [self._chat(prompt).replace(IMAGE_TOKEN, room) for prompt in prompts]
        tokens = self.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        return tokens["input_ids"].to(self.device)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        """Qwen2-VL's smart resize: sides divisible by a merged patch, about the right area."""
        size = self.processor.size
        try:
            return smart_resize(
                height,
                width,
                factor=self.processor.patch_size * self.processor.merge_size,
                min_pixels=self.instruction.pixels or size["shortest_edge"],
                max_pixels=self.instruction.pixels or size["longest_edge"],
            )
        except ValueError as error:  # more than 200 times as long as wide
            raise UserError(f"{self.name}: {width}x{height} pixels: {error}") from None

    def _chat(self, prompt: str) -> str:
        for token in (REWARD_TOKEN, IMAGE_TOKEN):
            if token in prompt:
                raise UserError(
                    f"{self.name}: the prompt contains {token}, which the model reads as a place "
                    "for a rating or an image, not as text; take it out"
                )
        content = [{"type": "image"}, {"type": "text", "text": self.instruction.fill(prompt)}]
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )


def rename(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """From the official checkpoint's names to those of `Rater`; the language head is not needed."""
    prefixes = {
        "visual.": "model.visual.",
        "model.": "model.language_model.",
        "rm_head.": "rm_head.",
    }
    return OrderedDict(
        (target + name.removeprefix(source), tensor)
        for name, tensor in state.items()
        for source, target in prefixes.items()
        if name.startswith(source)
    )
