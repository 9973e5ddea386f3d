"""Contrastive activation addition.

Rimsky et al. 2024, "Steering Llama 2 via Contrastive Activation Addition". A question with two
answers is read once with each answer, at the answer's letter; the vector is the mean of
positive - negative over the pairs, not normalised. To compare multipliers across behaviours, the
paper's vectors are rescaled, layer by layer, to the behaviours' mean length.
"""

from collections.abc import Mapping

import torch

from steersman.vectors.errors import ActivationsInvalid
from steersman.vectors.methods.activations import Activations, Mean, check_paired, difference


def caa(positive: Activations, negative: Activations) -> torch.Tensor:
    """Mean of positive - negative over pairs: float32 [layers, hidden].

    positive, negative: samples [layers, hidden], float32, sample i of one being the counterpart of
    sample i of the other. Raises `ActivationsInvalid`.
    """
    first, second = Mean.of(positive, "positive"), Mean.of(negative, "negative")
    check_paired(first.count, second.count)
    # Over pairs, the mean of the differences is the difference of the means.
    return difference(first.value(), second.value())


def rescale(behaviours: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give all behaviours one length a layer: v_b * mean over b' of ||v_b'|| / ||v_b||.

    Takes and returns float32 [layers, hidden] by behaviour. Raises `ActivationsInvalid`.
    """
    if len({tuple(vector.shape) for vector in behaviours.values()}) != 1:
        raise ActivationsInvalid(
            "rescaling needs at least one behaviour, and all with the same layers and hidden size",
            code="bad_shape",
        )
    wide = {name: vector.to(torch.float64) for name, vector in behaviours.items()}
    norms = {name: vector.norm(dim=-1, keepdim=True) for name, vector in wide.items()}
    for name, length in norms.items():
        empty = [int(layer) for layer in (length[:, 0] == 0).nonzero()[:, 0]]
        if empty:
            raise ActivationsInvalid(
                f"the vector of {name!r} is zero at place {empty[0]} of the layers, and zero has "
                "no length to rescale",
                code="identical_sides", param=name, layers=empty,
            )  # fmt: skip
    mean = torch.stack(list(norms.values())).mean(dim=0)
    return {name: (wide[name] * (mean / norms[name])).to(torch.float32) for name in wide}
