"""Checks on the weights themselves: which changed, how many are zero, and which stay so."""

from __future__ import annotations

from pytest_bertology.checks import explain_models as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.sparsity import (
    Pattern,
    Sparsity,
    ZeroPattern,
    regular_expression,
    sparsity,
    zero_pattern,
)
from pytest_bertology.measures.weights import WeightChanges, WeightSource, nothing_changed, said, weight_changes
from pytest_bertology.models import ModelUnderTest

_SHOWN = 20
_ROUNDING = 1e-12


def assert_only_changed(before: WeightSource, after: WeightSource, pattern: str) -> WeightChanges:
    """Assert that of two models' weights only those differ whose full name matches `pattern`; return what changed.

    What training of a part must leave alone (BitFit: Ben Zaken et al. 2022 train `r"bias|classifier"`). Either side is
    a loaded model, a live one, a state dict, or a folder with safetensors. Parameters and persistent buffers are
    compared bit for bit; `pattern` is searched for anywhere in the name (`re.search`). Weights that came, went or have
    another shape or dtype are changes too.

    Raises CheckFailed (an AssertionError), NothingToJudge where nothing changed at all, InvalidArgument for a pattern
    that matches no weight, or all of them, and what `weight_changes` raises.
    """
    __tracebackhide__ = True
    search = regular_expression("pattern", pattern).search
    found = weight_changes(before, after)
    matching = [name for name in found.names if search(name)]
    if not matching:
        raise InvalidArgument(
            "pattern", pattern, f"a regular expression that is found in the name of a weight, such as {found.names[0]}"
        )
    if len(matching) == len(found.names):
        expected = f"one that leaves some weights out: it matches all {len(matching)}, and the check could not fail"
        raise InvalidArgument("pattern", pattern, expected)
    if not found.changes:
        raise nothing_changed(before, after, len(found.names))
    outside = tuple(change for change in found.changes if not search(change.name))
    verdict = Verdict(
        check="assert_only_changed",
        passed=not outside,
        observed=float(len(outside)),
        required="<= 0",
        judged="weights changed outside the pattern",
        model=said(after),
        details={
            "before": said(before),
            "pattern": pattern,
            "changed": len(found.changes),
            "weights": len(found.names),
            "outside": [change.name for change in outside[:_SHOWN]],
        },
    )
    give(verdict, lambda: explain.changed_elsewhere(said(before), said(after), pattern, found, outside, len(matching)))
    return found


def assert_sparsity(
    model: ModelUnderTest, at_least: float, pattern: Pattern = "unstructured", *, weights: str | None = None
) -> Sparsity:
    """Assert that the model's weight matrices are sparse, by a share of at least `at_least`; return what was counted.

    `pattern` "unstructured" counts zeros, (rows, columns) blocks of zeros on the grid of outputs by inputs, "2:4"
    groups of four along the inputs with two zeros or more: shares of all numbers, blocks or groups together. Matrices
    that blocks or groups do not divide evenly are refused. Counted are the linear maps of the layers with attention
    heads, or those in whose full names `weights`, a regular expression, is found. What Prune Once for All reaches is
    0.85 to 0.9 unstructured (Zafrir et al. 2021).

    Raises CheckFailed (an AssertionError), InvalidArgument, NonFinite for NaN.
    """
    __tracebackhide__ = True
    numeric = isinstance(at_least, int | float) and not isinstance(at_least, bool)
    if not numeric or not 0.0 < at_least <= 1.0:
        raise InvalidArgument("at_least", at_least, "a share above 0 and up to 1, such as 0.85")
    found = sparsity(model, pattern, weights)
    verdict = Verdict(
        check="assert_sparsity",
        passed=found.share >= at_least - _ROUNDING,
        observed=found.share,
        required=f">= {at_least:g}",
        judged=f"share of {found.unit}",
        model=model.name,
        details={"sparse": found.sparse, "total": found.total, "matrices": len(found.matrices)},
    )
    give(verdict, lambda: explain.not_sparse(model, found, at_least))
    return found


def assert_sparsity_preserved(
    before: ModelUnderTest, after: ModelUnderTest, *, weights: str | None = None
) -> ZeroPattern:
    """Assert that every weight that was zero before is exactly zero after; return what became of the zeros.

    The zero pattern that fine-tuning of a sparse model must keep (Zafrir et al. 2021). Looked at are the matrices that
    `assert_sparsity` counts, matched by name; the two models may have different task heads.

    Raises CheckFailed (an AssertionError), NothingToJudge where `before` has none to speak of, InvalidArgument where
    `after` lacks a matrix, NonFinite for NaN.
    """
    __tracebackhide__ = True
    if isinstance(before, ModelUnderTest) and isinstance(after, ModelUnderTest) and before.model is after.model:
        raise InvalidArgument("after", after.name, "another model than before; keep a copy from before the training")
    found = zero_pattern(before, after, weights)
    verdict = Verdict(
        check="assert_sparsity_preserved",
        passed=not found.lost,
        observed=float(found.lost),
        required="<= 0",
        judged="zeros revived",
        model=after.name,
        details={
            "before": before.name,
            "zeros": found.zeros,
            "sparsity_before": found.before.share,
            "sparsity_after": found.after.share,
            "matrices": [matrix.name for matrix in found.revived if matrix.sparse][:_SHOWN],
        },
    )
    give(verdict, lambda: explain.zeros_lost(before, after, found))
    return found
