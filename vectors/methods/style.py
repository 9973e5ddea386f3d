"""Style vectors, from activations.

Konen et al. 2024, "Style Vectors for Steering Generative Large Language Models": each sentence is
read raw, without a template, at its last token; a style's vector is the mean over its sentences
minus the mean over the sentences of all other styles together (a style with more sentences weighs
more there), not normalised. The paper reads block i - 1's output and adds to block i's MLP output;
these vectors are for the place where they were read.
"""

from collections.abc import Mapping

import torch

from vectors.methods.errors import ActivationsInvalid
from vectors.methods.rows import Mean, Rows, difference


class StyleMeans:
    """A mean for each style; `add` is `Mean.add`."""

    def __init__(self) -> None:
        self.means: dict[str, Mean] = {}

    def add(self, style: str, row: torch.Tensor) -> None:
        """Count one sentence of `style`: a row [layers, hidden], float32."""
        mean = self.means.get(style) or Mean(f"style {style!r}")
        mean.add(row)
        self.means[style] = mean

    def directions(self) -> dict[str, torch.Tensor]:
        """float32 [layers, hidden] by style; raises `ActivationsInvalid`."""
        return style_vectors(self.means)


def style_vectors(styles: Mapping[str, Rows | Mean]) -> dict[str, torch.Tensor]:
    """Each style against all others: float32 [layers, hidden] by style.

    styles: rows [layers, hidden], float32, by style; two styles at least. Raises
    `ActivationsInvalid`.
    """
    if len(styles) < 2:
        raise ActivationsInvalid(
            f"there are {len(styles)} styles; a style is told apart from others: give two or more",
            code="too_few_rows", param="styles",
        )  # fmt: skip
    means = {name: Mean.of(rows, f"style {name!r}") for name, rows in styles.items()}
    return {name: _against_others(name, means) for name in means}


def _against_others(style: str, means: Mapping[str, Mean]) -> torch.Tensor:
    others = [mean for name, mean in means.items() if name != style]
    total = sum(mean.count for mean in others)
    rest = torch.stack([mean.value() * (mean.count / total) for mean in others]).sum(dim=0)
    return difference(means[style].value(), rest)
