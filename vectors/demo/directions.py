"""Differences of means: the raw directions of the contrasts, and the scale to judge them by.

The method is that of CAA (Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition")
and of activation-based style vectors (Konen et al., "Style Vectors for Steering Generative Large
Language Models"), pooled over the tokens of each text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from vectors.demo.activations import LoadedModel, text_activations
from vectors.demo.contrast import Contrast

Progress = Callable[[str], None]


class Directions(NamedTuple):
    """`difference[name][layer]` is float32 [hidden]; `median_norm[layer]` the median ||h||."""

    difference: dict[str, dict[int, torch.Tensor]]
    median_norm: dict[int, float]


def find_directions(
    loaded: LoadedModel,
    contrasts: Mapping[str, Contrast],
    layers: Sequence[int],
    progress: Progress,
) -> Directions:
    """mean(positive) - mean(negative) of each contrast at `resid_post` of each layer.

    A text counts once, as the mean over its tokens, however long it is. `median_norm` is taken
    over the tokens of all texts, on both sides.
    """
    difference: dict[str, dict[int, torch.Tensor]] = {}
    norms: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}

    def side_mean(texts: Sequence[str]) -> dict[int, torch.Tensor]:
        means: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        for activations in text_activations(loaded, texts, layers):
            for layer, tokens in activations.items():
                means[layer].append(tokens.mean(0))
                norms[layer].append(tokens.norm(dim=-1))
        return {layer: torch.stack(rows).mean(0) for layer, rows in means.items()}

    for number, contrast in enumerate(contrasts.values(), 1):
        progress(f"demo vectors: reading {contrast.name} ({number} of {len(contrasts)})")
        positive, negative = side_mean(contrast.positive), side_mean(contrast.negative)
        difference[contrast.name] = {layer: positive[layer] - negative[layer] for layer in layers}
    medians = {layer: float(torch.cat(rows).median()) for layer, rows in norms.items()}
    return Directions(difference, medians)
