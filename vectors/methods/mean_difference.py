"""The difference of two means.

Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction", and Marks and
Tegmark 2023, "The Geometry of Truth", among many: mean(A) - mean(B), at the last token or as the
mean over the response's tokens. Which of the two was decided when the rows were captured. The
sides need not be pairs, nor as many.
"""

import torch

from vectors.methods.rows import Mean, Rows, difference


def mean_difference(positive: Rows | Mean, negative: Rows | Mean) -> torch.Tensor:
    """mean(positive) - mean(negative), not normalised: float32 [layers, hidden].

    positive, negative: rows [layers, hidden], float32; each row counts once. A `Mean` that rows
    were added to does as well. Raises `ActivationsInvalid`.
    """
    return difference(Mean.of(positive, "positive").value(), Mean.of(negative, "negative").value())
