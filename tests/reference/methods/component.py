"""The principal component of pairs by the eigenvectors of a covariance matrix; numpy only."""

import numpy as np


def principal_component(positive: np.ndarray, negative: np.ndarray, keep_mean: bool) -> np.ndarray:
    """One layer. positive, negative: [pairs, hidden] -> [hidden], length 1.

    The covariance of the differences, about their mean (`pca_diff`) or about zero (`pca_center`:
    pairs around their midpoints are +d/2 and -d/2, whose mean is zero).
    """
    differences = positive.astype(np.float64) - negative.astype(np.float64)
    if not keep_mean:
        differences = differences - differences.sum(axis=0) / len(differences)
    covariance = np.zeros((differences.shape[1], differences.shape[1]))
    for row in differences:
        covariance += np.outer(row, row)
    values, vectors = np.linalg.eigh(covariance)
    component = vectors[:, int(np.argmax(values))]
    right = wrong = 0
    for plus, minus in zip(positive, negative, strict=True):
        right += float(component @ plus) > float(component @ minus)
        wrong += float(component @ plus) < float(component @ minus)
    return -component if wrong > right else component
