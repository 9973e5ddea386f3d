"""Differences of means: the raw directions of the contrasts, and the scale that they are compared
with.

The method is that of CAA (Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition")
and of activation-based style vectors (Konen et al., "Style Vectors for Steering Generative Large
Language Models").
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from steersman.vectors.demo.activations import LoadedModel, text_activations
from steersman.vectors.demo.contrast import Contrast
from steersman.vectors.demo.defaults import READS, Read

Progress = Callable[[str], None]


class Directions(NamedTuple):
    """`difference[name][read][layer]`: float32 [hidden]. `median_norm[layer]`: the median of ||h||
    (L2)."""

    difference: dict[str, dict[Read, dict[int, torch.Tensor]]]
    median_norm: dict[int, float]


def find_directions(
    loaded: LoadedModel,
    contrasts: Mapping[str, Contrast],
    layers: Sequence[int],
    progress: Progress,
) -> Directions:
    """mean(positive) - mean(negative) of each contrast at `resid_post` of each layer.

    A text counts once, however long it is. `median_norm` is taken over the tokens of all texts,
    on both sides.
    """
    difference: dict[str, dict[Read, dict[int, torch.Tensor]]] = {}
    norms: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}

    def side_means(texts: Sequence[str]) -> dict[Read, dict[int, torch.Tensor]]:
        seen: dict[Read, dict[int, list[torch.Tensor]]] = {
            read: {layer: [] for layer in layers} for read in READS
        }
        for activations in text_activations(loaded, texts, layers):
            for layer, tokens in activations.items():
                seen["last"][layer].append(tokens[-1])
                seen["mean"][layer].append(tokens.mean(0))
                norms[layer].append(tokens.norm(dim=-1))
        return {
            read: {layer: torch.stack(rows).mean(0) for layer, rows in by_layer.items()}
            for read, by_layer in seen.items()
        }

    for number, contrast in enumerate(contrasts.values(), 1):
        progress(f"demo vectors: reading {contrast.name} ({number} of {len(contrasts)})")
        positive, negative = side_means(contrast.positive), side_means(contrast.negative)
        difference[contrast.name] = {
            read: {layer: positive[read][layer] - negative[read][layer] for layer in layers}
            for read in READS
        }
    medians = {layer: float(torch.cat(rows).median()) for layer, rows in norms.items()}
    return Directions(difference, medians)
