"""The difference of two means.

Arditi et al. 2024, "Refusal in Language Models Is Mediated by a Single Direction", and Marks and
Tegmark 2023, "The Geometry of Truth", among many: mean(A) - mean(B), at the last token or as the
mean over the response's tokens. Which of the two was decided when the samples were captured. The
sides need not be pairs, nor as many.

Style vectors (Konen et al. 2024, "Style Vectors for Steering Generative Large Language Models") are
the same with one style's sentences, read raw at their last token, against the sentences of all
other styles together: a style with more sentences weighs more there. The paper reads block i - 1's
output and adds to block i's MLP output; these vectors are for the place where they were read.
"""

import torch

from steersman.vectors.methods.activations import Activations, Mean, difference


def mean_difference(positive: Activations, negative: Activations) -> torch.Tensor:
    """mean(positive) - mean(negative), not normalised: float32 [layers, hidden].

    positive, negative: samples [layers, hidden], float32; each sample counts once. Raises
    `ActivationsInvalid`.
    """
    return difference(Mean.of(positive, "positive").value(), Mean.of(negative, "negative").value())
