"""Whether what was published holds in a ledger: a verdict on every claim.

`python -m paper.claims --ledger <folder> --output <folder>` writes them as `claims.json` and
`claims.csv`, and as a table to read in `claims.md` and `claims.tex`.

A claim says that a difference is positive. It is *replicated* where the difference is, by its 95%
bootstrap interval and by the test of `eval.significance` after Holm's correction over all tests of
claims from the same publication; *contradicted* where both say so of a negative one; else
*undecided*, with the number of training seeds that would decide it if the effect were truly as
large as measured. A claim that needs no statistics holds or not. With one training seed all this
is about that one training, and the verdict says so.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import pandas as pd

from eval.significance import LEVEL, MOST_SEEDS, Components, components, holm
from leapalign.errors import UserError, main_guard
from leapalign.experiments import load_experiments
from leapalign.files import write_json, write_text
from leapalign.parsing import dump, parse
from paper import cli, markup, numbers
from paper.estimates import Estimates, estimate
from paper.evidence import Evidence, Fact, Gap, Part, Sample, gather
from paper.ledger import Ledger
from paper.statements import Claim, claims, quantity, runs
from paper.table import Cell, Column, Interval, Note, Row, Table, interval

ONE_SEED = "It rests on one training seed, and says nothing of how training varies."


class Outcome(Enum):
    """How the measurements bear on a claim."""

    REPLICATED = "replicated"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    UNMEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, what was measured, and what follows.

    Args:
        id: the claim's.
        source: the publication that claims it, as in `published.yaml`.
        where: the table, figure or equation.
        text: the claim in a sentence.
        kind: the kind of test.
        runs: the runs it is about.
        metric: the score, column of a log, or property that is looked at.
        outcome: what follows.
        measure: what the effect is a mean of; of several pairs, the one that speaks least for it.
        effect: the mean, positive where the claim holds; None where it is no number.
        low: lower bound of its 95% interval; None where there is none.
        high: upper bound.
        digits: decimals it deserves.
        p: two-sided p-value; None where there is no test.
        p_holm: the same, corrected for all tests of the publication's claims.
        family: how many tests those are.
        seeds: the training seeds it rests on.
        per_seed: each seed's own effect.
        seeds_to_decide: how many seeds would decide an undecided claim; None where more than
            `MOST_SEEDS`, or unknown.
        published: the publication's own difference, where its table shows one.
        reason: why it is not measured, or undecided; what else to know.
    """

    id: str
    source: str
    where: str
    text: str
    kind: str
    runs: tuple[str, ...]
    metric: str
    outcome: Outcome
    measure: str = ""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    digits: int = 0
    p: float | None = None
    p_holm: float | None = None
    family: int = 0
    seeds: tuple[int, ...] = ()
    per_seed: tuple[float, ...] = ()
    seeds_to_decide: int | None = None
    published: float | None = None
    reason: str = ""

    @property
    def interval(self) -> Interval | None:
        """The effect with its bounds."""
        return None if self.effect is None else Interval(self.effect, self.low, self.high)

    @property
    def found(self) -> str:
        """The effect in print, with its bounds."""
        return numbers.difference(self.interval, self.digits) if self.interval else ""

    @property
    def sentence(self) -> str:
        """All of it in words."""
        corrected = f"{numbers.p_value(self.p_holm)} after Holm" if self.p_holm is not None else ""
        details = "; ".join(filter(None, (f"{self.measure} {self.found}".strip(), corrected)))
        head = f"{self.where}: {self.text} {self.outcome.value.capitalize()}"
        return f"{head} ({details}). {self.reason}" if details else f"{head}. {self.reason}"


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts on all claims at one scale, as `claims.json` holds them."""

    scale: str
    level: float
    counts: Mapping[str, Mapping[str, int]]
    claims: tuple[Verdict, ...]

    @classmethod
    def of(cls, estimates: Estimates) -> Verdicts:
        """All verdicts, and for each source how many came out how."""
        found = verdicts(estimates)
        counts = {
            source: tally(verdict for verdict in found if verdict.source == source)
            for source in dict.fromkeys(verdict.source for verdict in found)
        }
        return cls(estimates.ledger.scale, LEVEL, counts, found)

    def write(self, folder: Path) -> None:
        """Write `claims.json`, `claims.csv`, `claims.md` and `claims.tex`."""
        write_json(folder / "claims.json", dump(self))
        write_text(folder / "claims.csv", csv(self.claims))
        table = claims_table(self.claims)
        write_text(folder / "claims.md", markup.markdown(table))
        write_text(folder / "claims.tex", markup.latex(table))

    @classmethod
    def read(cls, path: Path) -> Verdicts:
        """What `write` kept.

        Raises:
            UserError: The file is missing or damaged.
        """
        try:
            return parse(cls, json.loads(path.read_text(encoding="utf-8")), str(path))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run `python -m paper.claims` first") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not valid JSON ({error}); write it again") from None


def verdicts(
    estimates: Estimates, claimed: Sequence[Claim] | None = None
) -> tuple[Verdict, ...]:
    """A verdict on each claim, in order; those of one source are corrected together."""
    asserted = claims() if claimed is None else claimed
    found = [_first(claim, gather(claim.test, estimates)) for claim in asserted]
    families: dict[str, list[int]] = defaultdict(list)
    for index, (verdict, _) in enumerate(found):
        if verdict.p is not None:
            families[verdict.source].append(index)
    final = [verdict for verdict, _ in found]
    for members in families.values():
        p_values = [final[index].p or 0.0 for index in members]
        for index, corrected in zip(members, holm(p_values), strict=True):
            ahead = sum(p < (final[index].p or 0.0) for p in p_values)
            tested = replace(final[index], p_holm=corrected, family=len(members))
            final[index] = _decided(tested, found[index][1], LEVEL / (len(members) - ahead))
    return tuple(final)


def tally(found: Iterable[Verdict]) -> dict[str, int]:
    """How many verdicts came out how, every outcome named."""
    counts = Counter(verdict.outcome for verdict in found)
    return {outcome.value: counts[outcome] for outcome in Outcome}


def csv(found: Iterable[Verdict]) -> str:
    """A row per verdict, every number unrounded; several runs or seeds in one cell by spaces."""
    rows = [
        {
            key: " ".join(map(str, value)) if isinstance(value, list) else value
            for key, value in dump(verdict).items()
        }
        for verdict in found
    ]
    return pd.DataFrame(rows).astype({"seeds_to_decide": "Int64"}).to_csv(index=False)


def claims_table(found: Sequence[Verdict]) -> Table:
    """The verdicts as a table: a row per claim."""
    columns = (
        Column("where", "Where"),
        Column("effect", "Effect"),
        Column("p", "p (Holm)"),
        Column("verdict", "Verdict"),
        Column("needed", "Seeds to decide"),
    )
    rows = tuple(_row(verdict) for verdict in found)
    counts = ", ".join(f"{count} {name}" for name, count in tally(found).items() if count)
    notes = (
        f"Of {len(found)} claims: {counts}.",
        "An effect is positive where the claim holds; in brackets its 95% bootstrap interval over "
        "seeds and prompts. p by a t-test that treats both as random, after Holm's correction over "
        "all tests of one publication's claims.",
    )
    return Table("claims", "Every claim and whether it holds", "Claim", columns, rows,
                 tuple(map(Note, notes)))


def _row(verdict: Verdict) -> Row:
    words = (
        verdict.where,
        verdict.found or numbers.NOTHING,
        numbers.NOTHING if verdict.p_holm is None else numbers.p_value(verdict.p_holm),
        verdict.outcome.value,
        _needed(verdict),
    )
    return Row(verdict.id, verdict.text, tuple(Cell(words=text) for text in words))


def _needed(verdict: Verdict) -> str:
    if verdict.outcome is not Outcome.UNDECIDED:
        return ""
    if verdict.seeds_to_decide is None:
        return numbers.NOTHING if len(verdict.seeds) == 1 else f"> {MOST_SEEDS}"
    return str(verdict.seeds_to_decide)


def _first(claim: Claim, evidence: Evidence) -> tuple[Verdict, Components | None]:
    """The verdict before other claims' tests are known."""
    verdict = Verdict(
        claim.id,
        claim.source,
        claim.where,
        claim.text,
        claim.test.kind,
        runs(claim.test),
        quantity(claim.test),
        Outcome.UNMEASURED,
        published=claim.published,
    )
    match evidence:
        case Gap():
            return replace(verdict, reason=_sentence(evidence.reason)), None
        case Fact():
            outcome = Outcome.REPLICATED if evidence.holds else Outcome.CONTRADICTED
            fact = replace(
                verdict, outcome=outcome, measure=evidence.measure, effect=evidence.effect, digits=3
            )
            return fact, None
        case Sample():
            return _tested(verdict, evidence)


