"""The probes of an online code: multinomial logistic regressions on the same items, from the strongest penalty down."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize

from pytest_bertology.errors import UndefinedScore
from pytest_bertology.tasks.items import Ints

Array = npt.NDArray[Any]

_CURVATURE = 0.1
"""Of the cross entropy, as a share of the vectors' own: only how fast the fit arrives depends on it, not where."""
_SLOPE = 1e-5
"""Largest slope that is left, times the root of how many items there are: what a sum of so many may be off by.

The loss is about half the squared distance there; code lengths come out to one part in 100,000."""
_MOST = 10_000


class Learner:
    """Fits probes to the same labelled vectors, each from where the last ended.

    A probe is the unique minimum of the summed cross entropy, in nats, and half the penalty times the squared weights;
    biases are not penalised. `vectors` (items, width) are float64 and standardised.
    """

    def __init__(self, vectors: Array, labels: Ints, classes: int, what: str) -> None:
        self._vectors, self._classes, self._what = vectors, classes, what
        self._present, self._labels = np.unique(labels, return_inverse=True)
        self._products = vectors.T @ vectors
        self._weights = np.zeros((vectors.shape[1], len(self._present)))
        self._biases = np.zeros(len(self._present))

    def probabilities(self, vectors: Array, penalty: float) -> Array:
        """(items, classes) what the probe of this penalty says of other vectors; 0 for labels that it never saw."""
        if len(self._present) > 1:
            self._fit(penalty)
        logits = vectors @ self._weights + self._biases
        logits -= logits.max(axis=1, keepdims=True)
        said = np.exp(logits)
        found = np.zeros((len(vectors), self._classes))
        found[:, self._present] = said / said.sum(axis=1, keepdims=True)
        return found

    def _fit(self, penalty: float) -> None:
        vectors, count = self._vectors, len(self._present)
        rows, shape = np.arange(len(vectors)), (vectors.shape[1] + 1, count)
        # In these coordinates the loss curves alike in all directions, and L-BFGS needs a third of the steps.
        root = cholesky(_CURVATURE * self._products + penalty * np.eye(vectors.shape[1]), lower=True)
        size = float(np.sqrt(_CURVATURE * len(vectors)))

        def loss(point: Array) -> tuple[float, Array]:
            own = point.reshape(shape)
            weights = solve_triangular(root, own[:-1], lower=True, trans="T")
            logits = vectors @ weights + own[-1] / size
            logits -= logits.max(axis=1, keepdims=True)
            right = float(logits[rows, self._labels].sum())
            said = np.exp(logits, out=logits)
            sums = said.sum(axis=1, keepdims=True)
            value = float(np.log(sums).sum()) - right + 0.5 * penalty * float((weights**2).sum())
            said /= sums
            said[rows, self._labels] -= 1.0
            steep = solve_triangular(root, vectors.T @ said + penalty * weights, lower=True)
            return value, np.concatenate([steep, said.sum(axis=0, keepdims=True) / size]).ravel()

        slope = _SLOPE * float(np.sqrt(len(vectors)))
        start = np.concatenate([root.T @ self._weights, size * self._biases[None]]).ravel()
        options = {"maxiter": _MOST, "maxfun": 2 * _MOST, "gtol": slope, "ftol": 0.0}
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        if float(np.abs(found.jac).max()) > 10.0 * slope:
            reason = f"the probe of penalty {penalty:g} on {len(vectors)} items did not converge ({found.message})"
            raise UndefinedScore(self._what, reason)
        own = found.x.reshape(shape)
        self._weights, self._biases = solve_triangular(root, own[:-1], lower=True, trans="T"), own[-1] / size
