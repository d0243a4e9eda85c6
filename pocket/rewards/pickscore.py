"""The pocket PickScore: a transformers CLIPModel whose patches are the grid's cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from leapalign.rewards.images import normalize
from leapalign.rewards.pickscore import WEIGHTS
from pocket.rewards.grid import ANSWERS, PER_SHAPE, Answers
from pocket.rewards.hpsv2 import half_precision, save_tensors
from pocket.world import CELL, SHAPES, SIZE

EMBEDDING, CONTEXT = 256, 16
VISION = {
    "image_size": SIZE,
    "patch_size": CELL,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
TEXT = {
    "max_position_embeddings": CONTEXT,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


class PickScoreStudent(nn.Module):
    """The model in training, with a head that answers for the grid's cells."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        """Random weights (seed torch first); it reads with the base model's CLIP tokenizer."""
        super().__init__()
        self.tokenizer = tokenizer
        special = {
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
            "vocab_size": len(self.tokenizer),
        }
        config = CLIPConfig(
            text_config=TEXT | special,
            vision_config=VISION,
            projection_dim=EMBEDDING,
            logit_scale_init_value=math.log(100),
        )
        self.clip = CLIPModel(config)
        self.cells = nn.Linear(VISION["hidden_size"], ANSWERS)
        self.shapes = nn.Linear(EMBEDDING, PER_SHAPE * len(SHAPES))

    def look(
        self, images: Float[Tensor, "batch 3 64 64"]
    ) -> tuple[Float[Tensor, "batch dim"], Answers]:
        """Normalised image embeddings, and what the dense lessons ask."""
        seen = self.clip.vision_model(normalize(images))
        features = F.normalize(self.clip.visual_projection(seen.pooler_output), dim=-1)
        return features, Answers(
            self.cells(seen.last_hidden_state[:, 1:]), self.shapes(EMBEDDING**0.5 * features)
        )

    def read(self, prompts: Sequence[str]) -> Float[Tensor, "prompts dim"]:
        """Normalised text embeddings."""
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
        return F.normalize(self.clip.get_text_features(**tokens).pooler_output, dim=-1)

    def save(self, folder: Path) -> None:
        """Write a CLIPModel folder with its processor, in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        self.clip.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        size = {"height": SIZE, "width": SIZE}
        CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=size).save_pretrained(folder)
        save_tensors(half_precision(self.clip.state_dict()), folder / WEIGHTS)
