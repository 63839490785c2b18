"""Linear probes: multinomial logistic regression, its penalty chosen on a held-out part."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from pytest_bertology.engine.store import Arrays
from pytest_bertology.errors import UndefinedScore

Array = npt.NDArray[Any]

SKLEARN, TORCH = "scikit-learn", "torch"
BACKENDS = (SKLEARN, TORCH)

STRONGEST, FACTOR, STEPS = 1.0, 10.0**0.5, 14
"""Penalties are tried from the strongest down, each √10 weaker than the one before."""
_PATIENCE = 1
"""So many penalties in a row without a lower loss on the held-out part end the path: weaker ones are dear and worse."""
_LOOSE, _TIGHT = 1e-4, 1e-6
"""Largest slope of the mean loss that is left where penalties are compared, and in the probe that is reported."""
_BETTER = 1e-4
"""Nats by which a loss must be lower to be better: less is rounding, or not worth a weaker penalty."""
_MOST = 20_000
_NOISE = 1e-5
"""Dimensions that vary by less, in units of their own size and of their layer's, vary by rounding."""


@dataclass(frozen=True)
class Split:
    """What a probe of one layer learns from, chooses by, and is judged on: float64, standardised."""

    train: Array
    """(items, width)."""
    labels: Array
    """(items,) numbers."""
    held_out: Array
    held_out_labels: Array
    tested: Array


