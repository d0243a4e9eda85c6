"""The tokenizers are the same in every process, so that rebuilt weights fit them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRINT_TOKENIZERS = """
from pocket.rewards.tokenizer import train_tokenizer
from pocket.text import make_clip_tokenizer, make_t5_tokenizer
from pocket.world import all_prompts

prompts = [line["prompt"] for line in all_prompts()]
print(make_clip_tokenizer(prompts).backend_tokenizer.to_str())
print(make_t5_tokenizer(prompts).backend_tokenizer.to_str())
print(train_tokenizer(["<end>"]).to_str())
"""


def test_tokenizers_do_not_depend_on_the_order_of_a_hash_map() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PRINT_TOKENIZERS],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    one, other = (process.communicate()[0].splitlines() for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert len(one) == 3
    assert one == other