def _tested(verdict: Verdict, sample: Sample) -> tuple[Verdict, Components]:
    """The part of a sample that speaks least for the claim, and what a test says of it.

    All parts are positive where the least of them is (an intersection-union test, which needs no
    correction); that the least of k is negative is k times as likely by chance.
    """
    found = [(part, components(part.scores, "tag" if part.macro else None)) for part in sample.parts]
    part, parts_of = min(found, key=lambda pair: _support(pair[1]))
    p = parts_of.p_value()
    if p is not None and parts_of.effect < 0:
        p = min(1.0, p * len(found))
    bounds = interval(estimate(part.scores, macro=part.macro))
    seeds = tuple(sorted(int(seed) for seed in part.scores["seed"].unique()))
    tested = replace(
        verdict,
        outcome=Outcome.UNDECIDED,
        measure=part.measure,
        effect=bounds.mean,
        low=bounds.low,
        high=bounds.high,
        digits=sample.digits,
        p=p,
        seeds=seeds,
        per_seed=parts_of.effects,
        reason=ONE_SEED if len(seeds) == 1 else "",
    )
    return tested, parts_of


def _support(found: Components) -> float:
    """From -1, surely negative, to 1, surely positive."""
    p = found.p_value()
    return (1.0 - (1.0 if p is None else p)) * (1 if found.effect > 0 else -1)


