"""Why a check failed, for a tired engineer: what was measured, what was required, which heads, which examples."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from pytest_bertology.checks.drops import judge
from pytest_bertology.checks.explain_power import power_rows
from pytest_bertology.errors import describe_heads
from pytest_bertology.heads import Head, HeadMap, HeadScores
from pytest_bertology.measures.layer_retention import LayerRetention
from pytest_bertology.measures.retention import Retention
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.skipping import skipped
from pytest_bertology.rounding import rounded_down, rounded_up
from pytest_bertology.tasks.metrics import CLASSIFICATION
from pytest_bertology.tasks.task import Task

_EXAMPLES = 5


def not_retained(
    model: ModelUnderTest, found: Retention, tolerance: float, relative: bool, why: str, *, structural: bool = False
) -> str:
    """The failure page of a retention check."""
    gone = "cut" if structural else "masked"
    heads = found.heads
    total = len(model.heads)
    which = f"{len(heads)} of {total} heads {gone} ({len(heads) / total:.0%}{why})"
    title = f"{retained(found, tolerance, relative)} with {which}"
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "task": f"{found.baseline.task.name} ({len(found.baseline)} examples)",
        "baseline": f"{found.baseline.score:.4f}{_right(found, masked=False)}",
        gone: f"{found.masked.score:.4f}{_right(found, masked=True)}",
        "drop": f"{_drop(found, relative)}; required: at most {amount(tolerance, relative)}",
        **_bound(found, tolerance, relative),
        "heads": describe_heads(heads),
        **were(model.heads, heads),
        **idle(model, heads),
        **beside(model),
    }
    return "\n".join([title, "", *table(rows), *flipped(model, found)])


def layers_not_droppable(
    model: ModelUnderTest, found: LayerRetention, tolerance: float, relative: bool, why: str
) -> str:
    """The failure page of a check on skipped layers."""
    named = [f"{layer[1]} {layer[0]}" if isinstance(layer, tuple) else str(layer) for layer in found.layers]
    title = f"{retained(found, tolerance, relative)} without {len(named)} layer{'s' if len(named) != 1 else ''}{why}"
    rows = {
        "model": f"{model.name} ({model.heads.describe()}, {model.dtype} on {model.device})",
        "task": f"{found.baseline.task.name} ({len(found.baseline)} examples)",
        "baseline": f"{found.baseline.score:.4f}{_right(found, masked=False)}",
        "skipped": f"{found.masked.score:.4f}{_right(found, masked=True)}",
        "drop": f"{_drop(found, relative)}; required: at most {amount(tolerance, relative)}",
        **_bound(found, tolerance, relative),
        "layers": ", ".join(named) + " (from 0 at the bottom)",
        **({"masked too": describe_heads(found.heads)} if found.heads else {}),
        **beside(model, skips=False),
    }
    return "\n".join([title, "", *table(rows), *flipped(model, found)])


def heads_out_of_top(scores: HeadScores, missed: Mapping[Head, int], k: int) -> str:
    """The failure page of a ranking check."""
    title = f"{len(missed)} of the heads are not among the {k} most important of {len(scores.heads)} ({scores.method})"
    last = scores.top(k)[-1] if k else None
    rows = {str(head): f"rank {rank} (from 0), score {scores[head]:.4g}" for head, rank in missed.items()}
    required = {"required": f"rank below {k}" + (f": a score of {last}'s {scores[last]:.4g} or more" if last else "")}
    top = {f"top {min(k, 10)}": ", ".join(f"{head} {scores[head]:.4g}" for head in scores.top(min(k, 10)))}
    return "\n".join([title, "", *table({**rows, **were(scores.heads, list(missed)), **required, **top})])


def rankings_disagree(scores: HeadScores, other: HeadScores, correlation: float, required: float) -> str:
    """The failure page of a comparison of two rankings."""
    moved = sorted(scores.heads, key=lambda head: -abs(scores.rank(head) - other.rank(head)))[:_EXAMPLES]
    rows = {
        "correlation": f"{correlation:.4f} (Spearman, {len(scores.heads)} heads); required: at least {required}",
        "rankings": f"{scores.method} and {other.method}",
        "most moved": ", ".join(f"{head} {scores.rank(head)} → {other.rank(head)}" for head in moved),
    }
    return "\n".join(["the two rankings of heads do not agree", "", *table(rows)])


def table(rows: Mapping[str, str]) -> list[str]:
    """Names and values in two columns, long values wrapped."""
    width = max(map(len, rows), default=0)
    lines = []
    for name, value in rows.items():
        wrapped = textwrap.wrap(value, 96, break_long_words=False) or [""]
        lines.append(f"  {name:<{width}}  {wrapped[0]}")
        lines += [f"  {'':<{width}}  {line}" for line in wrapped[1:]]
    return lines


def _right(found: Retention, *, masked: bool) -> str:
    if found.baseline.task.kind != CLASSIFICATION:
        return ""
    right = (found.masked if masked else found.baseline).right
    return f" ({int(right.sum())} of {len(right)} right)"


def _drop(found: Retention, relative: bool) -> str:
    return f"{found.relative_drop:.2%} of the baseline" if relative else f"{found.drop:.4f}"


def amount(value: float, relative: bool) -> str:
    """A drop or tolerance, in units of the metric or as a share of the baseline."""
    return f"{value:.2%} of the baseline" if relative else f"{value:g}"


def _bound(found: Retention, tolerance: float, relative: bool) -> dict[str, str]:
    """The bound, and what it means where the data and not the model is what falls short."""
    if found.bound is None:
        return {}
    scale = found.scale() if relative else 1.0
    upper, lower = found.bound.upper / scale, found.bound.lower / scale
    observed = found.relative_drop if relative else found.drop
    most, least = rounded_up(upper, percent=relative), rounded_down(lower, percent=relative)
    said = f"below {most} with {found.bound.confidence:.0%} confidence ({found.bound.method})"
    p_value = judge(found, tolerance, relative).p_value
    n = len(found.baseline)
    if lower > tolerance:
        said += f", and above {least} with as much"
    elif observed <= tolerance < upper:
        said += (
            f". The drop itself is within the tolerance, but {n} examples cannot establish that: the smallest "
            f"tolerance that they could is {most}. Use more examples or that tolerance."
        )
    elif tolerance < observed:
        said += f", and above {least} with as much: {n} examples cannot tell that it is too large"
    # What a refuted drop could have been established by is beside the point.
    power = power_rows(found, tolerance, relative) if judge(found, tolerance, relative).inconclusive else []
    return {
        "true drop": said,
        "p": f"{p_value:.2g} (of a true drop of the tolerance or more)",
        **({"power": "; ".join(power)} if power else {}),
    }


def retained(found: Retention, tolerance: float, relative: bool) -> str:
    """That the score is not retained, or that it cannot be told."""
    metric = found.baseline.metric.name
    if judge(found, tolerance, relative).inconclusive:
        return f"it cannot be told whether {metric} is retained"
    return f"{metric} is not retained"


def were(heads: HeadMap, named: Sequence[Head]) -> dict[str, str]:
    """Of a cut model's heads, which they were before."""
    if heads.kept is None:
        return {}
    names = [heads.kept[heads.index(head)] for head in named]
    return {"which were": f"{describe_heads(names)} before heads were cut out of the model"}


