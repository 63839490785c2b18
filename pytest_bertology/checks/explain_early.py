"""Why a retention check failed before all its data was run: what is certain, and from how much of the data."""

from __future__ import annotations

import numpy as np

from pytest_bertology.checks.explain import amount, beside, flipped, idle, table, were
from pytest_bertology.errors import describe_heads
from pytest_bertology.measures.early import Requirement
from pytest_bertology.measures.retention import Refutation
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import CLASSIFICATION


def refuted(
    model: ModelUnderTest, found: Refutation, required: Requirement, why: str, *, structural: bool = False
) -> str:
    """The failure page of a retention check that was decided early."""
    gone = "cut" if structural else "masked"
    baseline, metric = found.baseline, found.baseline.metric.name
    heads, total = found.heads, len(model.heads)
    title = f"{metric} is not retained with {len(heads)} of {total} heads {gone} ({len(heads) / total:.0%}{why})"
    single = baseline.task.kind == CLASSIFICATION
    right = f" ({int(baseline.right.sum())} of {len(baseline)} right)" if single else ""
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "task": f"{baseline.task.name} ({len(baseline)} examples)",
        "baseline": f"{baseline.score:.4f}{right}",
        **_least(found, required),
        **(
            {}
            if found.p_value is None
            else {"p": f"at least {found.p_value:.2g} (of a true drop of the tolerance or more)"}
        ),
        "decided": _decided(found, required),
        "heads": describe_heads(heads),
        **were(model.heads, heads),
        **idle(model, heads),
        **beside(model),
    }
    return "\n".join([title, "", *table(rows), *flipped(model, found.part, found.positions)])


def _least(found: Refutation, required: Requirement) -> dict[str, str]:
    least = f"at least {_rounded_down(found.least, required.relative)}"
    within = f"required: at most {amount(required.tolerance, required.relative)}"
    if required.confidence is None:
        return {"drop": f"{least}; {within}"}
    return {"bound": f"{least} on the true drop with {required.confidence:.0%} confidence; {within}"}


def _decided(found: Refutation, required: Requirement) -> str:
    n, total = len(found.positions), len(found.baseline)
    judged = "drop" if required.confidence is None else "bound"
    others = "the loss of all the others were 0" if required.by_loss() else "all the others were right"
    would = f"the {judged} would be at least {_rounded_down(found.least, required.relative)}"
    if required.confidence is not None:
        would += f", and the true drop surely above the tolerance ({required.confidence:.0%})"
    return (
        f"after {n} of {total} examples ({n / total:.0%}): even if {others} {would}. early=False runs them all and "
        f"shows the whole {judged}."
    )


def _rounded_down(value: float, relative: bool) -> str:
    """So that "at least" stays true."""
    rounded = float(np.floor(value * 10_000 + 1e-6) / 10_000)
    return f"{rounded:.2%} of the baseline" if relative else f"{rounded:.4f}"
