"""Encodings of prompts: each computed once and alone, and kept on disk; then the encoders go.

FLUX.1-dev's text encoders take 9.5 GB, which a training has no room for, and a prompt's encoding
4 MB, of which a training draws thousands. So the encoders are loaded when an encoding is missing,
and released; the encodings are read from the cache when a batch needs them.
"""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from leapalign import cache

DIGEST = "sha256"


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """Encoded prompts.

    Args:
        tokens: token embeddings.
        pooled: pooled embedding; of no width where the model takes none.
    """

    tokens: Float[Tensor, "batch tokens width"]
    pooled: Float[Tensor, "batch pooled"]

    def __getitem__(self, rows: Tensor | slice) -> EncodedPrompts:
        """The prompts of these rows."""
        return EncodedPrompts(self.tokens[rows], self.pooled[rows])

    def to(self, device: torch.device) -> EncodedPrompts:
        """The same on another device."""
        return EncodedPrompts(self.tokens.to(device), self.pooled.to(device))


def joined(parts: Sequence[EncodedPrompts]) -> EncodedPrompts:
    """All the parts' prompts in one batch."""
    return EncodedPrompts(
        torch.cat([part.tokens for part in parts]), torch.cat([part.pooled for part in parts])
    )


Encoder = Callable[[str], EncodedPrompts]
"""Encodes one prompt."""


class Encodings:
    """One model's encodings of prompts.

    Each prompt is encoded alone: the last bits of a batch's encodings depend on what else is in it,
    and a resumed run meets its prompts in other company than an unbroken one.
    """

    def __init__(
        self, folder: Path, encoder: Callable[[], AbstractContextManager[Encoder]]
    ) -> None:
        """Keep encodings in `folder`; `encoder` loads the text encoders and releases them again.

        Args:
            folder: for these encoders alone; see `leapalign.cache`.
            encoder: makes the context in which prompts can be encoded.
        """
        self._folder = folder
        self._encoder = encoder
        self._unwritten: dict[str, EncodedPrompts] = {}

    def prefetch(self, prompts: Iterable[str]) -> None:
        """Compute the encodings that are missing, so that the encoders are loaded only once."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if not self._has(prompt)]
        if missing:
            sys.stderr.write(f"encoding {len(missing)} prompts\n")
            deque(self._compute(missing), maxlen=0)

    def __call__(self, prompts: Sequence[str]) -> EncodedPrompts:
        """The prompts' encodings in one batch, on the CPU."""
        found = {p: encoded for p in dict.fromkeys(prompts) if (encoded := self._find(p))}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        if missing:
            found.update(self._compute(missing))
        return joined([found[prompt] for prompt in prompts])

    def path(self, prompt: str) -> Path:
        """The file of a prompt's encoding."""
        return self._folder / f"{hashlib.sha256(prompt.encode()).hexdigest()}.safetensors"

    def _has(self, prompt: str) -> bool:
        return prompt in self._unwritten or self.path(prompt).is_file()

    def _find(self, prompt: str) -> EncodedPrompts | None:
        return self._unwritten.get(prompt) or _read(self.path(prompt))

    def _compute(self, prompts: Sequence[str]) -> Iterator[tuple[str, EncodedPrompts]]:
        """Encode prompts and keep them, in memory where it cannot be on disk."""
        with self._encoder() as encode:
            for prompt in prompts:
                encoded = encode(prompt).to(torch.device("cpu"))
                if not self._write(prompt, encoded):
                    self._unwritten[prompt] = encoded
                yield prompt, encoded

    def _write(self, prompt: str, encoded: EncodedPrompts) -> bool:
        tensors = {"tokens": encoded.tokens, "pooled": encoded.pooled}
        metadata = {DIGEST: _digest(tensors)}
        return cache.keep(self.path(prompt), lambda draft: save_file(tensors, draft, metadata))


def _read(path: Path) -> EncodedPrompts | None:
    """What a file holds; None where it is missing, cannot be read or is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            whole = (file.metadata() or {}).get(DIGEST) == _digest(tensors)
    except (OSError, SafetensorError):
        return None
    return EncodedPrompts(**tensors) if whole else None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(tensors[name].view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
