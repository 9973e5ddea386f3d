"""Features of a sparse autoencoder on texts, by loops; numpy for a token's activations.

Written from the papers alone: it must never import the product it is there to judge.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def strongest(tokens: np.ndarray, sae: Mapping[str, np.ndarray], before: bool) -> np.ndarray:
    """Of one text [tokens, hidden], the largest activation of each feature over its tokens but the
    first. `before`: the decoder's bias is taken from the stream first."""
    found = np.zeros(sae["b_enc"].shape[0])
    for h in tokens[1:].astype(np.float64):
        z = (h - sae["b_dec"] if before else h) @ sae["W_enc"] + sae["b_enc"]
        active = np.where((z > sae.get("threshold", 0.0)) & (z > 0), z, 0.0)
        found = np.maximum(found, active)
    return found


def area(high: Sequence[float], low: Sequence[float]) -> float:
    """How often one of `high` is above one of `low`, equals counting half."""
    wins = sum((a > b) + 0.5 * (a == b) for a in high for b in low)
    return wins / (len(high) * len(low))
