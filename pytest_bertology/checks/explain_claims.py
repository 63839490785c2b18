"""Why a check on a published claim failed, for a tired engineer."""

from __future__ import annotations

from pytest_bertology.checks.explain import beside, table
from pytest_bertology.measures.claims_finding import ClaimFinding
from pytest_bertology.models import ModelUnderTest


def claim_not_established(model: ModelUnderTest, found: ClaimFinding) -> str:
    """The failure page of a claim that does not hold, or cannot be decided."""
    said = "does not hold" if found.decided else "cannot be decided from this data"
    title = f"the claim {found.claim.name!r} {said}: {found.reason}"
    low, high = found.interval
    rows = {
        "model": f"{found.model} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "data": f"{found.data} ({found.examples} judged)",
        "judged": f"{found.judged}: {found.value:.4f} [{low:.4f}, {high:.4f}] at {found.confidence:.0%}",
        "required": found.required,
        **found.rows,
        **beside(model),
        "claim": f"{found.claim.statement} ({found.claim.sources[0]})",
        "holds": found.claim.holds,
        "limits": found.claim.limits,
    }
    return "\n".join([title, "", *table(rows)])
