"""Checks on published claims: does what is said of BERT hold of this model?"""

from __future__ import annotations

import math

from pytest_bertology.checks import explain_claims as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.measures.claims import examine_claim
from pytest_bertology.measures.claims_catalogue import Claim
from pytest_bertology.measures.claims_finding import ClaimFinding
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.conllu import TreesLike
from pytest_bertology.tasks.task import Task


def assert_claim(
    claim: str | Claim,
    model: ModelUnderTest,
    *,
    conllu: TreesLike | None = None,
    task: Task | None = None,
    texts: TextsLike | None = None,
    base: ModelUnderTest | None = None,
    train: Task | TreesLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    batching: Batching | None = None,
) -> ClaimFinding:
    """Assert that a published claim surely holds of a model on your data; return what was found.

    `claim` is one of `claims()`, by name, such as "middle layers carry most syntax"; each says what it needs (`conllu`,
    `task`, `texts`, `base`), what is measured, and exactly when it holds. A claim that cannot be decided from the data
    does not pass. See `examine_claim`, which finds the same and asserts nothing.

    Raises CheckFailed (an AssertionError), and what `examine_claim` raises.
    """
    __tracebackhide__ = True
    found = examine_claim(
        claim,
        model,
        conllu=conllu,
        task=task,
        texts=texts,
        base=base,
        train=train,
        confidence=confidence,
        seed=seed,
        batching=batching,
    )
    verdict = Verdict(
        check="assert_claim",
        passed=found.holds,
        observed=found.value,
        required=found.required,
        judged=found.judged,
        model=model.name,
        task=found.data,
        examples=found.examples,
        details={
            "claim": found.claim.name,
            "outcome": found.outcome,
            "reason": found.reason,
            "interval": [each if math.isfinite(each) else None for each in found.interval],
        },
    )
    give(verdict, lambda: explain.claim_not_established(model, found))
    return found
