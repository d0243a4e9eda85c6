"""Golden colour logits of GenEval's official classifier on a tiny random CLIP, on a CPU.

    python -m tests.parity.geneval.colors CLONE > tests/parity/golden/geneval_colors.npz

CLONE is a clone of the official repository; clip_benchmark 1.4.0 and open_clip must be importable.
The script's data set of crops and its colour function are run as they are. Imports nothing of this
project but the rule for random weights.
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clip_benchmark
import numpy as np
import open_clip
import torch
from clip_benchmark.metrics import zeroshot_classification as zsc
from PIL import Image

from tests.parity.geneval.scenes import LABELS, VISION, scene, tiny_clip

NAMES = {"ImageCrops", "color_classification", "COLORS", "COLOR_CLASSIFIERS"}


def official(script: Path, model: open_clip.CLIP) -> dict[str, Any]:
    """The official script's crops and colour function, over this model."""
    tree = ast.parse(script.read_text())
    tree.body = [node for node in tree.body if NAMES & _defined(node)]
    names: dict[str, Any] = {"torch": torch, "Image": Image, "zsc": zsc, "DEVICE": "cpu"}
    names |= {"args": SimpleNamespace(options={}), "clip_model": model}
    names["tokenizer"] = open_clip.get_tokenizer("ViT-L-14")
    names["transform"] = open_clip.image_transform(VISION["image_size"], is_train=False)
    exec(compile(tree, str(script), "exec"), names)
    return names


def _defined(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {getattr(node, "name", "")}


def main() -> None:
    """Write the golden file to standard output."""
    names = official(Path(sys.argv[1]) / "evaluation" / "evaluate_images.py", tiny_clip())
    run, logits = zsc.run_classification, []
    loaded = torch.utils.data.DataLoader

    def kept(*arguments: Any) -> Any:
        logits.append(run(*arguments)[0])
        return logits[-1], None

    zsc.run_classification = kept
    torch.utils.data.DataLoader = lambda data, batch_size, **_: loaded(data, batch_size)
    for index, label in enumerate(LABELS):
        image, objects = scene(index)
        # A tuple, because today's Pillow does not take the array that the script passes.
        boxes = [((*box, 0.9), mask) for box, mask in objects]
        names["color_classification"](Image.fromarray(image), boxes, label)
    about = {"clip_benchmark": clip_benchmark.__version__, "open_clip": open_clip.__version__}
    about |= {"torch": torch.__version__}
    np.savez_compressed(
        sys.stdout.buffer, logits=torch.cat(logits).numpy(), about=np.array(json.dumps(about))
    )


if __name__ == "__main__":
    main()