def standardised(train: Array, *others: Array) -> list[Array]:
    """All in units of the training part's standard deviation around its mean, in float64.

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
        found.append(moved)
    return found


def linear_probe(split: Split, what: str, *, backend: str = SKLEARN, device: str = "cpu") -> Arrays:
    """Fit along the penalties, and predict by the one of least loss on the held-out part.

    Minimised is the mean cross entropy in nats plus half the penalty times the squared weights, biases left out; of two
    classes there is one vector of weights, else one for each. Its minimum is unique. Each fit starts where the last
    ended, and the chosen one is then fitted tightly. Held-out items whose label is not trained on have no loss.

    Returns "predictions" of the tested part, those "held_out", and the "curve": for each penalty, itself, losses on the
    training and held-out parts, shares of them that are right, and the optimiser's steps; "chosen" is the position of
    the penalty taken, the strongest that no weaker one betters by 10^-4 nats.
    Raises UndefinedScore where the optimiser does not arrive.
    """
    present, labels = np.unique(split.labels, return_inverse=True)
    held = np.searchsorted(present, split.held_out_labels)
    held[~np.isin(split.held_out_labels, present)] = len(present)
    if not (held < len(present)).any():
        raise UndefinedScore(what, "no item of the held-out part has a label that is trained on")
    if len(present) == 1:
        return _constant(split, present)
    problem = _Problem(split.train, labels, len(present), what, backend, device)

    def row(penalty: float, weights: Array, steps: int) -> tuple[float, ...]:
        said = [_logits(part, weights) for part in (split.train, split.held_out)]
        losses = [_loss(each, of) for each, of in zip(said, (labels, held), strict=True)]
        right = [float((each.argmax(axis=1) == of).mean()) for each, of in zip(said, (labels, held), strict=True)]
        return penalty, *losses, *right, steps

    weights, best = problem.start, problem.start
    rows: list[tuple[float, ...]] = []
    at = 0
    for step in range(STEPS):
        penalty = STRONGEST / FACTOR**step
        weights, steps = problem.solved(weights, penalty, _LOOSE)
        rows.append(row(penalty, weights, steps))
        if not step or rows[-1][2] < rows[at][2] - _BETTER:
            at, best = step, weights
        elif step - at >= _PATIENCE:
            break
    best, steps = problem.solved(best, rows[at][0], _TIGHT)
    rows[at] = row(rows[at][0], best, int(rows[at][-1]) + steps)
    held_out, predictions = (present[_logits(part, best).argmax(axis=1)] for part in (split.held_out, split.tested))
    return {"predictions": predictions, "held_out": held_out, "curve": np.array(rows), "chosen": np.array(at)}


class _Problem:
    """Vectors and labels whose weights are sought: (1 or classes, width + 1), the bias last."""

    def __init__(self, vectors: Array, labels: Array, classes: int, what: str, backend: str, device: str) -> None:
        self.vectors, self.labels, self.classes, self.what, self.backend = vectors, labels, classes, what, backend
        self.start = np.zeros((classes if classes > 2 else 1, vectors.shape[1] + 1))
        if backend == TORCH:
            dtype = torch.float32 if device.startswith("mps") else torch.float64  # Apple's GPUs have no float64
            self._x = torch.as_tensor(vectors).to(device=device, dtype=dtype)
            self._y = torch.as_tensor(labels).to(device)

    def solved(self, start: Array, penalty: float, tolerance: float) -> tuple[Array, int]:
        """The weights of least loss, sought from `start`, and the steps taken."""
        weights, steps = (self._by_sklearn if self.backend == SKLEARN else self._by_torch)(start, penalty, tolerance)
        if steps >= _MOST or not np.isfinite(weights).all():
            raise UndefinedScore(self.what, f"its fit with penalty {penalty:.2g} did not converge in {steps} steps")
        return weights, steps

    def _by_sklearn(self, start: Array, penalty: float, tolerance: float) -> tuple[Array, int]:
        strength = 1.0 / (penalty * len(self.labels))
        found = LogisticRegression(C=strength, tol=tolerance, max_iter=_MOST, warm_start=True)
        found.coef_, found.intercept_ = start[:, :-1].copy(), start[:, -1].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # said by an error
            found.fit(self.vectors, self.labels)
        return np.hstack([found.coef_, found.intercept_[:, None]]), int(found.n_iter_.max())

    def _by_torch(self, start: Array, penalty: float, tolerance: float) -> tuple[Array, int]:
        options = {"maxiter": _MOST, "maxfun": 2 * _MOST, "gtol": tolerance, "ftol": 64.0 * np.finfo(float).eps}
        found = optimize.minimize(
            self._objective, start.ravel(), (penalty,), method="L-BFGS-B", jac=True, options={**options, "maxls": 50}
        )
        return found.x.reshape(start.shape), int(found.nit)

    def _objective(self, flat: Array, penalty: float) -> tuple[float, Array]:
        weights = torch.as_tensor(flat.reshape(self.start.shape)).to(self._x)
        logits = _two(self._x @ weights[:, :-1].T + weights[:, -1])
        shares = torch.log_softmax(logits, dim=1)
        loss = -shares.gather(1, self._y[:, None]).mean(dtype=torch.float64)
        slope = shares.exp()
        slope[torch.arange(len(slope), device=slope.device), self._y] -= 1.0
        slope = slope[:, -len(weights) :] / len(slope)
        gradient = torch.cat([slope.T @ self._x + penalty * weights[:, :-1], slope.sum(dim=0)[:, None]], dim=1)
        value = float(loss) + 0.5 * penalty * float(weights[:, :-1].square().sum(dtype=torch.float64))
        return value, gradient.double().cpu().numpy().ravel()


def _two(logits: Any) -> Any:
    """With the first class's, which are 0, where two classes have one vector of weights."""
    if logits.shape[1] > 1:
        return logits
    return torch.cat([torch.zeros_like(logits), logits], dim=1)


def _logits(vectors: Array, weights: Array) -> Array:
    found: Array = _two(torch.from_numpy(vectors @ weights[:, :-1].T + weights[:, -1])).numpy()
    return found


def _loss(logits: Array, labels: Array) -> float:
    """Mean cross entropy in nats, of items whose label is one of the logits'."""
    known = labels < logits.shape[1]
    shares = torch.log_softmax(torch.from_numpy(logits[known]), dim=1).numpy()
    return float(-shares[np.arange(len(shares)), labels[known]].mean())


def _constant(split: Split, present: Array) -> Arrays:
    """What is learned from items of one class: to say it always."""
    held_out, predictions = (np.full(len(each), present[0]) for each in (split.held_out, split.tested))
    row = (STRONGEST, 0.0, 0.0, 1.0, float((split.held_out_labels == present[0]).mean()), 0)
    return {"predictions": predictions, "held_out": held_out, "curve": np.array([row]), "chosen": np.array(0)}
