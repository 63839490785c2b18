"""The CAT-score of one snippet: how far the pairs of high attention are those of short distance (Chen et al. 2022)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_bertology.significance import resample_counts

Array = npt.NDArray[Any]

_RESAMPLES = 2000


def near_pairs(distances: Array, quantile: float) -> npt.NDArray[np.bool_]:
    """(tokens, tokens) which pairs are nearer than the quantile of all distances, each token's own 0 among them."""
    if not distances.size:
        return np.zeros(distances.shape, dtype=bool)
    return np.asarray(distances < np.quantile(distances, quantile))


def cat_scores(attention: Array, near: npt.NDArray[np.bool_], quantile: float, rounding: float = 0.0) -> Array:
    """CAT = |M_A ∧ M_D| / |M_A ∨ M_D| for each of (heads, tokens, tokens); NaN where neither mask holds a pair.

    M_A are the weights above the quantile of all weights; weights within `rounding` of it, relative to it, are as great
    as it: equal weights are equal in arithmetic, and not always in floating point.
    """
    heads, tokens = attention.shape[:2]
    if not tokens:
        return np.full(heads, np.nan)
    flat = attention.reshape(heads, -1)
    high = flat > np.quantile(flat, quantile, axis=1, keepdims=True) * (1.0 + rounding)
    both, either = (high & near.ravel()).sum(axis=1), (high | near.ravel()).sum(axis=1)
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def random_attention(tokens: int, causal: bool, text: str, draws: int, seed: int) -> Iterator[Array]:
    """Attention (tokens, tokens) of a model that looks anywhere: each row uniform among all that add up to 1.

    That is Dirichlet(1, …, 1); rows of causal attention end at the diagonal. The text is part of the seed, so that what
    is drawn for it does not depend on the texts beside it.
    """
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    generator = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
    for _ in range(draws):
        drawn = generator.standard_exponential((tokens, tokens))
        drawn = np.tril(drawn) if causal else drawn
        yield drawn / drawn.sum(axis=1, keepdims=True)


def neighbour_attention(tokens: int, causal: bool) -> Array:
    """Attention (tokens, tokens) by distance in the text alone: exp(−|i − j|), rows adding up to 1."""
    at = np.arange(tokens, dtype=np.float64)
    weights = np.exp(-np.abs(at[:, None] - at))
    weights = np.tril(weights) if causal else weights
    found: Array = weights / weights.sum(axis=1, keepdims=True)
    return found


def bootstrap_interval(values: Array, confidence: float, seed: int) -> tuple[float, float] | None:
    """The percentile bootstrap's interval for the mean; None for fewer than two values. Their order does not matter."""
    if len(values) < 2:
        return None
    ordered = np.sort(values)
    means = np.concatenate([counts @ ordered for counts in resample_counts(len(ordered), _RESAMPLES, seed)])
    low, high = np.quantile(means / len(ordered), [(1.0 - confidence) / 2.0, (1.0 + confidence) / 2.0])
    return float(low), float(high)
