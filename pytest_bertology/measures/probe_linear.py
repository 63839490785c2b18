"""Linear probes: multinomial logistic regression, its penalty chosen on a held-out part."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from pytest_bertology.engine.store import Arrays
from pytest_bertology.errors import UndefinedScore

Array = npt.NDArray[Any]

SKLEARN, TORCH = "scikit-learn", "torch"
BACKENDS = (SKLEARN, TORCH)

PENALTIES = tuple(float(f"{10.0 ** (-step / 2.0):.3g}") for step in range(-2, 13))
"""From the strongest, 10, each √10 weaker than the one before, down to 10^-6."""
_FIRST = PENALTIES.index(0.00316)
"""Tried first, then the weaker ones as long as they are better; where none is, the stronger ones."""
BETTER = 1e-4
"""Nats by which a loss must be lower to be better: less is rounding, or not worth the step."""
_LOOSE, _TIGHT, _ALLOWED = 1e-4, 3e-7, 1e-6
"""Greatest slope of the loss that is left where penalties are compared, aimed at in the end, and let pass in the end.

With the last, logits of POS probes are within about 10^-3 of the true ones."""
_MOST = 20_000
_NOISE = 1e-5
"""Dimensions that vary by less, in units of their own size and of their layer's, vary by rounding."""


@dataclass(frozen=True)
class Split:
    """What a probe of one layer learns from, chooses by, and is judged on: vectors as `standardised` gives them."""

    train: Array
    """(items, width)."""
    labels: Array
    """(items,) numbers."""
    held_out: Array
    held_out_labels: Array
    tested: Array


def standardised(train: Array, *others: Array) -> list[Array]:
    """All in units of the training part's standard deviation around its mean, in float32.

    A dimension that does not vary in training by more than rounding says nothing there, and becomes 0 everywhere: by
    rounding, one part in 10^5 of its own largest value, and of the root mean square of all, is meant.
    """
    typical = float(np.sqrt(np.mean(np.square(train, dtype=np.float64))))
    size = np.maximum(np.abs(train).max(axis=0), typical).astype(np.float64)
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > _NOISE * size, deviation, np.inf)
    found = []
    for each in (train, *others):
        moved = each.astype(np.float64)
        moved -= mean
        moved /= scale
        found.append(moved.astype(np.float32))
    return found


def linear_probe(split: Split, what: str, *, backend: str = SKLEARN, device: str = "cpu") -> Arrays:
    """Fit with several penalties, and predict by the one of least loss on the held-out part.

    Minimised is the mean cross entropy in nats plus half the penalty times the squared weights, biases left out; of two
    classes there is one vector of weights, else one for each. Its minimum is unique. Each fit starts where the last
    ended, and the chosen one is then fitted tightly: its slope, looked at in float64, is at most 10^-6. Held-out items
    whose label is not trained on have no loss.

    Returns "predictions" of the tested part, those "held_out", and the "curve": for each penalty tried, from the
    strongest, itself, losses on the training and held-out parts, shares of them that are right, and the optimiser's
    steps; "chosen" is the position of the penalty taken. Raises UndefinedScore where the optimiser does not arrive.
    """
    with quietly():
        return unquiet_probe(split, what, backend=backend, device=device)


