"""Why a check of one model beside another, or of its weights, failed: the wording of the failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from pytest_bertology.checks.explain import shown, table
from pytest_bertology.errors import CutDiffers, describe_heads
from pytest_bertology.heads import HeadMask
from pytest_bertology.measures.agreement import Agreement
from pytest_bertology.measures.cost import Size
from pytest_bertology.measures.sparsity import Counted, Sparsity, ZeroPattern
from pytest_bertology.measures.structural import PrunedModel
from pytest_bertology.measures.timing import Spread, Timing
from pytest_bertology.measures.weights import WeightChange, WeightChanges
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import LANGUAGE

_EXAMPLES = 5
_WEIGHTS = 8
_LABELS = 6
"""Logits of more labels than these are not shown whole."""


def not_faster(model: ModelUnderTest, found: Timing, at_least: float) -> str:
    """The failure page of a speed check."""
    confidence = f"{found.confidence:.4g}"
    ratios = _spread(_quartiles(found), "{:.3f}".format)
    bound = (
        f"at least {found.lower:.4g} with {confidence} confidence (order statistic); required: at least {at_least:g}"
    )
    if found.speedup >= at_least:
        bound += (
            f". The median itself reaches that, but {len(found.seconds)} pairs do not establish it: "
            "use more pairs=, more examples=, or a quieter machine."
        )
    rows = {
        "model": f"{found.model} ({model.dtype} on {model.device}): {_paces(found.latency, found.throughput)}",
        "reference": f"{found.reference}: {_paces(found.reference_latency, found.reference_throughput)}",
        "ratio": f"{ratios} of {len(found.seconds)} pairs, reference by model",
        "true ratio": bound,
        "measured on": f"{found.examples} examples in {found.batches} {_plural(found.batches, 'batch', 'batches')}",
    }
    fast = f"{at_least:g} times as fast as its reference {found.reference}"
    title = f"{found.model} is not {fast}"
    if found.lower < at_least <= found.upper:
        title = f"it cannot be told whether {found.model} is {fast}"
    title += f": observed {found.speedup:.3g} times"
    return "\n".join([title, "", *table(rows)])


def not_smaller(model: ModelUnderTest, reference: ModelUnderTest, ours: Size, theirs: Size, at_most: float) -> str:
    """The failure page of a size check."""
    share = ours.weight_bytes / theirs.weight_bytes
    rows = {
        "model": f"{model.name} ({model.dtype}): {_size(ours)}",
        "reference": f"{reference.name} ({reference.dtype}): {_size(theirs)}",
        "share": f"{share:.4f} of the bytes; required: at most {at_most:g}",
    }
    if ours.parameters == theirs.parameters and ours.weight_bytes == theirs.weight_bytes:
        rows["note"] = "both keep as many numbers: masked heads and zeros are still there"
    return "\n".join(
        [f"{model.name} takes {share:.1%} of the bytes of its reference {reference.name}", "", *table(rows)]
    )


def changed_elsewhere(
    before: str, after: str, pattern: str, found: WeightChanges, outside: Sequence[WeightChange], matching: int
) -> str:
    """The failure page of a check on which weights changed."""
    inside = len(found.changes) - len(outside)
    title = f"{len(outside)} of {len(found.names)} weights changed whose names do not match {pattern!r}"
    rows = {
        "before": before,
        "after": after,
        "matching": f"{inside} of {matching} weights that match changed",
        "required": "no change of another, bit for bit",
    }
    ordered = sorted(outside, key=lambda change: (change.largest is not None, -(change.largest or 0.0)))
    lines = [f"    {change.name}: {_change(change)}" for change in ordered[:_WEIGHTS]]
    return "\n".join([title, "", *table(rows), "", *lines, *_more(len(ordered) - _WEIGHTS)])


def not_sparse(model: ModelUnderTest, found: Sparsity, at_least: float) -> str:
    """The failure page of a sparsity check."""
    least = sorted(found.matrices, key=lambda matrix: matrix.share)
    title = f"{found.share:.2%} of {model.name}'s {_units(found)} are sparse; required: at least {at_least:.2%}"
    rows = {
        "counted": f"{found.sparse} {found.unit} of {found.total}, in {len(found.matrices)} weight matrices",
        "missing": f"{int(np.ceil(at_least * found.total - 1e-9)) - found.sparse} more",
    }
    lines = [f"    {_counted(matrix)}" for matrix in least[:_WEIGHTS]]
    return "\n".join([title, "", *table(rows), "", "  the least sparse:", *lines, *_more(len(least) - _WEIGHTS)])


def zeros_lost(before: ModelUnderTest, after: ModelUnderTest, found: ZeroPattern) -> str:
    """The failure page of a check on the zero pattern."""
    worst = sorted((matrix for matrix in found.revived if matrix.sparse), key=lambda matrix: -matrix.share)
    title = f"{found.lost} of {found.zeros} zeros of {before.name} are zero no longer in {after.name}"
    rows = {
        "zeros": f"{found.before.share:.2%} of the weights before, {found.after.share:.2%} after",
        "required": "every zero still exactly zero",
        "where": f"{len(worst)} of {len(found.revived)} matrices with zeros",
    }
    lines = [f"    {_counted(matrix)}" for matrix in worst[:_WEIGHTS]]
    return "\n".join([title, "", *table(rows), "", "  revived:", *lines, *_more(len(worst) - _WEIGHTS)])


def outputs_differ(model: ModelUnderTest, reference: ModelUnderTest, found: Agreement, tolerance: float) -> str:
    """The failure page of a comparison of outputs."""
    beyond = int((found.differences > tolerance).sum())
    total = len(found.differences)
    title = f"{model.name} does not give the outputs of its reference {reference.name} on {beyond} of {total} examples"
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "reference": f"{reference.name} ({reference.heads.describe()}, {reference.dtype} on {reference.device})",
        "task": f"{found.model.task.name} ({total} examples)",
        "difference": f"{found.largest:.4g}, {found.judged}; required: at most {tolerance:g}",
        "median": f"{float(np.median(found.differences)):.4g} (of the examples' largest)",
    }
    if found.flipped is not None:
        rows["predictions"] = f"{found.changed} of {len(found.flipped)} changed"
    worst = np.argsort(-found.differences, kind="stable")[:_EXAMPLES]
    lines = [
        f"    #{i} {shown(found.model.task, int(i))}: {found.differences[i]:.4g}{_outputs(found, int(i))}"
        for i in worst
        if found.differences[i] > tolerance
    ]
    return "\n".join([title, "", *table(rows), "", "  the examples furthest apart:", *lines])


def cut_outputs_differ(model: ModelUnderTest, mask: HeadMask, found: PrunedModel, tolerance: float) -> str:
    """The failure page of a cut model whose outputs are not the masked one's on a task."""
    assert found.agreement is not None
    page = outputs_differ(found.model, model, found.agreement, tolerance).split("\n", 1)[1]
    return f"{model.name} with {_heads(model, mask)} cut is not the model with them masked\n{page}"


