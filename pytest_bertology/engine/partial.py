"""A model's results on a growing part of the examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import Encoded
from pytest_bertology.engine.progress import reporting_to, tracked
from pytest_bertology.engine.results import RawResults, run
from pytest_bertology.heads import HeadMask
from pytest_bertology.models import ModelUnderTest


def run_in_parts(
    inputs: tuple[ModelUnderTest, Encoded, HeadMask, Batching],
    where: str,
    next_part: Callable[[], npt.NDArray[Any]],
    learn: Callable[[npt.NDArray[Any], RawResults], bool],
) -> tuple[tuple[int, ...], RawResults]:
    """Run the examples that `next_part` names, part by part, until it names none or `learn` says that it is enough.

    Predictions are those of a run over all examples (near ties are decided by the example alone), losses up to float
    noise. Returns the positions that were run, ascending, and their results in that order. Raises as `run` does.
    """
    model, encoded, mask, batching = inputs
    ran = 0
    with tracked(where, len(encoded.examples)) as show:

        def run_part(positions: npt.NDArray[Any]) -> RawResults:
            nonlocal ran
            with reporting_to(lambda title, total: nullcontext(lambda count: show(ran + count))):
                part = run(model, encoded, mask, batching, where, positions=positions.tolist())
            ran += len(positions)
            return part

        return in_parts(run_part, next_part, learn)


def in_parts(
    part_at: Callable[[npt.NDArray[Any]], RawResults],
    next_part: Callable[[], npt.NDArray[Any]],
    learn: Callable[[npt.NDArray[Any], RawResults], bool],
) -> tuple[tuple[int, ...], RawResults]:
    """`run_in_parts` with any way to have the results of a part: of results that are known, those at its positions."""
    done: list[int] = []
    parts: list[RawResults] = []
    while len(positions := next_part()):
        part = part_at(positions)
        done.extend(positions.tolist())
        parts.append(part)
        if learn(positions, part):
            break
    joined = RawResults(
        **{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(RawResults)}
    )
    order = np.argsort(done)
    return tuple(np.sort(done).tolist()), taken(joined, order)


def taken(raw: RawResults, positions: Sequence[int] | npt.NDArray[Any]) -> RawResults:
    """The results at these positions, in this order."""
    positions = np.asarray(positions)
    ends = np.cumsum(raw.counts)
    items = np.concatenate([np.arange(ends[at] - raw.counts[at], ends[at]) for at in positions])
    return RawResults(
        losses=raw.losses[positions],
        counts=raw.counts[positions],
        labels=raw.labels[items],
        predictions=raw.predictions[items],
        logits=raw.logits[items],
    )
