"""A ledger's gaps are explained, and what is wrong in it is refused with the file's name."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from leapalign.errors import UserError
from paper.ledger import Ledger
from tests.paper.factory import Maker


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return Maker(tmp_path, prompts=6, images=1).write({"base": 0, "leapalign": 1}, seeds=(0, 1))


def test_it_reads_scores_logs_and_provenance(small: Path) -> None:
    ledger = Ledger.open(small)
    run = ledger.runs["leapalign"]
    assert sorted(run.scores["seed"].unique()) == [0, 1]
    assert len(run.of("hpsv2")) == 12
    assert len(run.training) == 24
    assert run.trained
    assert not ledger.runs["base"].trained
    assert ledger.runs["base"].training.empty
    assert run.record.reward == "hpsv2"
    assert ledger.scale == "pocket"


def test_it_reads_only_the_runs_and_seeds_asked_for(small: Path) -> None:
    ledger = Ledger.open(small, runs=["leapalign"], seeds=[1])
    assert list(ledger.runs) == ["leapalign"]
    assert ledger.runs["leapalign"].scores["seed"].unique().tolist() == [1]


def test_a_run_that_is_not_there_is_a_gap(small: Path) -> None:
    assert Ledger.open(small).gap("refl") == "not in the ledger: it has not been run"
    assert Ledger.open(small).gap("leapalign") is None


def test_an_incomplete_run_is_a_gap_that_names_the_file(small: Path) -> None:
    (small / "leapalign" / "seed1" / "scores.csv").unlink()
    assert Ledger.open(small).gap("leapalign") == "its ledger lacks seed1/scores.csv"


@pytest.mark.parametrize("empty", [False, True])
def test_no_ledger_is_an_error(tmp_path: Path, *, empty: bool) -> None:
    folder = tmp_path / "ledger"
    if empty:
        folder.mkdir()
    with pytest.raises(UserError, match=r"ledger: .*snakemake --cores all all"):
        Ledger.open(folder)


@pytest.mark.parametrize("value", ["", "nan", "inf", "failed"])
def test_a_score_that_is_no_number_is_refused_with_its_line(small: Path, value: str) -> None:
    path = small / "leapalign" / "seed0" / "scores.csv"
    frame = pd.read_csv(path).astype({"score": object})
    frame.loc[3, "score"] = value
    frame.to_csv(path, index=False)
    with pytest.raises(UserError, match=r"scores\.csv: line 5: the score by hpsv2 of 00003\.png"):
        _ = Ledger.open(small).runs["leapalign"].scores


def test_an_image_scored_twice_is_refused(small: Path) -> None:
    path = small / "leapalign" / "seed0" / "scores.csv"
    frame = pd.read_csv(path)
    pd.concat([frame, frame.iloc[:1]]).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"scores\.csv: line 26: image 00000\.png is scored twice"):
        _ = Ledger.open(small).runs["leapalign"].scores


def test_missing_columns_are_named(small: Path) -> None:
    path = small / "leapalign" / "seed0" / "train.csv"
    pd.read_csv(path).drop(columns="reward").to_csv(path, index=False)
    with pytest.raises(UserError, match=r"train\.csv: lacks the columns reward"):
        _ = Ledger.open(small).runs["leapalign"].training


def test_seeds_from_other_settings_are_refused(small: Path) -> None:
    path = small / "leapalign" / "seed1" / "provenance.json"
    record = json.loads(path.read_text())
    record["train"]["settings"]["training"]["batch"] = 99
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"seed0.*seed1.*different settings"):
        _ = Ledger.open(small).runs["leapalign"].record


def test_scales_are_not_mixed(small: Path) -> None:
    path = small / "base" / "seed0" / "provenance.json"
    record = json.loads(path.read_text())
    record["generate"]["settings"]["scale"] = "flux"
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match="different scales are mixed: flux, pocket"):
        _ = Ledger.open(small).scale


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_record_is_refused(small: Path, text: str) -> None:
    path = small / "leapalign" / "seed0" / "provenance.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"provenance\.json"):
        _ = Ledger.open(small).runs["leapalign"].record
