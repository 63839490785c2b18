"""INLP: iterative null-space projection (Ravfogel et al. 2020), and random directions as its control."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pytest_bertology.engine.progress import tracked
from pytest_bertology.errors import UndefinedScore
from pytest_bertology.measures.leace import Array, Directions
from pytest_bertology.measures.relation_intervals import paired_difference

_PENALTIES = (1e-2, 1e-4, 1e-6)
"""On half the squared weights of a classifier, beside its mean loss: a weaker one once a stronger finds no more."""
_ONE_ERROR = 0.68
"""Confidence of an interval of one standard error to either side."""
_MOST_STEPS = 2000
_ROUNDING = 1e-6
"""Standard deviation of a dimension, in units of the size of all, that is rounding."""
_NOTHING = 1e-6
"""Weights of a classifier, in units of its greatest, that are rounding."""


@dataclass(frozen=True)
class Labelled:
    """Vectors and their labels, numbers from 0; items of one cluster are not independent of each other."""

    vectors: Array
    """(items, width)"""
    labels: Array
    """(items,)"""
    clusters: Array
    """(items,)"""


@dataclass(frozen=True)
class Projected:
    """What INLP found."""

    directions: Directions
    iterations: int
    """Classifiers whose directions are taken out."""
    converged: bool
    """Whether the last classifier trained was no better than the majority class."""


def inlp(train: Labelled, held_out: Labelled, most: int, what: str) -> Projected:
    """Take out the directions of one linear classifier after the other, until one is no better than the majority.

    Ravfogel et al. 2020, algorithm 1. Each classifier (multinomial logistic regression on what is left of the training
    vectors) decides by the inner products with its weights, one vector for each class; the vectors are projected on the
    intersection of the null spaces of all classifiers so far, an orthogonal projection around the mean. It stops at the
    first classifier that is right on the held-out part no more often than the majority class, or by no more than one
    standard error (clusters kept together), with weaker penalties, too; after `most` classifiers; or when nothing is
    left. Labels may need more directions than they have dimensions, as single classifiers miss some: see `leace`.
    """
    mean = train.vectors.mean(axis=0, dtype=np.float64)
    centred, judged = (part.vectors.astype(np.float64) - mean for part in (train, held_out))
    majority = int(np.bincount(train.labels).argmax())
    basis = np.zeros((centred.shape[1], 0))
    least = _ROUNDING * max(float(np.sqrt(np.mean(np.square(train.vectors, dtype=np.float64)))), 1e-30)
    iterations = strength = 0
    with tracked(f"INLP of {what}", most) as show:
        while True:
            left, others = (part - (part @ basis) @ basis.T for part in (centred, judged))
            scale = _scale(left, least)
            weights, said = _classifier(left * scale, train.labels, others * scale, _PENALTIES[strength], what)
            found = paired_difference(
                np.equal(said, held_out.labels).astype(float),
                np.equal(majority, held_out.labels).astype(float),
                held_out.clusters,
                _ONE_ERROR,
            )
            no_better = found.interval[0] <= 0.0
            if no_better and strength + 1 < len(_PENALTIES):
                strength += 1
                continue
            if no_better or iterations == most or basis.shape[1] == len(mean):
                break
            basis = _extended(basis, weights * scale)
            iterations += 1
            show(iterations)
    return Projected(Directions(mean, basis, basis), iterations, no_better)


def random_directions(mean: Array, rank: int, seed: tuple[int, ...]) -> Directions:
    """So many directions drawn at random, orthonormal: the same for the same seed."""
    drawn = np.random.default_rng(seed).standard_normal((len(mean), rank))
    basis = np.linalg.qr(drawn)[0]
    return Directions(mean, basis, basis)


def _classifier(vectors: Array, labels: Array, judged: Array, penalty: float, what: str) -> tuple[Array, Array]:
    """The weights (directions, width) of a linear classifier, and what it says of other vectors."""
    model = LogisticRegression(C=1.0 / (penalty * len(labels)), tol=1e-5, max_iter=_MOST_STEPS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # said by an error
        model.fit(vectors, labels)
    if int(np.max(model.n_iter_)) >= _MOST_STEPS or not np.isfinite(model.coef_).all():
        raise UndefinedScore(f"INLP of {what}", f"a classifier did not converge in {_MOST_STEPS} steps")
    return model.coef_, np.asarray(model.predict(judged))


def _scale(vectors: Array, least: float) -> Array:
    """(width,) what brings each dimension to unit variance; 0 for those that vary by no more than `least`."""
    deviation = vectors.std(axis=0)
    return np.where(deviation > least, 1.0 / np.where(deviation > least, deviation, 1.0), 0.0)


def _extended(basis: Array, weights: Array) -> Array:
    """An orthonormal basis of what both span."""
    rest = weights - (weights @ basis) @ basis.T
    _, sizes, rows = np.linalg.svd(rest, full_matrices=False)
    new = rows[sizes > _NOTHING * float(sizes[0])]
    found: Array = np.linalg.qr(np.hstack([basis, new.T]))[0]
    return found
