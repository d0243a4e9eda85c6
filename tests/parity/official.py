"""Run the authors' own code on tiny checkpoints and keep what it says.

    python -m tests.parity.official METRIC OUT.json

This runs inside the official packages' environment (`python -m tests.parity` makes it), never in
the suite's, and imports nothing of the suite but the cases and the checkpoints.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image

from tests.parity import checkpoints
from tests.parity.cases import Case, cases, digest

Score = Callable[[Image.Image, str], float]
Shapes = dict[str, list[int]]


def bare(*packages: str) -> None:
    """Register packages without running their __init__, which wants what scoring does not need."""
    for name in packages:
        found = find_spec(name)
        assert found
        module = ModuleType(name)
        module.__path__ = list(found.submodule_search_locations or ())
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def absent(name: str, **attributes: object) -> None:
    """Stand in for a module that is imported for training only."""
    module = ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


def shapes_of(state: Mapping[str, torch.Tensor]) -> Shapes:
    """Names and shapes of a state dict's tensors."""
    return {name: list(tensor.shape) for name, tensor in state.items()}


def hpsv2(folder: Path) -> tuple[Shapes, Score]:
    """`hpsv2.img_score.score`, with a tiny model in place of ViT-H-14."""
    absent("turtle", forward=None)  # an editor's stray import
    bare("hpsv2")
    factory = importlib.import_module("hpsv2.src.open_clip.factory")
    official = importlib.import_module("hpsv2.img_score")
    (folder / "models").mkdir()
    (folder / "models/tiny.json").write_text(json.dumps(checkpoints.HPSV2))
    factory.add_model_config(folder / "models")
    model, _, preprocess = factory.create_model_and_transforms(
        "tiny", precision="amp", light_augmentation=True, output_dict=True
    )
    shapes = shapes_of(model.state_dict())
    checkpoints.write_hpsv2(folder, shapes)
    official.model_dict.update(model=model, preprocess_val=preprocess)
    weights = str(folder / "HPS_v2.1_compressed.pt")
    return shapes, lambda image, prompt: float(official.score(image, prompt, cp=weights)[0])


def pickscore(folder: Path) -> tuple[Shapes, Score]:
    """The model card's usage: there is no package."""
    from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel

    shapes = shapes_of(CLIPModel(CLIPConfig.from_dict(checkpoints.PICKSCORE)).state_dict())
    checkpoints.write_pickscore(folder, shapes)
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    options = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}

    def score(image: Image.Image, prompt: str) -> float:
        seen = model.get_image_features(**processor(images=image, **options))
        read = model.get_text_features(**processor(text=prompt, **options))
        seen, read = (x / torch.norm(x, dim=-1, keepdim=True) for x in (seen, read))
        return (model.logit_scale.exp() * (read @ seen.T)[0])[0].item()

    return shapes, score


def hpsv3(folder: Path) -> tuple[Shapes, Score]:
    """`hpsv3.inference.HPSv3RewardInferencer` with its own settings, in float32."""
    from transformers import Qwen2VLConfig  # before the stand-ins, of which it would want versions

    absent("fire")
    absent("datasets")
    absent("torch.utils.tensorboard", SummaryWriter=None)
    nothing = lambda *_: None  # noqa: E731
    absent(
        "trl",
        RewardTrainer=object,
        get_kbit_device_map=nothing,
        get_quantization_config=nothing,
    )
    bare("hpsv3")
    collator = importlib.import_module("hpsv3.dataset.data_collator_qwen")
    trainer = importlib.import_module("hpsv3.model.qwen2vl_trainer")
    official = importlib.import_module("hpsv3.inference")
    instruction = collator.INSTRUCTION + collator.prompt_with_special_token
    checkpoints.write_qwen(folder, instruction)
    model = trainer.Qwen2VLRewardModelBT(
        Qwen2VLConfig.from_pretrained(folder), output_dim=2, rm_head_type="ranknet"
    )
    shapes = shapes_of(model.state_dict())
    checkpoints.write_hpsv3(folder, shapes, instruction)
    (folder / "model.safetensors").symlink_to("HPSv3.safetensors")
    (place,) = sys.modules["hpsv3"].__path__
    settings = (Path(place) / "config/HPSv3_7B.yaml").read_text()
    for old, new in {
        "Qwen/Qwen2-VL-7B-Instruct": str(folder),
        "bf16: True": "bf16: False",
        'torch_dtype: "bfloat16"': 'torch_dtype: "float32"',
        "report_to: tensorboard": "report_to: none",
    }.items():
        assert old in settings
        settings = settings.replace(old, new)
    (folder / "tiny.yaml").write_text(settings)
    rater = official.HPSv3RewardInferencer(
        str(folder / "tiny.yaml"), str(folder / "HPSv3.safetensors"), device="cpu"
    )
    return shapes, lambda image, prompt: rater.reward([image], [prompt])[0][0].item()


