"""The claims' file: what it may hold, and what is said of mistakes in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from leapalign.errors import UserError
from paper.kinds import (
    renamed,
    runs,
)
from paper.published import published
from paper.statements import PATH, claims


def test_every_kind_of_test_can_be_told_of_other_runs() -> None:
    for claim in claims():
        names = {run: f"{run}-else" for run in runs(claim.test)}
        assert runs(renamed(claim.test, names)) == tuple(names[run] for run in runs(claim.test))


def test_the_cells_of_a_published_table_are_claims_in_the_direction_it_shows() -> None:
    found = {claim.id: claim for claim in claims()}
    usual, other = found["table-2-hpsv2-refl"], found["table-2-imagereward-mix_grpo"]
    assert runs(usual.test) == ("leapalign", "refl")
    assert usual.published == pytest.approx(0.4092 - 0.3852)
    assert runs(other.test) == ("mix_grpo", "leapalign")
    assert other.published == pytest.approx(1.6155 - 1.5104)
    assert "0.4092 against 0.3852" in usual.text
    assert found["discount-partial"].published == pytest.approx(0.4092 - 0.4064)
    assert runs(found["table-4-hpsv2-base"].test) == ("leapalign-sd3", "base-sd3")
    assert runs(found["table-3-hpsv3-hpsv3-base"].test) == ("leapalign-hpsv3", "base-mjhq")


def test_every_table_and_figure_with_a_claim_has_one() -> None:
    places = {claim.where for claim in claims() if claim.source == "leapalign"}
    figures = {
        f"Figure {name}" for name in ("1a", "3", "4a", "4b", "4c", "4d", "4e", "4f", "5", "6")
    }
    assert figures | {f"Table {number}" for number in range(1, 6)} <= places
    assert {claim.source for claim in claims()} == set(published().sources)


GOOD = {"kind": "above", "better": ["leapalign"], "worse": ["refl"], "metric": "hpsv2"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"worse": ["relf"]}, r"`claims\.early\.test`: no run `relf`; did you mean `refl`\?"),
        ({"metric": "hpsv"}, r"`claims\.early\.test\.metric`: no metric `hpsv`; did you mean"),
        ({"kind": "abov"}, r"`claims\.early\.test\.kind`: no kind of test `abov`; did you mean"),
        ({"kind": None}, r"`claims\.early\.test` lacks `kind`; valid: above, at_most"),
        ({"beter": ["x"]}, r"unknown key `claims\.early\.test\.beter`; did you mean `better`"),
        ({"better": []}, r"`claims\.early\.test\.better`"),
    ],
)
def test_a_mistaken_test_names_file_key_and_fix(
    tmp_path: Path, change: Mapping[str, object], message: str
) -> None:
    test = {key: value for key, value in (GOOD | change).items() if value is not None}
    stated = {"source": "leapalign", "where": "Figure 1", "text": "So it is.", "test": test}
    with pytest.raises(UserError, match=message) as caught:
        claims(_written(tmp_path, {"tables": {}, "claims": {"early": stated}}))
    assert str(tmp_path / "claims.yaml") in str(caught.value)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ({"kind": "ordered", "runs": ["refl", "drtune"], "column": "gradnorm"}, "`grad_norm`"),
        ({"kind": "flat", "method": "leapalign", "column": "saved"}, "`saved_mb`"),
        ({"kind": "design", "run": "dance_grpo"}, "Table 1 has no row `dance_grpo`"),
        (
            {"kind": "no_gain", "run": "refl", "over": "drtune", "metric": "hpsv2", "margin": 2},
            "less",
        ),
        ({"kind": "sooner", "run": "refl"}, "other"),
    ],
)
def test_every_kind_of_test_is_checked(
    tmp_path: Path, test: Mapping[str, object], message: str
) -> None:
    stated = {"source": "leapalign", "where": "Figure 1", "text": "So it is.", "test": dict(test)}
    with pytest.raises(UserError, match=message):
        claims(_written(tmp_path, {"tables": {}, "claims": {"early": stated}}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"where": "Figure 1", "text": "", "test": GOOD}, r"`claims\.early\.source`"),
        (
            {"source": "leapaling", "where": "Figure 1", "text": "", "test": GOOD},
            r"`claims\.early\.source`: no source `leapaling`; did you mean `leapalign`",
        ),
    ],
)
def test_a_claim_needs_a_known_source(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        claims(_written(tmp_path, {"tables": {}, "claims": {"early": content}}))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"table": "genral", "run": "leapalign"}, r"no published table `genral`; did you mean"),
        ({"table": "general", "run": "leapalig"}, "Table 2 has no row `leapalig`"),
        ({"table": "general", "run": "leapalign", "metrics": ["hps"]}, "no metric `hps`"),
        ({"table": "general", "run": "leapalign", "suffix": "-sd4"}, "no run `leapalign-sd4`"),
    ],
)
def test_a_mistaken_table_is_refused(tmp_path: Path, table: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        claims(_written(tmp_path, {"tables": {"t": table}, "claims": {}}))


def test_an_id_given_twice_is_refused(tmp_path: Path) -> None:
    text = PATH.read_text(encoding="utf-8")
    path = tmp_path / "claims.yaml"
    path.write_text(text + "\n  two-leaps: {source: leapalign}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"line \d+: `two-leaps` is given twice; keep one"):
        claims(path)
    stated = {"source": "leapalign", "where": "Table 2", "text": "So it is.", "test": GOOD}
    content = {
        "tables": {"t": {"table": "general", "run": "leapalign"}},
        "claims": {"t-hpsv2-refl": stated},
    }
    with pytest.raises(UserError, match="a cell of a table has that id too"):
        claims(_written(tmp_path, content))


def _written(folder: Path, content: object) -> Path:
    path = folder / "claims.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
