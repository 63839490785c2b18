"""Checks on a candidate beside the model it was made from: quantised, exported, converted or saved again."""

from __future__ import annotations

from pytest_bertology.checks import explain_models as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.agreement import Agreement, agreement
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task


def assert_same_outputs(
    model: ModelUnderTest,
    reference: ModelUnderTest,
    task: Task,
    tolerance: float,
    *,
    batching: Batching | None = None,
) -> Agreement:
    """Assert that no logit differs by more than `tolerance` between two models on the task; return the comparison.

    Largest absolute difference over all examples and labels (words' first tokens for token classification; padding
    never counts); for language models, of the examples' mean losses, since their logits are not kept. Each model reads
    with its own tokenizer and under the masks in force on it; their heads and dtypes may differ. Labels are matched by
    name. The returned comparison says how many predictions changed. A tolerance of 0 asks for the same numbers.

    Raises CheckFailed (an AssertionError), InvalidArgument, LabelMismatch or WrongTaskKind for models that cannot be
    compared, and what `evaluate` raises: NonFinite among them.
    """
    __tracebackhide__ = True
    numeric = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not numeric or not 0.0 <= tolerance < float("inf"):
        raise InvalidArgument("tolerance", tolerance, "a number from 0, in units of the logits (0.01)")
    found = agreement(model, reference, task, batching=batching)
    verdict = Verdict(
        check="assert_same_outputs",
        passed=found.largest <= tolerance,
        observed=found.largest,
        required=f"<= {tolerance:g}",
        judged=found.judged,
        model=model.name,
        task=task.name,
        examples=len(found.differences),
        details={
            "reference": reference.name,
            "changed": found.changed,
            "beyond": int((found.differences > tolerance).sum()),
        },
    )
    give(verdict, lambda: explain.outputs_differ(model, reference, found, tolerance))
    return found