def cut_differs(model: ModelUnderTest, mask: HeadMask, error: CutDiffers) -> str:
    """The failure page of a cut model that was not the masked one on the sample."""
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "at": error.site,
        "difference": error.difference,
        "heads": describe_heads(mask.masked),
    }
    return "\n".join(
        [f"{model.name} with {_heads(model, mask)} cut is not the model with them masked", "", *table(rows)]
    )


def _heads(model: ModelUnderTest, mask: HeadMask) -> str:
    return f"{len(mask.masked)} of {len(model.heads)} heads"


def _quartiles(found: Timing) -> Spread:
    return Spread(*np.quantile(found.ratios, [0.25, 0.5, 0.75]).tolist())


def _spread(spread: Spread, written: Callable[[float], str]) -> str:
    return f"median {written(spread.median)}, quartiles {written(spread.lower)} to {written(spread.upper)}"


def _paces(latency: Spread, throughput: Spread) -> str:
    return f"{_spread(latency, _seconds)} per batch, {throughput.median:.4g} examples per second"


def _seconds(value: float) -> str:
    for scale, unit in ((1.0, "s"), (1e-3, "ms")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-6:.3g} µs"


def _size(size: Size) -> str:
    return f"{size.weight_bytes:,} bytes, {size.parameters:,} parameters"


def _change(change: WeightChange) -> str:
    if change.largest is None:
        return change.what
    return f"{change.numbers} of {change.size} numbers, by up to {change.largest:.3g}"


def _units(found: Sparsity) -> str:
    if found.pattern == "unstructured":
        return "weights"
    return "groups of four" if found.pattern == "2:4" else "{}×{} blocks".format(*found.pattern)


def _counted(matrix: Counted) -> str:
    return f"{matrix.name}: {matrix.sparse} of {matrix.total} ({matrix.share:.2%})"


def _more(count: int) -> list[str]:
    return [f"    and {count} more"] if count > 0 else []


def _outputs(found: Agreement, index: int) -> str:
    """What both gave for an example: its loss, or its logits where they are few and one row."""
    if found.model.task.kind == LANGUAGE:
        return f" (loss {found.reference.losses[index]:.4g} → {found.model.losses[index]:.4g})"
    theirs, ours = found.reference.logits[index], found.model.logits[index][..., list(found.order)]
    if theirs.ndim != 1 or len(theirs) > _LABELS:
        return ""
    return f" ([{_numbers(theirs)}] → [{_numbers(ours)}])"


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _plural(count: int, one: str, many: str) -> str:
    return one if count == 1 else many