def imagereward(folder: Path) -> tuple[Shapes, Score]:
    """`ImageReward.ImageReward.score` with smaller towers than ViT-L and BERT-base."""
    bare("ImageReward", "ImageReward.models")
    towers: Any = importlib.import_module("ImageReward.models.BLIP.blip_pretrain")
    vit: Any = importlib.import_module("ImageReward.models.BLIP.vit")
    official: Any = importlib.import_module("ImageReward.ImageReward")
    width = checkpoints.MED["encoder_width"]
    tower = vit.VisionTransformer(224, 16, embed_dim=width, depth=2, num_heads=width // 64)
    towers.create_vit = lambda *_: (tower, width)
    head = official.MLP
    official.MLP = lambda _: head(checkpoints.MED["hidden_size"])
    checkpoints.write_bert(folder)
    (folder / "bert-base-uncased").symlink_to(".")
    with contextlib.chdir(folder):  # where the official code finds "bert-base-uncased"
        model = official.ImageReward(med_config="med_config.json").eval()
    shapes = shapes_of(model.state_dict())
    checkpoints.write_imagereward(folder, shapes)
    model.load_state_dict(torch.load(folder / "ImageReward.pt", weights_only=True))
    return shapes, lambda image, prompt: model.score(prompt, image)


OFFICIAL = {"hpsv2": hpsv2, "pickscore": pickscore, "hpsv3": hpsv3, "imagereward": imagereward}
VERSIONS = {
    "hpsv2": ("hpsv2", "torch", "torchvision", "pillow"),
    "pickscore": ("transformers", "tokenizers", "torch", "pillow"),
    "hpsv3": ("hpsv3", "transformers", "tokenizers", "torch", "torchvision", "pillow"),
    "imagereward": ("image-reward", "timm", "transformers", "torch", "torchvision", "pillow"),
}


def attempt(score: Score, folder: Path, case: Case) -> float | str:
    """The official score, or the kind of the exception."""
    try:
        with Image.open(folder / case.image) as image, torch.no_grad():
            return score(image, case.prompt)
    except (ValueError, RuntimeError, IndexError, OSError) as error:
        return type(error).__name__


def golden(metric: str) -> dict[str, Any]:
    """Everything that a test needs: versions, the checkpoint's shapes, and the scores."""
    with tempfile.TemporaryDirectory() as weights, tempfile.TemporaryDirectory() as images:
        shapes, score = OFFICIAL[metric](Path(weights))
        found = cases(Path(images))
        return {
            "versions": {name: metadata.version(name) for name in VERSIONS[metric]},
            "images": digest(Path(images)),
            "scores": {case.name: attempt(score, Path(images), case) for case in found},
            "tensors": shapes,
        }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.official")
    parser.add_argument("metric", choices=OFFICIAL)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    torch.set_num_threads(1)
    content = golden(arguments.metric)
    shapes = content.pop("tensors")
    lines = json.dumps(content, indent=1, ensure_ascii=False)[:-2]
    arguments.out.write_text(f'{lines},\n "tensors": {json.dumps(shapes)}\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
