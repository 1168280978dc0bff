"""Evidence of a change: how far the mean of the newest 1, 2, ... runs lies from the baseline, in standard errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mangalib.benchmark.detection.baseline import Fit
from mangalib.benchmark.detection.series import Floats


@dataclass(frozen=True)
class Evidence:
    """Windows of the newest k runs, k = 1, 2, ... along the first axis.

    ``residuals`` and ``variances`` are those of the single runs, the newest first; ``means`` is a window's mean residual,
    ``errors`` its standard error, and ``scores`` their ratio as a deviate of the normal distribution. All have shape
    (windows, series, values of a run).
    """

    residuals: Floats
    variances: Floats
    means: Floats
    errors: Floats
    scores: Floats

    @classmethod
    def from_residuals(cls, residuals: Floats, relative_variance: Floats, fit: Fit, features: Floats) -> Evidence:
        """Evidence from ``residuals`` (runs, series, values), the newest first and NaN where a run has no value.

        ``relative_variance``, of the same shape, is each run's variance relative to ``fit.sd``; ``features`` is the newest
        run's row of the regression. The uncertainty of the baseline is part of the standard error.
        """
        variances = relative_variance * fit.sd**2
        present = np.isfinite(residuals)
        counts = np.maximum(np.cumsum(present, axis=0), 1)
        means = np.cumsum(np.where(present, residuals, 0.0), axis=0) / counts
        sampling_variance = np.cumsum(np.where(present, variances, 0.0), axis=0) / counts**2
        posterior_variance = (fit.uncertainty(features)[:, None] * fit.sd**2)[None]
        errors = np.sqrt(sampling_variance + posterior_variance + 1e-12)
        degrees = np.maximum(fit.runs, 1)[:, None]
        return cls(residuals, variances, means, errors, normal_deviate(means / errors, degrees))


def normal_deviate(t: Floats, degrees: Floats) -> Floats:
    """The deviate of the normal distribution with the same tail probability as Student's ``t`` (Wallace, 1959)."""
    factor = (8 * degrees + 1) / (8 * degrees + 3)
    return np.asarray(np.sign(t) * factor * np.sqrt(degrees * np.log1p(t**2 / degrees)))
