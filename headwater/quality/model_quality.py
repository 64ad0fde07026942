"""How good a model's predictions were, once outcomes are known. Pure."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Task = Literal["regression", "binary", "multiclass"]
Floats = NDArray[np.float64]
#: Bins of equal width for calibration.
BINS = 10
#: Probabilities are this far from 0 and 1 at least, for the logarithm's sake.
_CLIP = 1e-15


def regression(predicted: Floats, outcome: Floats) -> dict[str, float]:
    """Mean absolute error, root of the mean squared error, and bias (predicted - outcome)."""
    error = predicted - outcome
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error * error).mean())),
        "bias": float(error.mean()),
    }


def binary(probability: Floats, outcome: NDArray[np.bool_]) -> dict[str, Any]:
    """probability of True, 0 to 1. AUC is None where all outcomes are alike.

    AUC is Mann and Whitney's statistic (Hanley, McNeil 1982), ties counting half; `brier` is the
    mean squared error (Brier 1950); `calibration_error` the mean over bins of the distance of
    predicted and actual shares, weighted by counts (Naeini et al. 2015), `calibration` the bins:
    [predicted, actual, count].
    """
    clipped = np.clip(probability, _CLIP, 1 - _CLIP)
    losses = -np.where(outcome, np.log(clipped), np.log(1 - clipped))
    bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
    count = np.bincount(bins, minlength=BINS)
    held = count > 0
    predicted = np.bincount(bins, probability, BINS)[held] / count[held]
    actual = np.bincount(bins, outcome, BINS)[held] / count[held]
    off = float((np.abs(predicted - actual) * count[held]).sum() / len(bins))
    return {
        "auc": _auc(probability, outcome),
        "log_loss": float(losses.mean()),
        "brier": float(((probability - outcome) ** 2).mean()),
        "calibration_error": off,
        "calibration": [
            [float(p), float(a), int(n)]
            for p, a, n in zip(predicted, actual, count[held], strict=True)
        ],
    }


def _auc(probability: Floats, outcome: NDArray[np.bool_]) -> float | None:
    positive = int(outcome.sum())
    negative = len(outcome) - positive
    if not positive or not negative:
        return None
    _, at, counts = np.unique(probability, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2)[at]  # of ties, the mean rank
    above = ranks[outcome].sum() - positive * (positive + 1) / 2
    return float(above / (positive * negative))


def multiclass(predicted: NDArray[Any], outcome: NDArray[Any]) -> dict[str, float]:
    """Accuracy, and the mean over classes of the share of each that was found."""
    right = predicted == outcome
    classes = np.unique(outcome)
    recalls = [float(right[outcome == one].mean()) for one in classes]
    return {"accuracy": float(right.mean()), "balanced_accuracy": float(np.mean(recalls))}
