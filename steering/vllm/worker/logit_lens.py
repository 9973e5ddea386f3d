"""Seam: the model's final norm and unembedding (`models/interfaces_base.py: compute_logits`).

The logit lens shows which tokens a direction of the residual stream would raise if the stream
behind the last block held nothing else (nostalgebraist, "interpreting GPT: the logit lens", 2020;
the final norm's weight is applied, as in TransformerLens, which folds it into the unembedding).

The model's own modules compute it, in the model's dtype, so an unembedding that is quantised,
packed by the CPU backend, scaled, or divided among tensor-parallel ranks is used as it is served.
Both model runners have the methods that are used here.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from steersman.steering.worker.blocks import Block

_AT_ONCE = 8
"""Rows of logits held in memory at once; a row is float32 [vocabulary]."""


class Extremes(NamedTuple):
    """The tokens that one direction raises and lowers most, as (token id, logit), the most extreme
    first."""

    top: list[tuple[int, float]]
    bottom: list[tuple[int, float]]


class Lens:
    """Turns directions of the residual stream into logits, with the served model's own norm and
    unembedding."""

    def __init__(self, runner: Any, blocks: Sequence[Block], dtype: torch.dtype) -> None:
        self._runner = runner
        self._dtype = dtype
        self.norm_name, self._norm = final_norm(runner.get_model(), blocks)

    def read(self, directions: Tensor, count: int) -> list[Extremes] | None:
        """The `count` tokens that each of `directions`, float32 [n, hidden], raises and lowers
        most.

        Each direction is scaled to a root mean square of 1, as the norm would scale it. The logits
        of a zero direction, which come from biases of norm and unembedding, are subtracted. Logits
        are float32. Returns None on a tensor-parallel rank to which vLLM gives no logits. All ranks
        must call this together, because the logits are gathered.
        """
        rows = [self._logits(part) for part in torch.split(_unit(directions), _AT_ONCE)]
        found = [_extremes(row, count) for part in rows if part is not None for row in part]
        return found if len(found) == len(directions) else None

    @torch.inference_mode()
    def _logits(self, rows: Tensor) -> Tensor | None:
        device = self._runner.device
        nothing = torch.zeros_like(rows[:1])
        stream = torch.cat([rows, nothing]).to(device=device, dtype=self._dtype)
        normed: Any = self._norm(stream) if self._norm is not None else stream
        # Some norms return a residual too, which is None here.
        normed = normed[0] if isinstance(normed, tuple) else normed
        # Linear except for the biases (and a soft cap, which keeps the order).
        normed = normed - normed[-1]
        # No adapter for anyone, one row a request; without LoRA it does nothing.
        ones = np.ones(len(stream), dtype=np.int32)
        with self._runner.maybe_select_dummy_loras(self._runner.lora_config, ones):
            logits = self._runner.get_model().compute_logits(normed)
        if logits is None:
            return None
        on_host: Tensor = logits.float().cpu()
        return on_host[:-1] - on_host[-1]


def final_norm(
    model: nn.Module, blocks: Sequence[Block]
) -> tuple[str | None, Callable[[Tensor], Tensor] | None]:
    """Name and module of the norm behind the last block: among the modules beside the list of
    blocks, the norm that was built last. (None, None) if there is none."""
    modules = {block.module for block in blocks}
    for parent_name, parent in model.named_modules():
        lists = [m for m in parent.children() if isinstance(m, nn.ModuleList)]
        if all(modules.isdisjoint(m) for m in lists):
            continue
        norms = [(n, m) for n, m in parent.named_children() if "norm" in type(m).__name__.lower()]
        if norms:
            name, module = norms[-1]
            return f"{parent_name}.{name}".lstrip("."), module
    return None, None


def _unit(directions: Tensor) -> Tensor:
    """Rows scaled to a root mean square of 1; a row of zeros stays zero."""
    size = directions.double().norm(dim=-1, keepdim=True).clamp_min(1e-30)
    unit: Tensor = directions.double() * (directions.shape[-1] ** 0.5 / size)
    return unit.float()


def _extremes(logits: Tensor, count: int) -> Extremes:
    count = min(count, len(logits))
    top, bottom = logits.topk(count), logits.topk(count, largest=False)
    return Extremes(
        list(zip(top.indices.tolist(), top.values.tolist(), strict=True)),
        list(zip(bottom.indices.tolist(), bottom.values.tolist(), strict=True)),
    )
