"""ImageReward (Xu et al., 2023): BLIP reads image and prompt together; a linear head rates them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
)

from leapalign.errors import UserError
from leapalign.rewards.images import normalize, shorten, to_tensor
from leapalign.rewards.reward import Reward
from leapalign.rewards.weights import load_strictly, read_state_dict, verify

WEIGHTS, CONFIG = "ImageReward.pt", "med_config.json"
VOCABULARY = "vocab.txt"  # of bert-base-uncased; the official release leaves it there
MAX_TOKENS = 35
ADDED = ("[DEC]", "[ENC]")  # BLIP's own tokens, at the vocabulary's end
HEAD_WIDTH = 64  # of each attention head in BLIP's vision towers, the base and the large one

# The raw ratings' mean and deviation over the authors' test set, of which scores are rid.
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072

TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "layer_norm_eps",
    "hidden_act",
)

# The official checkpoint's names, and transformers' for the same tensors.
RENAMED = {
    r"^blip\.text_encoder\.": "text.",
    r"^mlp\.layers\.": "head.",
    r"^blip\.visual_encoder\.cls_token": "vision.embeddings.class_embedding",
    r"^blip\.visual_encoder\.pos_embed": "vision.embeddings.position_embedding",
    r"^blip\.visual_encoder\.patch_embed\.proj": "vision.embeddings.patch_embedding",
    r"^blip\.visual_encoder\.norm": "vision.post_layernorm",
    r"^blip\.visual_encoder\.blocks": "vision.encoder.layers",
    r"(layers\.\d+)\.norm": r"\1.layer_norm",
    r"(layers\.\d+)\.attn\.qkv": r"\1.self_attn.qkv",
    r"(layers\.\d+)\.attn\.proj": r"\1.self_attn.projection",
}
# BLIP's contrastive projections, which ImageReward does not use, and constants.
UNUSED = re.compile(r"^blip\.(vision|text)_proj\.|position_ids$")


class Rater(nn.Module):
    """BLIP's two towers, and the head on the text's first token."""

    def __init__(self, vision: BlipVisionConfig, text: BlipTextConfig) -> None:
        """Build it without weights; the head has the official sizes and no activations."""
        super().__init__()
        self.vision = BlipVisionModel(vision)
        self.text = BlipTextModel(text, add_pooling_layer=False)
        self.head = nn.Sequential(
            nn.Linear(text.hidden_size, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(
        self, pixels: Float[Tensor, "batch 3 size size"], tokens: Mapping[str, Tensor]
    ) -> Float[Tensor, " batch"]:
        """The raw rating of each pair; the text's layers attend to the image's patches."""
        read = self.text(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            encoder_hidden_states=self.vision(pixels).last_hidden_state,
        ).last_hidden_state
        return self.head(read[:, 0].float())[:, 0]


class ImageReward(Reward):
    """ImageReward from a folder with the official checkpoint and BERT's vocabulary."""

    name: ClassVar[str] = "imagereward"
    quantity: ClassVar[str] = "rating in deviations from the authors' mean, about -2.3 to 2"
    range: ClassVar[tuple[float, float]] = (-20.0, 20.0)  # no bound of its own; far off is damage

    def __init__(self, rater: Rater, tokenizer: BertTokenizer) -> None:
        """Score with a frozen `rater`."""
        self.rater = rater.eval().requires_grad_(False)
        self.device = rater.vision.device
        self.size = rater.vision.config.image_size
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, path: Path, device: torch.device) -> ImageReward:
        """Load from a folder with ImageReward.pt, med_config.json and BERT's vocab.txt.

        Raises:
            UserError: A file is missing, damaged or of another model.
        """
        verify(path)
        state = rename(read_state_dict(path / WEIGHTS))
        try:
            fields = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            vision = vision_config(state)
            text = BlipTextConfig(
                encoder_hidden_size=vision.hidden_size,
                bos_token_id=fields["vocab_size"] - len(ADDED),
                **{name: fields[name] for name in TEXT_FIELDS},
            )
        except (KeyError, ValueError, OSError) as error:
            raise UserError(f"{path}: no ImageReward folder: {error}") from error
        if not (path / VOCABULARY).is_file():
            raise UserError(f"{path / VOCABULARY}: missing; it is that of bert-base-uncased")
        rater = Rater(vision, text)
        load_strictly(rater, state, path / WEIGHTS)
        tokenizer = BertTokenizer.from_pretrained(path, do_lower_case=True, local_files_only=True)
        tokenizer.add_special_tokens({"extra_special_tokens": list(ADDED)})
        return cls(rater.to(device), tokenizer)

    def transform(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 size size"]:
        """The official steps on floats: shortest edge, centre crop (rounded), normalisation."""
        return normalize(functional.center_crop(shorten(images, self.size), [self.size]))

    def prepare(self, image: Image.Image) -> Float[Tensor, "3 size size"]:
        """The official order: resized and cropped in the file's own mode, only then RGB."""
        bicubic = functional.InterpolationMode.BICUBIC
        resized = functional.resize(image, [self.size], interpolation=bicubic)
        return normalize(to_tensor(functional.center_crop(resized, [self.size]))[None])[0]

    def rate(
        self, prepared: Float[Tensor, "batch 3 size size"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The standardised rating."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        return (self.rater(prepared, tokens.to(self.device)) - MEAN) / DEVIATION


def vision_config(state: Mapping[str, Tensor]) -> BlipVisionConfig:
    """The vision tower's sizes, which only its weights tell.

    Raises:
        KeyError: There is no vision tower in `state`.
    """
    width, _, patch, _ = state["vision.embeddings.patch_embedding.weight"].shape
    patches = state["vision.embeddings.position_embedding"].shape[1] - 1
    layers = {name.split(".")[3] for name in state if name.startswith("vision.encoder.layers.")}
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["vision.encoder.layers.0.mlp.fc1.bias"]),
        num_hidden_layers=len(layers),
        num_attention_heads=width // HEAD_WIDTH,
        image_size=round(patches**0.5) * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From the official checkpoint's names to those of `Rater`."""
    renamed = {}
    for name, tensor in state.items():
        if not UNUSED.search(name):
            for pattern, replacement in RENAMED.items():
                name = re.sub(pattern, replacement, name)
            renamed[name] = tensor
    return renamed
