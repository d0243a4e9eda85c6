"""Tiny random checkpoints in the official file formats, the same wherever they are made.

The official model tells the names and shapes of its tensors; `fill` makes their values from a
generator whose stream numpy has frozen. So no weights need to be kept, only the shapes.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

Shapes = Mapping[str, Sequence[int]]

MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]

HPSV2 = {
    "embed_dim": 32,
    "vision_cfg": {
        "image_size": 224,
        "patch_size": 32,
        "layers": 2,
        "width": 64,
        "head_width": 32,
    },
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}
CLIP_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
PICKSCORE = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 32,
    "text_config": {
        **CLIP_TOWER,
        "model_type": "clip_text_model",
        "hidden_act": "gelu",
        "num_attention_heads": 2,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
    },
    "vision_config": {
        **CLIP_TOWER,
        "model_type": "clip_vision_model",
        "hidden_act": "gelu",
        "num_attention_heads": 2,
        "image_size": 224,
        "patch_size": 32,
    },
}
MED: dict[str, Any] = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 48,
    "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 64,
    "model_type": "bert",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 0,
    "add_type_embeddings": False,
    "type_vocab_size": 2,
    "encoder_width": 128,
    "add_cross_attention": True,
}
QWEN_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_PROCESSOR = {
    "image_mean": MEAN,
    "image_std": STD,
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "merge_size": 2,
    "temporal_patch_size": 2,
}


def fill(shapes: Shapes) -> dict[str, Tensor]:
    """Values for tensors of these names and shapes: about unit gain, norms near one."""
    return {name: _tensor(name, shape) for name, shape in sorted(shapes.items())}


def _tensor(name: str, shape: Sequence[int]) -> Tensor:
    if name.endswith("position_ids"):
        return torch.arange(shape[-1])[None]
    noise = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    if name == "logit_scale":
        noise = np.array(np.log(100.0))
    elif len(shape) < 2:
        noise = 0.1 * noise + (name.endswith("weight"))
    else:
        noise /= np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(noise.astype(np.float32))


def write_hpsv2(folder: Path, shapes: Shapes) -> None:
    """The official pickle, and open_clip's own local format beside it."""
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic"}
    _json(folder / "open_clip_config.json", {"model_cfg": HPSV2, "preprocess_cfg": preprocess})
    save_file(fill(shapes), folder / "open_clip_model.safetensors")
    torch.save({"state_dict": fill(shapes)}, folder / "HPS_v2.1_compressed.pt")


def write_pickscore(folder: Path, shapes: Shapes) -> None:
    """A CLIPModel folder with the processor that PickScore names, in the hub's old format."""
    _json(folder / "config.json", PICKSCORE)
    save_file(fill(shapes), folder / "model.safetensors", metadata={"format": "pt"})
    sizes = {"size": 224, "crop_size": 224, "do_resize": True, "do_center_crop": True}
    normal = {"do_normalize": True, "image_mean": MEAN, "image_std": STD, "resample": 3}
    kind = {"feature_extractor_type": "CLIPFeatureExtractor"}
    _json(folder / "preprocessor_config.json", {**sizes, **normal, **kind})
    merges = _clip_merges()
    letters = sorted(_letters().values(), key=ord)
    letters = [*(x for x in letters if ord(x) < 256), *(x for x in letters if ord(x) >= 256)]
    words = [*letters, *(x + "</w>" for x in letters), *("".join(pair) for pair in merges)]
    ends = ["<|startoftext|>", "<|endoftext|>"]
    _bpe(folder, [*words, *ends], merges)
    special = {"bos_token": ends[0], "eos_token": ends[1], "unk_token": ends[1]}
    _json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "CLIPTokenizer", **special, "pad_token": ends[1]},
    )


def write_hpsv3(folder: Path, shapes: Shapes, instruction: str) -> None:
    """A Qwen2-VL folder in the hub's old format, with the reward's weights."""
    write_qwen(folder, instruction)
    save_file(fill(shapes), folder / "HPSv3.safetensors", metadata={"format": "pt"})


def write_qwen(folder: Path, instruction: str) -> int:
    """All but the weights; returns the vocabulary's size with the reward token."""
    merges = _word_merges(instruction)
    letters = list(_letters().values())
    words = [*letters, *dict.fromkeys("".join(pair) for pair in merges)]
    _bpe(folder, words, merges)
    ids = {token: len(words) + i for i, token in enumerate(QWEN_TOKENS)}
    added = {
        str(i): {
            "content": token,
            "special": True,
            **dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False),
        }
        for token, i in ids.items()
    }
    tokenizer = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": list(QWEN_TOKENS[1:]),
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "chat_template": CHAT,
        "model_max_length": 32768,
    }
    _json(folder / "tokenizer_config.json", tokenizer)
    _json(folder / "chat_template.json", {"chat_template": CHAT})
    _json(folder / "preprocessor_config.json", QWEN_PROCESSOR)
    size = len(words) + len(QWEN_TOKENS) + 1
    _json(folder / "config.json", _qwen_config(ids, size))
    return size


def _qwen_config(ids: Mapping[str, int], size: int) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_sliding_window": False,
        "vocab_size": size,
        "eos_token_id": ids["<|im_end|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 2,
            "embed_dim": 64,
            "hidden_size": 64,
            "in_chans": 3,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }


def write_imagereward(folder: Path, shapes: Shapes) -> None:
    """The official checkpoint's files, and a small vocabulary in BERT's format."""
    torch.save(fill(shapes), folder / "ImageReward.pt")
    write_bert(folder)


def write_bert(folder: Path) -> None:
    """All but the weights: med_config.json and vocab.txt."""
    letters = [chr(i) for i in range(33, 127) if not chr(i).isupper()] + list("é的猫½")
    words = ["red", "cat", "photo", "the", "##at", "##s", "##ing", "portrait"]
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    lines = [*specials, *letters, *("##" + letter for letter in letters), *words]
    (folder / "vocab.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _json(folder / "med_config.json", {**MED, "vocab_size": len(lines) + 2})  # [DEC] and [ENC]


def _bpe(folder: Path, words: Iterable[str], merges: Iterable[tuple[str, str]]) -> None:
    _json(folder / "vocab.json", {word: i for i, word in enumerate(words)})
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _letters() -> dict[int, str]:
    """The printable letter that byte-level BPE has for every byte (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def _clip_merges() -> list[tuple[str, str]]:
    """CLIP's own merges, which open_clip ships."""
    package = find_spec("open_clip")
    assert package
    assert package.origin
    file = Path(package.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    pairs = (line.split(" ") for line in lines[1 : 49152 - 256 - 2 + 1])
    return [(first, second) for first, second in pairs]


def _word_merges(text: str) -> list[tuple[str, str]]:
    """Merges that build each word of `text` letter by letter, so that it takes few tokens."""
    letters = _letters()
    pairs: dict[tuple[str, str], None] = {}
    for word in text.replace("<|Reward|>", "").split():
        for start in ("", " "):
            spelt = [letters[byte] for byte in (start + word).encode()]
            for end in range(1, len(spelt)):
                pairs[("".join(spelt[:end]), spelt[end])] = None
    return list(pairs)


def _json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
