"""Multinomial logistic regression with an L2 penalty, fitted by scipy's L-BFGS (Liu and Nocedal 1989).

The model of scikit-learn's ``LogisticRegression``, which the serving image does not have; ``evidence`` fits it at run time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

Floats = npt.NDArray[np.float64]


def fit(
    features: Floats, classes: npt.NDArray[np.intp], *, penalty: float, iterations: int = 400
) -> tuple[Floats, Floats]:
    """Weights of shape ``(d, k)`` and intercepts ``(k,)``, for features ``(n, d)`` and classes 0 to k - 1.

    They minimise the sum of the negative log likelihoods plus ``penalty / 2`` times the sum of squared weights.
    """
    k = int(classes.max()) + 1
    truth = np.eye(k)[classes]

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights, intercepts = flat[:-k].reshape(-1, k), flat[-k:]
        predicted = probabilities(features, weights, intercepts)
        residuals = predicted - truth
        value = -np.log(predicted[truth > 0]).sum() + penalty / 2 * (weights**2).sum()
        gradient = features.T @ residuals + penalty * weights
        return float(value), np.concatenate([gradient.ravel(), residuals.sum(axis=0)])

    start = np.zeros((features.shape[1] + 1) * k)
    found: Floats = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}).x
    return found[:-k].reshape(-1, k), found[-k:]


def probabilities(features: npt.ArrayLike, weights: npt.ArrayLike, intercepts: npt.ArrayLike) -> Floats:
    """The probability of each class, of shape ``(n, k)``."""
    scores = np.asarray(features) @ np.asarray(weights) + np.asarray(intercepts)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
