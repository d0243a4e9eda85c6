"""Golden detections of mmdet's Mask2Former Swin on tiny random weights, in float64.

In double precision what differs is the computation; in single precision, rounding would hide it.

    python -m tests.parity.geneval.detector CONFIGS > tests/parity/golden/geneval_detector.npz

CONFIGS is the `configs` folder of mmdet 2.28.2, which must be importable with mmcv 1.7.2. mmcv's
compiled operators are not needed: on a CPU it has each that Mask2Former uses in PyTorch too, and
only wants to find their names. Imports nothing of this project but the rule for random weights.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from tests.parity.geneval.pictures import (
    OFFICIAL_SIZES,
    SIZES,
    SMALL,
    detector_state,
    picture,
)

WIDTH = 32


class Operators(ModuleType):
    """Stands for mmcv's compiled operators, none of which is called."""

    def __getattr__(self, name: str) -> Any:
        """Any name but the interpreter's own."""
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_: (_ for _ in ()).throw(RuntimeError(f"mmcv's {name} is not compiled"))


def tiny(configs: Path) -> Any:
    """The official configuration with narrow layers and few of them."""
    from mmcv import Config

    config = Config.fromfile(
        str(configs / "mask2former/mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco.py")
    )
    backbone, head = config.model.backbone, config.model.panoptic_head
    backbone.update(embed_dims=8, depths=[2, 2, 2, 2], num_heads=[1, 2, 4, 8], init_cfg=None)
    head.update(in_channels=[8, 16, 32, 64], feat_channels=WIDTH, out_channels=WIDTH)
    encoder = head.pixel_decoder.encoder
    encoder.num_layers = 2
    encoder.transformerlayers.attn_cfgs.embed_dims = WIDTH
    encoder.transformerlayers.ffn_cfgs.update(embed_dims=WIDTH, feedforward_channels=48)
    head.pixel_decoder.positional_encoding.num_feats = WIDTH // 2
    head.positional_encoding.num_feats = WIDTH // 2
    decoder = head.transformer_decoder
    decoder.num_layers = 3
    decoder.transformerlayers.attn_cfgs.embed_dims = WIDTH
    decoder.transformerlayers.ffn_cfgs.update(embed_dims=WIDTH, feedforward_channels=64)
    decoder.transformerlayers.feedforward_channels = 64
    config.model.train_cfg = None
    return config


def save(path: Path, image: np.ndarray) -> str:
    """Write an RGB image without loss; returns its path."""
    import cv2

    cv2.imwrite(str(path), image[..., ::-1])
    return str(path)


def prepared(config: Any, path: str) -> np.ndarray:
    """The official input before it is normalised: resized and padded, uint8 RGB."""
    from mmdet.datasets.pipelines import Compose

    steps = copy.deepcopy(config.data.test.pipeline)
    steps[1].transforms = [step for step in steps[1].transforms if step.type in {"Resize", "Pad"}]
    steps[1].transforms.append({"type": "Collect", "keys": ["img"], "meta_keys": []})
    data = Compose(steps)({"img_info": {"filename": path}, "img_prefix": None})
    return data["img"][0][..., ::-1]


def main() -> None:
    """Write the golden file to standard output."""
    import mmcv

    sys.modules["mmcv._ext"] = Operators("mmcv._ext")
    import cv2
    import mmdet
    from mmdet.apis import inference_detector
    from mmdet.models import build_detector

    config = tiny(Path(sys.argv[1]))
    model = build_detector(config.model).eval()
    state = model.state_dict()
    shapes = {name: list(one.shape) for name, one in state.items() if one.is_floating_point()}
    model.load_state_dict(state | detector_state(shapes))
    model.double().backbone.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    model.CLASSES = [str(index) for index in range(80)]
    raw: list[torch.Tensor] = []
    model.panoptic_head.register_forward_hook(
        lambda _module, _inputs, outputs: raw.extend([outputs[0][-1][0], outputs[1][-1][0]])
    )
    golden: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        digests = {
            f"{height}x{width}": hashlib.sha256(
                np.ascontiguousarray(prepared(config, save(file, picture(height, width)))).tobytes()
            ).hexdigest()
            for height, width in OFFICIAL_SIZES
        }
        config.data.test.pipeline[1].img_scale = SMALL
        model.cfg = config
        for height, width in SIZES:
            boxes, masks = inference_detector(model, save(file, picture(height, width)))
            name = f"{height}x{width}"
            classes, mask_logits = (one.numpy() for one in raw[-2:])
            golden[f"{name}/class_logits"] = classes.astype(np.float32)
            golden[f"{name}/mask_logits"] = mask_logits.astype(np.float32)
            labels = [np.full(len(found), label) for label, found in enumerate(boxes)]
            golden[f"{name}/labels"] = np.concatenate(labels)
            golden[f"{name}/boxes"] = np.concatenate(boxes)
            found = np.array([mask for of_class in masks for mask in of_class])
            golden[f"{name}/masks"] = np.packbits(found)
    about = {
        "versions": {"mmdet": mmdet.__version__, "mmcv": mmcv.__version__, "cv2": cv2.__version__}
        | {"torch": torch.__version__, "numpy": np.__version__},
        "shapes": {name: list(one.shape) for name, one in state.items()},
        "inputs": digests,
    }
    golden["about"] = np.array(json.dumps(about))
    np.savez_compressed(sys.stdout.buffer, **golden)


if __name__ == "__main__":
    main()
