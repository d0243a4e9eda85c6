"""Tables print the means, differences and published numbers they should, gaps with reasons."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from leapalign.errors import UserError
from leapalign.experiments import load_experiments
from paper import markup, tables
from paper.estimates import Estimates
from paper.ledger import Ledger
from paper.numbers import MINUS, setting
from paper.orders import orders
from paper.style import HPSV2
from paper.table import Table
from tests import tolerances
from tests.paper.conftest import GAINS
from tests.paper.factory import LEVELS, SPREADS, STEP, Maker

NAMES = tuple(load_experiments(Path(__file__).parents[2] / "paper" / "experiments.yaml").tables)


def build(name: str, estimates: Estimates) -> Table:
    return tables.build(name, load_experiments().tables[name], estimates)


def cell(table: Table, run: str, column: str):
    row = next(row for row in table.rows if row.key == run)
    return row.cells[[column.key for column in table.columns].index(column)]


@pytest.mark.parametrize("metric", ["hpsv2", "pickscore", "hpsv3"])
def test_means_and_paired_differences_are_those_of_the_ledger(
    estimates: Estimates, metric: str
) -> None:
    table = build("main", estimates)
    base = estimates.ledger.runs["base"].of(metric)["score"].mean()
    assert base == pytest.approx(LEVELS[metric], abs=SPREADS[metric])
    for row in table.rows:
        found, gain = cell(table, row.key, metric), GAINS[row.key]
        raised = SPREADS[metric] * STEP
        expected = pytest.approx(base + raised * gain, abs=tolerances.KNOWN_MEAN)
        assert found.ours.mean == expected
        assert found.ours.low < found.ours.mean < found.ours.high
        if row.key == "leapalign":
            assert found.difference is None
            continue
        expected = pytest.approx(raised * (gain - GAINS["leapalign"]), abs=tolerances.KNOWN_MEAN)
        assert found.difference.mean == expected
        assert found.difference.low == expected
        assert found.difference.high == expected


def test_an_adapter_is_written_by_its_settings_and_none_as_such() -> None:
    adapter = {"rank": 128, "alpha": 256, "targets": ["to_q", "to_k"]}
    assert setting(adapter) == "rank 128, alpha 256, targets to_q, to_k"
    assert setting(None) == "none"


def test_the_papers_numbers_stand_beside_ours(estimates: Estimates) -> None:
    table = build("main", estimates)
    assert cell(table, "drtune", "pickscore").published == 23.5185
    assert cell(table, "refl", "overall").published == 0.7011
    assert cell(build("geneval", estimates), "base", "position").published == 19.50
    assert cell(build("ablation_discount", estimates), "leapalign-alpha-0", "hpsv2").published
    assert "23.5185" in markup.markdown(table)


def test_geneval_is_the_mean_over_tasks_of_the_share_of_right_images(estimates: Estimates) -> None:
    table = build("geneval", estimates)
    scores = estimates.ledger.runs["refl"].of("geneval")
    shares = scores.groupby("tag")["score"].mean()
    assert cell(table, "refl", "overall").ours.mean == pytest.approx(shares.mean())
    assert cell(table, "refl", "position").ours.mean == pytest.approx(100 * shares["position"])


def test_only_the_training_reward_is_marked(estimates: Estimates) -> None:
    table = build("main", estimates)
    assert [column.key for column in table.columns if column.marks] == ["hpsv2"]
    assert any(note.mark == "†" and "training reward" in note.text for note in table.notes)


def test_the_best_entry_of_each_column_is_marked_and_ties_share_it(estimates: Estimates) -> None:
    table = build("main", estimates)
    assert table.best(0) == {"leapalign"}
    tied = tuple(replace(row, cells=table.rows[0].cells) for row in table.rows)
    assert table.best(0, published=True) == {"leapalign"}
    assert replace(table, rows=tied).best(0) == {row.key for row in table.rows}


def test_a_declared_deviation_is_a_footnote_with_its_reason(estimates: Estimates) -> None:
    table = build("main", estimates)
    row = next(row for row in table.rows if row.key == "dance_grpo")
    notes = {note.mark: note.text for note in table.notes}
    assert any("the authors' code trains on 16 steps" in notes[mark] for mark in row.marks)


def test_a_missing_run_is_a_gap_with_its_reason_and_the_rest_renders(estimates: Estimates) -> None:
    table = build("ablation_discount", estimates)
    row = next(row for row in table.rows if row.key == "leapalign-alpha-1")
    assert row.gap == "not in the ledger: it has not been run"
    notes = {note.mark: note.text for note in table.notes}
    assert [notes[mark] for mark in row.marks] == [f"No results: {row.gap}."]
    assert cell(table, "leapalign", "hpsv2").ours
    assert any("not measured" in note.text for note in table.notes)
    [printed] = [line for line in markup.markdown(table).splitlines() if "α = 1<sup>" in line]
    assert printed.count("–") == len(table.columns)


def test_settings_that_should_be_shared_and_are_not_are_marked(tmp_path: Path) -> None:
    maker = Maker(tmp_path, prompts=6, images=1)
    maker.write({"base": 0, "leapalign": 1, "refl": 1})
    path = tmp_path / "refl" / "seed0" / "provenance.json"
    record = json.loads(path.read_text())
    record["generate"]["settings"]["evaluation"]["steps"] = 7
    record["train"]["settings"]["training"]["optimizer"]["lr"] = 0.5
    path.write_text(json.dumps(record))
    table = build("main", Estimates(Ledger.open(tmp_path)))
    row = next(row for row in table.rows if row.key == "refl")
    notes = {note.mark: note.text for note in table.notes}
    texts = [notes[mark] for mark in row.marks]
    for beside in ("than LeapAlign", "than the present ones"):
        [text] = [
            text for text in texts if text.startswith(f"Measured with other settings {beside}")
        ]
        assert "evaluation.steps = 7 against" in text
        assert "training.optimizer.lr = 0.5 against" in text


def test_a_setting_that_an_earlier_ledger_lacks_was_at_its_default(tmp_path: Path) -> None:
    maker = Maker(tmp_path, prompts=6, images=1)
    maker.write({"base": 0, "leapalign": 1, "refl": 1, "drtune": 1})
    for run, precision in (("refl", "float32"), ("drtune", "bfloat16")):
        path = tmp_path / run / "seed0" / "provenance.json"
        record = json.loads(path.read_text())
        record["generate"]["settings"]["precision"] = precision
        path.write_text(json.dumps(record))
    path = tmp_path / "leapalign" / "seed0" / "provenance.json"
    record = json.loads(path.read_text())
    record["generate"]["settings"].pop("precision", None)
    path.write_text(json.dumps(record))
    table = build("main", Estimates(Ledger.open(tmp_path)))
    [text] = [note.text for note in table.notes if "than LeapAlign" in note.text]
    assert "precision = bfloat16 against float32" in text
    [marked] = [
        row.key
        for row in table.rows
        if text in {n.text for n in table.notes if n.mark in row.marks}
    ]
    assert marked == "drtune"


def test_the_order_of_methods_is_compared_with_the_papers(estimates: Estimates) -> None:
    [found] = orders(build("main", estimates), ["hpsv2"])
    assert found.ours[0] == found.published[0] == "LeapAlign"
    assert found.pairs == 21
    assert found.agreeing == 20  # only MixGRPO and DanceGRPO stand the other way round


def test_costs_are_the_logs_last_line_averaged_over_seeds(estimates: Estimates) -> None:
    table = build("cost", estimates)
    keys = [column.key for column in table.columns if not column.key.startswith("predicted")]
    found = {key: cell(table, "refl", key).ours.mean for key in keys}
    assert found["iterations"] == 12
    assert found["images"] == 12 * 16
    assert found["nfe"] == 12 * 16 * 31
    assert found["seconds"] == pytest.approx(9.0)
    assert found["seconds_per_iteration"] == pytest.approx(0.75)
    assert found["peak_memory_mb"] == 901
    assert found["device_hours"] == pytest.approx(9.0 / 3600)
    assert cell(table, "leapalign", "images").published == 300 * 64


def test_forecasts_stand_beside_what_was_measured_and_are_gaps_in_older_ledgers(
    tmp_path: Path,
) -> None:
    root = Maker(tmp_path).write({"base": 0, "refl": 1, "leapalign": 2}, seeds=(0, 1))
    for seed, seconds in ((0, 10.0), (1, 14.0)):
        file = root / f"refl/seed{seed}/provenance.json"
        record = json.loads(file.read_text())
        predicted = {"nfe": 6000, "seconds": seconds, "devices": 2, "peak_memory_mb": 700.0}
        record["train"]["predicted"] = predicted
        record["train"]["settings"]["compute"]["devices"] = 2
        file.write_text(json.dumps(record))
    table = build("cost", Estimates(Ledger.open(root)))
    assert cell(table, "refl", "predicted_nfe").ours.mean == 6000
    assert cell(table, "refl", "predicted_hours").ours.mean == pytest.approx(12.0 * 2 / 3600)
    assert cell(table, "refl", "predicted_memory_mb").ours.mean == 700.0
    assert cell(table, "refl", "device_hours").ours.mean == pytest.approx(9.0 * 2 / 3600)
    assert cell(table, "leapalign", "predicted_hours").ours is None


def test_settings_that_differ_from_the_paper_say_so(estimates: Estimates) -> None:
    table = build("deviations", estimates)
    words = {row.key: [cell.words for cell in row.cells] for row in table.rows}
    assert words["resolution"] == ["720", "64", "yes"]
    assert words["weight_decay"][2] == ""
    assert words["learning_rate"][0] == "1×10⁻⁵"
    differing = sum(row[2] == "yes" for row in words.values())
    assert f"{differing} of {len(words)} settings differ" in table.notes[0].text
    assert words["clip"][0] == "not stated"
    assert any(note.text.startswith("DanceGRPO: steps = 16") for note in table.notes)


@pytest.mark.parametrize("name", NAMES)
def test_every_table_renders_without_a_nan(estimates: Estimates, tmp_path: Path, name: str) -> None:
    table = build(name, estimates)
    markup.write_all(table, tmp_path)
    for suffix in ("csv", "md", "tex", "json"):
        text = (tmp_path / f"{name}.{suffix}").read_text()
        assert not re.search(r"\b(nan|NaN|None)\b", text), suffix
    assert Table.read(tmp_path / f"{name}.json") == table


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_balanced(estimates: Estimates, name: str) -> None:
    text = markup.latex(build(name, estimates))
    plain = re.sub(r"\\[{}%&$#_]", "", text)
    assert plain.count("{") == plain.count("}")
    assert plain.replace(r"\$", "").count("$") % 2 == 0
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    body = plain.split(r"\midrule")[1].split(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(r"\\")]
    assert len({row.count("&") for row in rows}) == 1
    assert text.isascii(), sorted({character for character in text if not character.isascii()})


def test_csv_keeps_every_digit(estimates: Estimates, tmp_path: Path) -> None:
    table = build("main", estimates)
    markup.write_all(table, tmp_path)
    frame = pd.read_csv(tmp_path / "main.csv").set_index("method")
    assert frame.loc["refl", "hpsv2"] == cell(table, "refl", "hpsv2").ours.mean
    assert frame.loc["refl", "hpsv2_paper"] == 0.3852
    assert {"hpsv2_low", "hpsv2_high", "hpsv2_difference_low"} <= set(frame.columns)


def test_a_negative_number_has_a_true_minus(estimates: Estimates) -> None:
    assert f"{MINUS}0.01" in markup.markdown(build("main", estimates))


def test_the_untrained_model_is_compared_with_every_seed(estimates: Estimates) -> None:
    assert estimates.mean("base", HPSV2).images == 48
    assert estimates.difference("base", "leapalign", HPSV2).images == 96


def test_the_command_line_writes_a_table(ledger_folder: Path, tmp_path: Path) -> None:
    tables.main(["ablation_early", "--ledger", str(ledger_folder), "--output", str(tmp_path)])
    assert {path.suffix for path in tmp_path.iterdir()} == {".csv", ".md", ".tex", ".json"}


def test_a_missing_ledger_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        tables.main(["main", "--ledger", str(tmp_path / "none"), "--output", str(tmp_path)])
    assert stop.value.code == 1
    assert "no such ledger" in capsys.readouterr().err


def test_an_unknown_table_names_the_nearest(estimates: Estimates) -> None:
    with pytest.raises(UserError, match="did you mean `main`"):
        tables.build("mian", load_experiments().tables["main"], estimates)
