"""Multinomial logistic regression with an L2 penalty, fitted by scipy's L-BFGS (Liu and Nocedal 1989).

The model of scikit-learn's ``LogisticRegression``, whose import takes longer than all else of a server's start.
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

    They minimise the sum of the texts' negative log likelihoods plus ``penalty / 2`` times the sum of squared weights.
    """
    kinds = int(classes.max()) + 1
    truth = np.eye(kinds)[classes]
    fewer_dimensions = features.shape[1] > len(features)
    span, coordinates = _span(features) if fewer_dimensions else (np.eye(features.shape[1]), features)

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights, intercepts = flat[:-kinds].reshape(-1, kinds), flat[-kinds:]
        likely = probabilities(coordinates, weights, intercepts)
        missed = likely - truth
        value = -np.log(likely[truth > 0]).sum() + penalty / 2 * (weights**2).sum()
        gradient = coordinates.T @ missed + penalty * weights
        return float(value), np.concatenate([gradient.ravel(), missed.sum(axis=0)])

    start = np.zeros((coordinates.shape[1] + 1) * kinds)
    found: Floats = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}).x
    return span.T @ found[:-kinds].reshape(-1, kinds), found[-kinds:]


def probabilities(features: Floats, weights: Floats, intercepts: Floats) -> Floats:
    """Of each class, of shape ``(n, k)``."""
    scores = features @ weights + intercepts
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _span(features: Floats) -> tuple[Floats, Floats]:
    """Orthonormal directions that span the rows, and the rows' coordinates in them: the best weights lie in that span, which
    has no more dimensions than there are texts (the representer theorem: Kimeldorf and Wahba 1971)."""
    values, vectors = np.linalg.eigh(features @ features.T)
    kept = values > values[-1] * 1e-10
    lengths = np.sqrt(values[kept])
    return (vectors[:, kept] / lengths).T @ features, vectors[:, kept] * lengths
