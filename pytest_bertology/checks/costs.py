"""Checks on what a model costs beside another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_bertology.checks import explain_models as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import InvalidArgument, NothingToJudge
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.measures.cost import Size, size
from pytest_bertology.measures.timing import Timing, timing
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Sizes:
    """What it takes to keep two models."""

    model: Size
    reference: Size

    @property
    def share(self) -> float:
        """The model's weight bytes as a share of the reference's."""
        return self.model.weight_bytes / self.reference.weight_bytes


def assert_faster(
    model: ModelUnderTest,
    reference: ModelUnderTest,
    task: Task | None,
    at_least: float,
    *,
    confidence: float = 0.95,
    pairs: int = 20,
    warmup: int = 2,
    examples: int = 32,
    tokens: int | None = None,
    seed: int = 0,
) -> Timing:
    """Assert that `model` is at least `at_least` times as fast as `reference`, with confidence; return the times.

    Both run the same examples in turns, `pairs` times over (see `timing`), and what must reach `at_least` is the
    lower confidence bound on the median of the ratios reference/model; a number below 1 says how much slower it may
    be. Without a task (None) each runs its own sample. Neither other work on the machine nor the order of the two can
    favour one of them, but few pairs on a busy machine make the bound low.

    Raises CheckFailed (an AssertionError), InvalidArgument, and what `timing` raises.
    """
    __tracebackhide__ = True
    _check_positive("at_least", at_least, "how many times as fast the model must be, a number above 0 such as 1.2")
    found = timing(
        model,
        reference,
        task,
        pairs=pairs,
        warmup=warmup,
        examples=examples,
        confidence=confidence,
        tokens=tokens,
        seed=seed,
    )
    verdict = Verdict(
        check="assert_faster",
        passed=found.lower >= at_least,
        inconclusive=found.lower < at_least <= found.upper,
        observed=found.lower,
        required=f">= {at_least:g}",
        judged="bound on the speed-up",
        model=model.name,
        task=None if task is None else task.name,
        examples=found.examples,
        details=_details(found),
    )
    give(verdict, lambda: explain.not_faster(model, found, at_least))
    return found


def assert_smaller(model: ModelUnderTest, reference: ModelUnderTest, at_most: float) -> Sizes:
    """Assert that the model's weights take at most the share `at_most` of the reference's bytes; return both sizes.

    Bytes of parameters and persistent buffers, memory that tied weights share counted once (see `size`). Zeros take as
    many bytes as other numbers: a mask, or sparsity alone, makes no model smaller.

    Raises CheckFailed (an AssertionError), InvalidArgument, NothingToJudge for a reference without weights.
    """
    __tracebackhide__ = True
    check_model(model)
    check_model(reference, "reference")
    _check_positive("at_most", at_most, "a share of the reference's bytes, a number above 0 such as 0.8")
    if at_most > 1.0:
        raise InvalidArgument("at_most", at_most, "a share of the reference's bytes, up to 1 (0.8 is 80 %)")
    if model.model is reference.model:
        raise InvalidArgument("reference", reference.name, "another model: this is the one that is judged")
    found = Sizes(size(model), size(reference))
    if not found.reference.weight_bytes:
        raise NothingToJudge(f"{reference.name} has no weights", "Give the model that this one was made from.")
    verdict = Verdict(
        check="assert_smaller",
        passed=found.share <= at_most + _ROUNDING,
        observed=found.share,
        required=f"<= {at_most:g}",
        judged="share of the reference's weight bytes",
        model=model.name,
        details={
            "reference": reference.name,
            "weight_bytes": found.model.weight_bytes,
            "reference_weight_bytes": found.reference.weight_bytes,
            "parameters": found.model.parameters,
            "reference_parameters": found.reference.parameters,
        },
    )
    give(verdict, lambda: explain.not_smaller(model, reference, found.model, found.reference, at_most))
    return found


def _details(found: Timing) -> dict[str, Any]:
    return {
        "reference": found.reference,
        "speedup": found.speedup,
        "confidence": found.confidence,
        "pairs": len(found.seconds),
        "latency": list(found.latency),
        "reference_latency": list(found.reference_latency),
    }


def _check_positive(argument: str, value: object, expected: str) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if not numeric or not 0.0 < value < float("inf"):  # type: ignore[operator]
        raise InvalidArgument(argument, value, expected)