@contextmanager
def quietly() -> Iterator[None]:
    """Without scikit-learn's warnings: what does not converge is seen by its slope, and told by an error.

    Filters of warnings are all threads': to be entered by the one that waits for the others.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def unquiet_probe(split: Split, what: str, *, backend: str, device: str) -> Arrays:
    """`linear_probe` for threads that run side by side, within `quietly`."""
    present, labels = np.unique(split.labels, return_inverse=True)
    held = np.searchsorted(present, split.held_out_labels)
    held[~np.isin(split.held_out_labels, present)] = len(present)
    if not (held < len(present)).any():
        raise UndefinedScore(what, "no item of the held-out part has a label that is trained on")
    if len(present) == 1:
        return _constant(split, present)
    problem = _Problem(split.train, labels, len(present), what, backend, device)

    def row(penalty: float, weights: Array, steps: int) -> tuple[float, ...]:
        said = [logits_of(part, weights) for part in (split.train, split.held_out)]
        losses = [_loss(each, of) for each, of in zip(said, (labels, held), strict=True)]
        right = [float((each.argmax(axis=1) == of).mean()) for each, of in zip(said, (labels, held), strict=True)]
        return penalty, *losses, *right, steps

    rows: dict[int, tuple[float, ...]] = {}
    found: dict[int, Array] = {}
    best = _FIRST
    for direction in (1, -1):
        at, weights = _FIRST, found.get(_FIRST, problem.start)
        while 0 <= at < len(PENALTIES):
            if at not in rows:
                weights, steps = problem.solved(weights, PENALTIES[at], tight=False)
                rows[at], found[at] = row(PENALTIES[at], weights, steps), weights
                if at != best and rows[at][2] >= rows[best][2] - BETTER:
                    break
                best = at
            at += direction
        if best > _FIRST:
            break
    weights, steps = problem.solved(found[best], PENALTIES[best], tight=True)
    rows[best] = row(PENALTIES[best], weights, int(rows[best][-1]) + steps)
    held_out, predictions = (
        present[logits_of(part, weights).argmax(axis=1)] for part in (split.held_out, split.tested)
    )
    curve = np.array([rows[at] for at in sorted(rows)])
    return {
        "predictions": predictions,
        "held_out": held_out,
        "curve": curve,
        "chosen": np.array(sorted(rows).index(best)),
    }


class _Problem:
    """Vectors and labels whose weights are sought: (1 or classes, width + 1), the bias last."""

    def __init__(self, vectors: Array, labels: Array, classes: int, what: str, backend: str, device: str) -> None:
        self.vectors, self.labels, self.classes, self.what, self.backend = vectors, labels, classes, what, backend
        self.start = np.zeros((classes if classes > 2 else 1, vectors.shape[1] + 1))
        if backend == TORCH:
            dtype = torch.float32 if device.startswith("mps") else torch.float64  # Apple's GPUs have no float64
            self._x = torch.as_tensor(vectors).to(device=device, dtype=dtype)
            self._y = torch.as_tensor(labels).to(device)

    def solved(self, start: Array, penalty: float, *, tight: bool) -> tuple[Array, int]:
        """The weights of least loss, sought from `start`, and the steps taken."""
        if self.backend == TORCH:
            weights, steps = self._by_torch(start, penalty, _TIGHT if tight else _LOOSE)
        elif not tight:
            weights, steps = self._by_sklearn(start, penalty, _LOOSE, "lbfgs")
        else:  # its last steps are what L-BFGS takes hundreds for
            weights, steps = self._by_sklearn(start, penalty, _TIGHT, "newton-cg")
        slope = self.slope(weights, penalty) if tight else 0.0
        if slope > _ALLOWED and self.backend == SKLEARN:  # more than float32 can resolve
            weights, more = self._by_sklearn(weights, penalty, _TIGHT, "lbfgs", np.float64)
            slope, steps = self.slope(weights, penalty), steps + more
        if steps >= _MOST or not np.isfinite(weights).all() or not slope <= _ALLOWED:
            left = f": a slope of {slope:.1e} is left" if tight else ""
            raise UndefinedScore(self.what, f"its fit with penalty {penalty:.2g} did not converge{left}")
        return weights, steps

    def slope(self, weights: Array, penalty: float) -> float:
        """The greatest slope of the loss by any weight, in float64."""
        errors = np.exp(log_softmax(logits_of(self.vectors, weights), axis=1))
        errors[np.arange(len(errors)), self.labels] -= 1.0
        errors = errors[:, -len(weights) :] / len(errors)
        slope = errors.T @ self.vectors.astype(np.float64) + penalty * weights[:, :-1]
        return float(max(np.abs(slope).max(), np.abs(errors.sum(axis=0)).max()))

    def _by_sklearn(
        self, start: Array, penalty: float, tolerance: float, solver: str, dtype: Any = np.float32
    ) -> tuple[Array, int]:
        strength = 1.0 / (penalty * len(self.labels))
        found = LogisticRegression(C=strength, tol=tolerance, solver=solver, max_iter=_MOST, warm_start=True)
        found.coef_, found.intercept_ = start[:, :-1].astype(dtype), start[:, -1].astype(dtype)
        found.fit(self.vectors.astype(dtype, copy=False), self.labels)
        weights = np.hstack([found.coef_, found.intercept_[:, None]]).astype(np.float64)
        return weights, int(found.n_iter_.max())

    def _by_torch(self, start: Array, penalty: float, tolerance: float) -> tuple[Array, int]:
        options = {"maxiter": _MOST, "maxfun": 2 * _MOST, "gtol": tolerance, "ftol": np.finfo(float).eps, "maxls": 50}
        found = optimize.minimize(
            self._objective, start.ravel(), (penalty,), method="L-BFGS-B", jac=True, options=options
        )
        return found.x.reshape(start.shape), int(found.nit)

    def _objective(self, flat: Array, penalty: float) -> tuple[float, Array]:
        weights = torch.as_tensor(flat.reshape(self.start.shape)).to(self._x)
        logits = self._x @ weights[:, :-1].T + weights[:, -1]
        if len(weights) == 1:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        shares = torch.log_softmax(logits, dim=1)
        loss = -shares.gather(1, self._y[:, None]).mean(dtype=torch.float64)
        errors = shares.exp()
        errors[torch.arange(len(errors), device=errors.device), self._y] -= 1.0
        errors = errors[:, -len(weights) :] / len(errors)
        slope = torch.cat([errors.T @ self._x + penalty * weights[:, :-1], errors.sum(dim=0)[:, None]], dim=1)
        value = float(loss) + 0.5 * penalty * float(weights[:, :-1].square().sum(dtype=torch.float64))
        return value, slope.double().cpu().numpy().ravel()


def logits_of(vectors: Array, weights: Array) -> Array:
    """(items, classes) in float64; where two classes have one vector of weights, the first's are 0."""
    found: Array = vectors @ weights[:, :-1].T + weights[:, -1]
    return found if found.shape[1] > 1 else np.hstack([np.zeros_like(found), found])


def _loss(logits: Array, labels: Array) -> float:
    """Mean cross entropy in nats, of items whose label is one of the logits'."""
    known = labels < logits.shape[1]
    shares = log_softmax(logits[known], axis=1)
    return float(-shares[np.arange(len(shares)), labels[known]].mean())


def _constant(split: Split, present: Array) -> Arrays:
    """What is learned from items of one class: to say it always."""
    held_out, predictions = (np.full(len(each), present[0]) for each in (split.held_out, split.tested))
    row = (PENALTIES[0], 0.0, 0.0, 1.0, float((split.held_out_labels == present[0]).mean()), 0)
    return {"predictions": predictions, "held_out": held_out, "curve": np.array([row]), "chosen": np.array(0)}