def _decided(verdict: Verdict, found: Components, level: float) -> Verdict:
    """The outcome, and for an undecided claim how many seeds would settle it."""
    beyond_chance = verdict.p_holm is not None and verdict.p_holm < LEVEL
    if beyond_chance and verdict.low is not None and verdict.low > 0:
        return replace(verdict, outcome=Outcome.REPLICATED)
    if beyond_chance and verdict.high is not None and verdict.high < 0:
        return replace(verdict, outcome=Outcome.CONTRADICTED)
    if len(verdict.seeds) == 1:
        return verdict
    needed = found.seeds_to_decide(level)
    reason = (
        f"More than {MOST_SEEDS} seeds would be needed."
        if needed is None
        else f"{needed} seeds would decide it, were the effect as large as measured."
    )
    return replace(verdict, seeds_to_decide=needed, reason=reason)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Write a verdict on every claim from a ledger."""
    parser = argparse.ArgumentParser(prog="python -m paper.claims", description=main.__doc__)
    cli.add_ledger(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the written files")
    options = parser.parse_args(arguments)
    known = load_experiments().runs
    estimates = Estimates(Ledger.open(options.ledger, list(known), options.seeds))
    found = Verdicts.of(estimates)
    found.write(options.output)
    for source, counts in found.counts.items():
        print(f"{source}: {', '.join(f'{count} {name}' for name, count in counts.items())}")


if __name__ == "__main__":
    main()
