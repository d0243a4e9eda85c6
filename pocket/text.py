"""The pocket text encoders: a tiny T5 and a tiny CLIP, trained to parse the world's prompts.

FLUX gives every text token the same rotary position, so the T5 outputs must carry the word order
themselves. Both encoders learn a parse: which objects, colours, count and relation a prompt names.
Every T5 token must answer (padding too, for FLUX masks nothing), and CLIP's pooled output.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from pocket.world import COLORS, OPPOSITE, SHAPES, Metadata, all_prompts

WIDTH = 64
TOKENS = 16
STEPS = 600
BATCH = 128
PEAK_RATE = 2e-3
FIELDS = (7, 7, 7, 7, 5, 5)
"""Classes of each field of a parse: two shapes, two colours, the count, the relation; 0 is none."""

log = logging.getLogger(__name__)


def parse(metadata: Metadata) -> list[int]:
    """The answer to learn, in the prompt's order: two shapes, two colours, count, relation."""
    clauses = list(metadata["include"])
    relation = 0
    if metadata["tag"] == "position":
        relation = 1 + list(OPPOSITE).index(clauses[1]["position"][0])
        clauses.reverse()
    shapes = [1 + SHAPES.index(clause["class"]) for clause in clauses]
    colors = [
        1 + list(COLORS).index(clause["color"]) if "color" in clause else 0 for clause in clauses
    ]
    padding = [0] * (2 - len(clauses))
    return [*shapes, *padding, *colors, *padding, clauses[0]["count"] - 1, relation]


def make_t5_tokenizer(prompts: Sequence[str]) -> T5TokenizerFast:
    """A unigram tokenizer: the prompts' words, and letters for anything else."""
    words = sorted({word for prompt in prompts for word in prompt.split()})
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -8.0)]
    vocab += [(f"▁{word}", -2.0) for word in words] + [(letter, -10.0) for letter in letters]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=TOKENS)


def make_clip_tokenizer(prompts: Sequence[str]) -> CLIPTokenizer:
    """A byte-level BPE tokenizer whose merges make every word of the prompts one token."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        show_progress=False,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        # Named beforehand: the trainer would number last letters as it meets them in a hash map,
        # and merges that are equally frequent come in the order of these numbers.
        special_tokens=[f"{letter}</w>" for letter in sorted(alphabet)],
    )
    bpe.train_from_iterator(prompts, trainer)
    model = json.loads(bpe.to_str())["model"]
    pieces = [*sorted(model["vocab"], key=model["vocab"].get), "<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge) for merge in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def make_t5(tokenizer: T5TokenizerFast) -> T5EncoderModel:
    """An untrained T5 encoder."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=WIDTH,
            d_kv=16,
            d_ff=2 * WIDTH,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            tie_word_embeddings=False,
        )
    )


def make_clip(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text model."""
    return CLIPTextModel(clip_config(tokenizer, WIDTH))


def clip_config(tokenizer: CLIPTokenizer, width: int) -> CLIPTextConfig:
    """Two layers of this width."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def token_ids(
    tokenizer: T5TokenizerFast | CLIPTokenizer, prompts: Sequence[str]
) -> Int[Tensor, "b tokens"]:
    """Token ids, padded to `TOKENS` as FluxPipeline pads them."""
    batch = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=TOKENS,
        truncation=True,
        return_tensors="pt",
    )
    return batch.input_ids


def t5_states(t5: T5EncoderModel, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b n width"]:
    """What FLUX reads of the T5: every token's state, nothing masked."""
    return t5(ids)[0]


def clip_pooled(clip: CLIPTextModel, ids: Int[Tensor, "b n"]) -> Float[Tensor, "b width"]:
    """What FLUX reads of CLIP: the pooled state."""
    return clip(ids).pooler_output


class Lesson:
    """The world's prompts and their parses; every task is drawn equally often."""

    def __init__(self) -> None:
        metadata = all_prompts()
        self.prompts = [line["prompt"] for line in metadata]
        self.answers = torch.tensor([parse(line) for line in metadata])
        tags = np.array([line["tag"] for line in metadata])
        weights = np.array([1 / (tags == tag).sum() for tag in tags])
        self.shares = weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> Int[Tensor, " batch"]:
        """Rows of a random batch."""
        return torch.from_numpy(rng.choice(len(self.prompts), BATCH, p=self.shares))


def train_text(
    seed: int, steps: int = STEPS
) -> tuple[T5TokenizerFast, T5EncoderModel, CLIPTokenizer, CLIPTextModel]:
    """Build both tokenizers and train both encoders to parse."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    lesson = Lesson()
    prompts = lesson.prompts
    t5_tokenizer, clip_tokenizer = make_t5_tokenizer(prompts), make_clip_tokenizer(prompts)
    t5, clip = make_t5(t5_tokenizer), make_clip(clip_tokenizer)
    t5_ids, clip_ids = token_ids(t5_tokenizer, prompts), token_ids(clip_tokenizer, prompts)
    heads = nn.ModuleList(nn.Linear(WIDTH, sum(FIELDS)) for _ in range(2))
    parameters = [*t5.parameters(), *clip.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, PEAK_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, steps)
    for step in range(steps):
        rows = lesson.draw(rng)
        by_token = heads[0](t5_states(t5, t5_ids[rows]))
        by_prompt = heads[1](clip_pooled(clip, clip_ids[rows]))
        wanted = lesson.answers[rows]
        token_loss = parse_loss(by_token, wanted[:, None].expand(-1, TOKENS, -1))
        prompt_loss = parse_loss(by_prompt, wanted)
        (token_loss + prompt_loss).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            log.info("text %d t5 %.4f clip %.4f", step, token_loss.item(), prompt_loss.item())
    for model in (t5, clip):
        model.eval().requires_grad_(False)
    return t5_tokenizer, t5, clip_tokenizer, clip


def train_clip(
    tokenizer: CLIPTokenizer, width: int, seed: int, steps: int = STEPS
) -> CLIPTextModelWithProjection:
    """Train a CLIP text encoder whose projected output answers the parse, as SD3 has two."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    lesson = Lesson()
    clip = CLIPTextModelWithProjection(clip_config(tokenizer, width))
    head = nn.Linear(width, sum(FIELDS))
    ids = token_ids(tokenizer, lesson.prompts)
    optimizer = torch.optim.AdamW([*clip.parameters(), *head.parameters()], PEAK_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, steps)
    for step in range(steps):
        rows = lesson.draw(rng)
        loss = parse_loss(head(clip(ids[rows]).text_embeds), lesson.answers[rows])
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            log.info("text %d clip %.4f", step, loss.item())
    return clip.eval().requires_grad_(False)


def parse_loss(logits: Float[Tensor, "... classes"], answers: Int[Tensor, "... fields"]) -> Tensor:
    """The mean cross-entropy over the fields."""
    parts = logits.split(FIELDS, dim=-1)
    losses = [
        functional.cross_entropy(part.flatten(0, -2), answers[..., i].flatten())
        for i, part in enumerate(parts)
    ]
    return torch.stack(losses).mean()