def idle(model: ModelUnderTest, heads: Sequence[Head]) -> dict[str, str]:
    """Of these heads, which move nothing."""
    found = [head for head in heads if head in model.check.idle]
    them = "it" if len(found) == 1 else "them"
    return {"idle": f"{describe_heads(found)} (masking {them} moves nothing)"} if found else {}


def beside(model: ModelUnderTest, *, skips: bool = True) -> dict[str, str]:
    """What is in force beside masks, not in the baseline: attention, erasures, (with `skips`) skipped layers."""
    changes, layers, erased = model.attention_changes(), skipped(model) if skips else (), model.erased()
    return {
        **({"attention": f"changed: {'; '.join(changes)}; not so for the baseline"} if changes else {}),
        **({"skipped": f"{', '.join(layers)}; not so for the baseline"} if layers else {}),
        **({"erased too": f"{'; '.join(erased)}; not so for the baseline"} if erased else {}),
    }


def flipped(model: ModelUnderTest, found: Retention, positions: Sequence[int] | None = None) -> list[str]:
    """The examples that the mask made wrong, the surest first; `positions` say where in the task each result stands."""
    at = range(len(found.baseline)) if positions is None else positions
    if found.baseline.task.kind != CLASSIFICATION:
        return _worst_losses(found, at)
    lost = np.flatnonzero(found.baseline.right & ~found.masked.right)
    gained = int((~found.baseline.right & found.masked.right).sum())
    if not len(lost):
        return []
    margins = np.array([_margin(found.masked.logits[i]) for i in lost])
    worst = lost[np.argsort(-margins, kind="stable")][:_EXAMPLES]
    names = model.model.config.id2label
    among = "" if positions is None else f"of these {len(at)}, "
    lines = ["", f"  {among}{len(lost)} became wrong and {gained} right; the worst of them:"]
    for i in worst:
        label, says = (names[int(a[i])] for a in (found.baseline.labels, found.masked.predictions))
        sure = _margin(found.masked.logits[i])
        lines.append(f"    #{at[i]} {shown(found.baseline.task, at[i])}: {label}, now {says} (margin {sure:.2f})")
    return lines


def _worst_losses(found: Retention, at: Sequence[int]) -> list[str]:
    rise = found.masked.losses - found.baseline.losses
    worst = np.argsort(-rise, kind="stable")[:_EXAMPLES]
    lines = ["", "  the examples whose loss rose most:"]
    for i in worst:
        before, after = found.baseline.losses[i], found.masked.losses[i]
        lines.append(f"    #{at[i]} {shown(found.baseline.task, at[i])}: {before:.3f} → {after:.3f}")
    return lines


def _margin(logits: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    two = np.sort(logits)[-2:]
    return float(two[1] - two[0])


def shown(task: Task, index: int) -> str:
    """An example's text on one line, control characters escaped."""
    text = task.texts[index]
    parts = [text] if isinstance(text, str) else list(text)
    joined = (" | " if task.pairs else " ").join(parts)
    return repr(joined if len(joined) <= 100 else joined[:99] + "…")
