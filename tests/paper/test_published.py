"""The published numbers are those of the publications, and a damaged file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from leapalign.errors import UserError
from paper.published import PATH, published
from tests import tolerances


@pytest.mark.parametrize(
    ("table", "run", "metric", "score"),
    [
        ("general", "leapalign", "hpsv2", 0.4092),
        ("general", "base", "hpsv3", 13.5020),
        ("general", "mix_grpo", "imagereward", 1.6155),
        ("general", "drtune", "pickscore", 23.5185),
        ("general", "dance_grpo", "ur_iq", 3.6199),
        ("compositional", "leapalign", "overall", 0.7420),
        ("compositional", "leapalign", "color_attr", 66.00),
        ("compositional", "base", "position", 19.50),
        ("compositional", "mix_grpo", "counting", 80.00),
        ("rewards", "leapalign", "pickscore", 25.7589),
        ("rewards", "draft_lv", "hpsv3", 11.2701),
        ("sd35", "leapalign", "hpsv3", 15.5780),
        ("sd35", "draft_lv", "hpsv2", 0.3506),
        ("threshold", "leapalign-lambda-0.35", "hpsv2", 0.3860),
        ("threshold", "leapalign-lambda-0.95", "pickscore", 23.5082),
        ("discount", "leapalign-alpha-0", "hpsv2", 0.4064),
        ("flowbp_flux", "flowbp_lagrange", "overall", 0.6988),
        ("flowbp_flux", "leapalign", "hpsv2", 0.4063),
        ("flowbp_sd35", "flowbp_bridge", "imagereward", 1.4386),
    ],
)
def test_spot_checks(table: str, run: str, metric: str, score: float) -> None:
    assert published().tables[table].get(run, metric) == score


def test_the_same_run_has_the_same_score_in_every_table_of_one_experiment() -> None:
    tables = published().tables
    for run in tables["rewards"].rows:
        assert tables["rewards"].get(run, "hpsv2") == tables["general"].get(run, "hpsv2")
    for metric in tables["threshold"].metrics:
        expected = tables["general"].get("leapalign", metric)
        assert tables["threshold"].get("leapalign", metric) == expected


def test_geneval_overall_is_the_mean_of_its_tasks() -> None:
    table = published().tables["compositional"]
    for run, (overall, *tasks) in table.rows.items():
        assert overall == pytest.approx(sum(tasks) / 600, abs=tolerances.PUBLISHED_ROUNDING), run


def test_absent_scores_are_none() -> None:
    assert published().tables["general"].get("leapalign", "overall") is None
    assert published().tables["general"].get("leapalign-alpha-1", "hpsv2") is None


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("tables", "general", "rows", "base"), [0.3], "row base has 1 scores for 6 metrics"),
        (("tables", "general", "rows", "base"), [float("nan")] * 6, "tables.general.rows.base"),
        (("tables", "general", "source"), "nobody", "unknown source nobody"),
        (("tables", "general", "wher"), "Table 2", "unknown key `tables.general.wher`"),
        (("properties", "rows", "refl"), ["magic"], r"unknown properties \['magic'\]"),
    ],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, keys: tuple[str, ...], value: object, message: str
) -> None:
    content = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message) as caught:
        published(path)
    assert str(path) in str(caught.value)
