"""Median residual norms, the unit in which coefficients compare across layers and models."""

import torch
from torch import Tensor


class NormListener:
    """Collects ||h_t|| at each layer from running forward passes.

    `positions` is the runner's tensor of token indices; index 0 is left out, because the first
    token's massive activations are not typical of the layer.
    """

    def __init__(self, positions: Tensor) -> None:
        self._positions = positions
        self._norms: dict[str, list[Tensor]] = {}

    def __call__(self, site: str, layer: int, parts: tuple[Tensor, ...]) -> None:
        """Take note of a step's residual stream, the sum of `parts` [tokens, hidden]."""
        stream = torch.stack([part.float() for part in parts]).sum(0)
        tokens = self._positions[: stream.shape[0]] > 0
        norms = torch.linalg.vector_norm(stream[tokens], dim=-1)
        self._norms.setdefault(f"{site}.{layer}", []).append(norms.cpu())

    def medians(self) -> dict[str, float]:
        """Median norm of each "<site>.<layer>" heard so far."""
        return {k: float(torch.cat(v).median()) for k, v in self._norms.items() if len(v)}
