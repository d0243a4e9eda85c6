"""A verdict on every claim from what a ledger holds for its test.

A claim says that a difference is positive. It is *replicated* where the difference is, by its 95%
bootstrap interval and by the test of `eval.significance` after Holm's correction over all tests of
claims from the same publication; *contradicted* where both say so of a negative one; else
*undecided*, with the number of training seeds that would decide it if the effect were truly as
large as measured. A claim that needs no statistics holds or not. With one training seed all this
is about that one training, and the verdict says so.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import replace

from eval.significance import LEVEL, MOST_SEEDS, Components, components, holm
from paper.estimates import Estimates, estimate
from paper.evidence import Fact, Gap, Sample, gather
from paper.kinds import Above, quantity, runs
from paper.statements import Claim, claims
from paper.verdict import Outcome, Verdict

ONE_SEED = "It rests on one training seed, and says nothing of how training varies."
UNEVEN = "Its seeds have no prompt in common that all were scored on, with finite scores."


def verdicts(estimates: Estimates, claimed: Sequence[Claim] | None = None) -> tuple[Verdict, ...]:
    """A verdict on each claim, in order; those of one source are corrected together."""
    first = [_first(claim, estimates) for claim in (claims() if claimed is None else claimed)]
    families: dict[str, list[tuple[int, Components, float]]] = defaultdict(list)
    for index, (verdict, found) in enumerate(first):
        if found is not None and verdict.p is not None:
            families[verdict.source].append((index, found, verdict.p))
    final = [verdict for verdict, _ in first]
    for members in families.values():
        p_values = [p for _, _, p in members]
        for (index, found, p), corrected in zip(members, holm(p_values), strict=True):
            ahead = sum(other < p for other in p_values)
            tested = replace(final[index], p_holm=corrected, family=len(members))
            final[index] = _decided(tested, found, LEVEL / (len(members) - ahead))
    return tuple(final)


def asserted(estimates: Estimates, shown: Sequence[str], metrics: Container[str]) -> list[Verdict]:
    """What was measured for the claims, those of whole tables aside, about what is shown alone.

    They are not corrected for each other, hence without an outcome.
    """
    return [
        _first(claim, estimates)[0]
        for claim in claims()
        if not claim.cell
        and claim.test.kind == Above.kind
        and quantity(claim.test) in metrics
        and set(runs(claim.test)) <= set(shown)
    ]


def _first(claim: Claim, estimates: Estimates) -> tuple[Verdict, Components | None]:
    """The verdict before other claims' tests are known."""
    test = claim.at(estimates.ledger)
    verdict = Verdict(
        claim.id,
        claim.source,
        claim.where,
        claim.text,
        test.kind,
        runs(test),
        quantity(test),
        Outcome.UNMEASURED,
        published=claim.published,
    )
    evidence = gather(test, estimates)
    match evidence:
        case Gap():
            return replace(verdict, reason=evidence.reason), None
        case Fact():
            outcome = Outcome.REPLICATED if evidence.holds else Outcome.CONTRADICTED
            fact = replace(
                verdict,
                outcome=outcome,
                measure=evidence.measure,
                effect=evidence.effect,
                unit=evidence.unit,
                digits=3,
            )
            return fact, None
        case Sample():
            try:
                return _tested(verdict, evidence)
            except ValueError:
                return replace(verdict, reason=UNEVEN), None


def _tested(verdict: Verdict, sample: Sample) -> tuple[Verdict, Components]:
    """The part of a sample that speaks least for the claim, and what a test says of it.

    All parts are positive where the least of them is (an intersection-union test, which needs no
    correction); that the least of k is negative is k times as likely by chance.

    Raises:
        ValueError: The seeds share no prompt, or a score is not finite.
    """
    found = [
        (part, components(part.scores, "tag" if part.macro else None)) for part in sample.parts
    ]
    part, parts_of = min(found, key=lambda pair: _support(pair[1]))
    p = parts_of.p_value()
    if p is not None and parts_of.effect < 0:
        p = min(1.0, p * len(found))
    mean = estimate(part.scores, macro=part.macro)
    seeds = tuple(sorted(int(seed) for seed in part.scores["seed"].unique()))
    tested = replace(
        verdict,
        outcome=Outcome.UNDECIDED,
        measure=part.measure,
        effect=mean.mean,
        low=_finite(mean.low),
        high=_finite(mean.high),
        unit=sample.unit,
        digits=sample.digits,
        p=p,
        seeds=seeds,
        per_seed=parts_of.effects,
        reason=ONE_SEED if len(seeds) == 1 else "",
    )
    return tested, parts_of


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


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
