"""A mask that does nothing makes every test green: it is refused."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pytest_bertology.errors import MaskNotApplied
from pytest_bertology.heads import Head
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.models import ModelUnderTest


def refuse_no_op(model: ModelUnderTest, baseline: Outcomes, masked: Outcomes, heads: Iterable[Head]) -> None:
    """Raise MaskNotApplied where some of `heads` are not idle, and masking them changed no result, bit for bit."""
    live = [head for head in heads if head not in model.check.idle]
    one, other = baseline.raw, masked.raw
    if live and np.array_equal(one.losses, other.losses) and np.array_equal(one.logits, other.logits):
        names = " ".join(map(str, live[:8]))
        where = f"{model.name} on {baseline.task.name}"
        raise MaskNotApplied(f"masking {names} changes no result of {where}, bit for bit")
