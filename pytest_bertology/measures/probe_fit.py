"""A linear combination of attention maps that predicts each word's head, fitted by a deterministic convex optimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize

from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.words import Words
from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.relation_cases import Dependencies

Array = npt.NDArray[Any]

_COLUMNS = 2**14
"""Pairs of words that are brought to float64 at a time."""
_STEPS = 1000
_SAME = 1e-7
"""Attention that varies by less varies by rounding."""


class Pairs:
    """All pairs of words of some sentences, sentence by sentence: pair (i, j) of n words is number i·n + j.

    The maps of a sentence say how much word i attends to word j; `turned` is the number of (j, i).
    """

    def __init__(self, words: Words, cases: Dependencies) -> None:
        lengths = np.array([len(sentence) for sentence in words.sentences], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(lengths**2)])
        """Where each sentence's pairs begin."""
        self.count = int(self.starts[-1])
        first = np.concatenate([[0], np.cumsum(lengths)])
        self.turned = np.concatenate([_turned(int(n)) + start for n, start in zip(lengths, self.starts, strict=False)])
        self.rows = np.repeat(np.arange(int(first[-1])), np.repeat(lengths, lengths))
        """Of each pair, which word of all sentences the first is."""
        self.row_starts = np.flatnonzero(np.diff(self.rows, prepend=-1))
        self.open = np.concatenate([_open(present) for present in words.present])
        """Of each pair, whether the second can be the first's head: another word that has a token."""
        asked = first[cases.sentences] + cases.dependents
        self.asked = np.isin(np.arange(int(first[-1])), asked)
        """Of each word, whether its head is asked for."""
        self.gold = self.row_starts[asked] + cases.governors
        """The pairs (word, its head) of words whose head is asked for."""

    def place(self, sentence: int) -> slice:
        """Where a sentence's pairs are."""
        return slice(int(self.starts[sentence]), int(self.starts[sentence + 1]))


def predicted(maps: Array, weights: Array, present: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """For each word which other word its head is: `maps` (heads, words, words), `weights` (2, heads).

    The greatest of Σ_k weights[0, k] A_k[j, i] + weights[1, k] A_k[i, j] for the word j, over words i that have tokens.
    """
    scores = np.tensordot(weights[0], maps, 1) + np.tensordot(weights[1], maps, 1).T
    scores[~_open(present).reshape(scores.shape)] = -np.inf
    found: npt.NDArray[np.int64] = scores.argmax(axis=1)
    return found


def objective(theta: Array, maps: Array, pairs: Pairs, scale: Array, penalty: float) -> tuple[float, Array]:
    """Mean cross entropy of the words' heads in nats, plus half the penalty times `theta` squared; its gradient.

    `maps` (heads, pairs), `theta` (2 · heads,): the weights of A, then those of Aᵀ, times each head's `scale`.
    """
    weights = theta.reshape(2, -1) / scale
    combined = np.empty((2, pairs.count))
    for at in _columns(pairs.count):
        combined[:, at] = weights @ maps[:, at].astype(np.float64)
    values = np.where(pairs.open, combined[0] + combined[1][pairs.turned], -np.inf)
    greatest = np.maximum.reduceat(values, pairs.row_starts)
    greatest[~np.isfinite(greatest)] = 0.0  # a word that can have no head: not judged
    odds = np.exp(values - greatest[pairs.rows])
    sums = np.add.reduceat(odds, pairs.row_starts)
    normaliser = np.log(np.maximum(sums, 1e-300)) + greatest
    count = len(pairs.gold)
    loss = float((normaliser[pairs.asked] - values[pairs.gold]).sum()) / count
    slope = odds / np.maximum(sums, 1e-300)[pairs.rows] * pairs.asked[pairs.rows]
    slope[pairs.gold] -= 1.0
    slope /= count
    both = np.stack([slope, slope[pairs.turned]])
    gradient = np.zeros_like(weights)
    for at in _columns(pairs.count):
        gradient += both[:, at] @ maps[:, at].T.astype(np.float64)
    return loss + 0.5 * penalty * float(theta @ theta), (gradient / scale).ravel() + penalty * theta


def fit(maps: Array, pairs: Pairs, penalty: float, title: str) -> tuple[Array, float]:
    """The weights (2, heads) of least `objective`, and it; the same on every call.

    The penalty is on weights of maps of unit variance: a head whose attention is almost even, as all of a model with
    random weights, is not kept from being heard. Raises UndefinedScore where the optimiser does not arrive.
    """
    scale = _spread(maps, pairs)
    steps = 0
    with tracked(title, _STEPS) as show:

        def count(_: Array) -> None:
            nonlocal steps
            steps += 1
            show(steps)

        result = optimize.minimize(
            objective,
            np.zeros(2 * len(maps)),
            args=(maps, pairs, scale, penalty),
            jac=True,
            method="L-BFGS-B",
            callback=count,
            options={"maxiter": _STEPS, "maxcor": 30, "gtol": 1e-6, "ftol": 1e-12},
        )
    if not result.success or not np.isfinite(result.x).all():
        raise UndefinedScore("the attention probe", f"its fit did not converge in {result.nit} steps: {result.message}")
    return result.x.reshape(2, -1) / scale, float(result.fun)


def _spread(maps: Array, pairs: Pairs) -> Array:
    """(heads,) the standard deviation of attention between different words; 1 where all of it is the same."""
    found = np.array([float(each[pairs.open].astype(np.float64).std()) for each in maps])
    return np.where(found > _SAME, found, 1.0)


def _columns(count: int) -> list[slice]:
    return [slice(start, min(start + _COLUMNS, count)) for start in range(0, count, _COLUMNS)]


def _turned(n: int) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = np.arange(n * n, dtype=np.int64).reshape(n, n).T.ravel()
    return found


def _open(present: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(words · words,) whether the second can be the first's head."""
    able = np.broadcast_to(present, (len(present),) * 2).copy()
    np.fill_diagonal(able, False)
    found: npt.NDArray[np.bool_] = able.ravel()
    return found
