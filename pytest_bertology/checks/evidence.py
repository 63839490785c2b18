"""What a report shows beside a number: the examples whose results changed, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.measures.paired import changes
from pytest_bertology.tasks.metrics import CLASSIFICATION, LANGUAGE, REGRESSION, Array
from pytest_bertology.tasks.task import Task

MOST = 20
"""Examples that are shown."""
_TEXT = 300
"""Characters of a text; data sets may hold whole books."""
_ITEMS = 8
"""Tokens of an example whose labels are shown."""


def changed_evidence(
    before: Outcomes,
    after: Outcomes,
    names: Mapping[int, str] | None = None,
    positions: Sequence[int] | None = None,
    most: int = MOST,
) -> dict[str, Any]:
    """How many examples became worse and better, and the worst of them; for `Verdict.evidence`.

    Of single labels the worst are those that became wrong, the surest first ("margin": the distance of the two greatest
    logits after); of all other tasks those whose loss rose most ("margin": by how much). `names` of the labels by id,
    and `positions`, where in the task each result stands. Texts are as the data set has them, cut and not escaped.
    """
    kind = before.task.kind
    at = range(len(before)) if positions is None else positions
    lost, gained = changes(before.results(), after.results(), kind)
    if kind == CLASSIFICATION:
        wrong = np.flatnonzero(before.right & ~after.right)
        margins = _margins(after.logits[wrong])
    else:
        rises = after.losses - before.losses
        wrong = np.flatnonzero(rises > 0.0)
        margins = rises[wrong]
    worst = np.argsort(-margins, kind="stable")[:most]
    rows = [
        {
            "example": int(at[i]),
            "text": text_of(before.task, int(at[i])),
            **_said(before, after, int(i), names or {}),
            "margin": float(margin),
        }
        for i, margin in zip(wrong[worst], margins[worst], strict=True)
    ]
    return {"changed": {"lost": lost, "gained": gained, "worst": rows}}


def label_names(model: Any) -> Mapping[int, str]:
    """A model's names of its labels, where it has some."""
    found = getattr(getattr(getattr(model, "model", None), "config", None), "id2label", None)
    return found if isinstance(found, Mapping) else {}


def text_of(task: Task, index: int) -> str:
    """An example's text on its own, cut."""
    text = task.texts[index]
    joined = text if isinstance(text, str) else (" | " if task.pairs else " ").join(text)
    return joined if len(joined) <= _TEXT else joined[: _TEXT - 1] + "…"


def _margins(logits: Array) -> Array:
    if logits.ndim < 2 or logits.shape[-1] < 2 or not len(logits):
        return np.zeros(len(logits))
    two = np.sort(logits, axis=-1)[:, -2:]
    return np.asarray(two[:, 1] - two[:, 0], dtype=np.float64)


def _said(before: Outcomes, after: Outcomes, index: int, names: Mapping[int, str]) -> dict[str, str]:
    """Its label, and what was said of it before and after."""
    kind = before.task.kind
    if kind == LANGUAGE:
        return _losses(before, after, index)
    start = int(before.raw.counts[:index].sum()) if len(before.raw.labels) != len(before) else index
    items = slice(start, start + (int(before.raw.counts[index]) if len(before.raw.labels) != len(before) else 1))
    label, old, new = before.raw.labels[items], before.raw.predictions[items], after.raw.predictions[items]
    if kind == REGRESSION:
        return {"label": f"{label[0]:g}", "before": f"{old[0]:.3f}", "after": f"{new[0]:.3f}"}
    if kind != CLASSIFICATION:  # of the tokens, those that are judged otherwise now
        moved = np.flatnonzero(old != new)
        if not len(moved):
            return _losses(before, after, index)
        label, old, new = label[moved], old[moved], new[moved]
    return {name: _named(ids, names) for name, ids in (("label", label), ("before", old), ("after", new))}


def _losses(before: Outcomes, after: Outcomes, index: int) -> dict[str, str]:
    return {"label": "", "before": f"loss {before.losses[index]:.3f}", "after": f"loss {after.losses[index]:.3f}"}


def _named(ids: Array, names: Mapping[int, str]) -> str:
    shown = [names.get(int(each), str(int(each))) for each in ids[:_ITEMS]]
    return " ".join(shown) + (" …" if len(ids) > _ITEMS else "")
