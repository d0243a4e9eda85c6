"""A byte-level BPE small enough for a pocket model: the world's words, and still any text."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pocket.world import all_prompts

VOCABULARY = 384


def train_tokenizer(special: Sequence[str], *texts: str) -> Tokenizer:
    """Learn from the world's prompts and further texts; the special tokens come last, in order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    prompts = [metadata["prompt"] for metadata in all_prompts()]
    tokenizer.train_from_iterator([*prompts, *texts], trainer)
    tokenizer.add_special_tokens(list(special))
    return tokenizer
