"""Prompts files and what is wrong with them; which prompts an iteration draws."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import chisquare

from leapalign.data import GENEVAL_MIX, Prompt, Sampler, read_prompts
from leapalign.errors import UserError
from tests import tolerances


def write(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_bytes(content.encode("latin-1"))
    return path


def test_text_and_metadata_files_are_read(tmp_path: Path) -> None:
    text = write(tmp_path, "prompts.txt", "a red cube\ntwo cats\n")
    assert [prompt.text for prompt in read_prompts(text)] == ["a red cube", "two cats"]
    lines = write(tmp_path, "prompts.jsonl", '{"tag": "colors", "prompt": "a red cube"}\n')
    [prompt] = read_prompts(lines)
    assert (prompt.text, prompt.tag) == ("a red cube", "colors")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "", r"empty\.txt: no prompts"),
        ("gap.txt", "a cat\n\na dog\n", r"gap\.txt, line 2: empty; remove"),
        ("blank.txt", "a cat\n   \n", r"blank\.txt, line 2: empty"),
        ("twice.txt", "a cat\na dog\na cat\n", r"twice\.txt, line 3: repeats line 1; remove"),
        ("latin.txt", "a caf\xe9\n", r"latin\.txt: not UTF-8 \(byte 5\); save it as UTF-8"),
        ("bad.jsonl", '{"prompt": "a cat"}\n{"prompt": \n', r"bad\.jsonl, line 2: not JSON"),
        ("list.jsonl", "[1]\n", r'list\.jsonl, line 1: needs a "prompt"'),
        ("none.jsonl", '{"tag": "colors"}\n', r'none\.jsonl, line 1: needs a "prompt"'),
        ("number.jsonl", '{"prompt": 7}\n', r'number\.jsonl, line 1: needs a "prompt"'),
        ("same.jsonl", '{"prompt": "a"}\n{"prompt": "a"}\n', r"same\.jsonl, line 2: repeats"),
    ],
)
def test_a_bad_file_is_refused_by_name_and_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_prompts(write(tmp_path, name, content))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.txt: no such prompts file$"):
        read_prompts(tmp_path / "nowhere.txt")
    with pytest.raises(UserError, match="make it with `snakemake --cores 1 fetch_prompts`"):
        read_prompts("prompts/nowhere.jsonl")


def test_a_mix_to_train_on_may_repeat_its_prompts(tmp_path: Path) -> None:
    path = write(tmp_path, "mix.txt", "a cat\na dog\na cat\n")
    assert [prompt.text for prompt in read_prompts(path, repeats=True)] == [
        "a cat",
        "a dog",
        "a cat",
    ]


def test_only_a_lines_end_ends_a_prompt(tmp_path: Path) -> None:
    texts = [
        "a cat\u2028in the rain",
        "caf\u00e9 \u201cquoted\u201d \U0001f600",
        "a\x0bb &amp; <|Reward|>",
    ]
    path = tmp_path / "odd.txt"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    assert [prompt.text for prompt in read_prompts(path)] == texts


def test_a_large_mix_is_weighed_in_no_time() -> None:
    prompts = [Prompt(str(n), {"tag": tag}) for tag in GENEVAL_MIX for n in range(20_000)]
    assert sum(Sampler(prompts, seed=0).weights) == pytest.approx(1.0)


def test_tagged_prompts_are_drawn_at_the_papers_mix() -> None:
    prompts = [Prompt(f"{tag} {n}", {"tag": tag}) for tag in GENEVAL_MIX for n in range(3)]
    sampler = Sampler(prompts, seed=0)
    found = Counter(sampler.draw(0, slot).tag for slot in range(3400))
    ratio = {"position": 7, "counting": 5, "color_attr": 3, "colors": 1, "two_object": 1}
    assert set(found) == set(ratio)
    expected = [200.0 * share for share in ratio.values()]
    p_value = chisquare([found[tag] for tag in ratio], expected).pvalue
    assert p_value > tolerances.UNIFORM_P_VALUE


def test_a_draw_depends_on_seed_iteration_and_slot_alone() -> None:
    prompts = [Prompt(str(n)) for n in range(1000)]
    one, other = Sampler(prompts, seed=0), Sampler(prompts, seed=1)
    drawn = [one.draw(2, slot).text for slot in range(8)]
    assert drawn == [one.draw(2, slot).text for slot in range(8)]
    assert drawn != [other.draw(2, slot).text for slot in range(8)]
    assert drawn != [one.draw(3, slot).text for slot in range(8)]
