"""Logistic regression by Newton's method, over one number a row; numpy only.

The penalised weights are a sum of rows, w = X^T a, so the unknowns are a (one a row) and the
intercept b: minimise 1/2 a^T K a + C sum log(1 + exp(-y (K a + b))), with K = X X^T.
"""

import numpy as np


def standardised(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """All rows minus their mean, over the root mean square of what is left: [rows, hidden]."""
    rows = np.vstack([positive, negative]).astype(np.float64)
    rows = rows - rows.mean(axis=0)
    scaled: np.ndarray = rows / np.sqrt((rows * rows).sum() / rows.size)
    return scaled


def logistic(positive: np.ndarray, negative: np.ndarray, c: float) -> tuple[np.ndarray, float]:
    """One layer: the weights [hidden] on standardised rows, and the intercept."""
    rows = standardised(positive, negative)
    y = np.array([1.0] * len(positive) + [-1.0] * len(negative))
    gram = rows @ rows.T
    a, b = np.zeros(len(rows)), 0.0

    def loss(a: np.ndarray, b: float) -> float:
        return float(a @ gram @ a / 2 + c * np.logaddexp(0, -y * (gram @ a + b)).sum())

    for _ in range(200):
        p = 1 / (1 + np.exp(y * (gram @ a + b)))  # how wrong each row is
        # Stationary where a = C y p and sum(y p) = 0.
        residual = np.append(a - c * y * p, -c * (y * p).sum())
        if np.abs(residual).max() < 1e-10 * max(1.0, c):
            break
        curve = c * p * (1 - p)
        jacobian = np.zeros((len(a) + 1, len(a) + 1))
        jacobian[:-1, :-1] = np.eye(len(a)) + curve[:, None] * gram
        jacobian[:-1, -1] = curve
        jacobian[-1, :-1] = curve @ gram
        jacobian[-1, -1] = curve.sum()
        step = np.linalg.solve(jacobian, residual)
        # Shorten a step that overshoots; near the minimum only rounding tells losses apart.
        size, most = 1.0, loss(a, b) * (1 + 1e-12)
        while loss(a - size * step[:-1], b - size * step[-1]) > most:
            size /= 2
        a, b = a - size * step[:-1], b - size * step[-1]
    else:
        raise AssertionError("Newton's method did not converge")
    return rows.T @ a, b


def auroc(positive: list[float], negative: list[float]) -> float:
    """The share of (positive, negative) couples in the right order, a tie counting half."""
    won = 0.0
    for high in positive:
        for low in negative:
            won += 1.0 if high > low else 0.5 if high == low else 0.0
    return won / (len(positive) * len(negative))
