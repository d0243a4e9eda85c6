"""The pocket HPSv2.1: an open_clip model whose patches are the grid's cells."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import open_clip
from jaxtyping import Float
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTokenizer

from leapalign.files import replacing
from leapalign.rewards.hpsv2 import CONFIG, WEIGHTS
from leapalign.rewards.images import MEAN, STD, normalize
from pocket.rewards.grid import ANSWERS, PER_SHAPE, Answers
from pocket.world import CELL, SHAPES, SIZE

EMBEDDING, CONTEXT = 256, 16
VISION = {"image_size": SIZE, "patch_size": CELL, "layers": 5, "width": 128, "head_width": 32}
TEXT = {"context_length": CONTEXT, "width": 128, "heads": 4, "layers": 2}


class HPSv2Student(nn.Module):
    """The model in training, with a head that answers for the grid's cells."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        """Random weights (seed torch first); it reads with the base model's CLIP tokenizer."""
        super().__init__()
        self.tokenizer = tokenizer
        self.text_config = TEXT | {"vocab_size": len(self.tokenizer), "hf_tokenizer_name": "."}
        self.clip = open_clip.CLIP(
            EMBEDDING,
            CLIPVisionCfg(**VISION),
            CLIPTextCfg(**self.text_config),
            init_logit_scale=math.log(100),
        )
        self.clip.visual.output_tokens = True
        self.cells = nn.Linear(VISION["width"], ANSWERS)
        self.shapes = nn.Linear(EMBEDDING, PER_SHAPE * len(SHAPES))

    def look(
        self, images: Float[Tensor, "batch 3 64 64"]
    ) -> tuple[Float[Tensor, "batch dim"], Answers]:
        """Normalised image embeddings, and what the dense lessons ask."""
        pooled, tokens = self.clip.visual(normalize(images))
        features = F.normalize(pooled, dim=-1)
        return features, Answers(self.cells(tokens), self.shapes(EMBEDDING**0.5 * features))

    def read(self, prompts: Sequence[str]) -> Float[Tensor, "prompts dim"]:
        """Normalised text embeddings."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=CONTEXT,
            truncation=True,
            return_tensors="pt",
        )
        return self.clip.encode_text(tokens["input_ids"], normalize=True)

    def save(self, folder: Path) -> None:
        """Write an open_clip local-dir folder, in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        model = {"embed_dim": EMBEDDING, "vision_cfg": VISION, "text_cfg": self.text_config}
        preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic"}
        config = {"model_cfg": model, "preprocess_cfg": preprocess}
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        self.tokenizer.save_pretrained(folder)
        save_tensors(half_precision(self.clip.state_dict()), folder / WEIGHTS)


def half_precision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floats in half precision; the rest as it is."""
    return {
        name: tensor.contiguous().half() if tensor.is_floating_point() else tensor.contiguous()
        for name, tensor in state.items()
    }


def save_tensors(state: dict[str, Tensor], path: Path) -> None:
    """Write a .safetensors file, atomically."""
    with replacing(path) as draft:
        save_file(state, draft, metadata={"format": "pt"})
        draft.chmod(0o644)
