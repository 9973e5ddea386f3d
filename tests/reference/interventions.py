"""Operations on the stream, the slow and obvious way: a Hugging Face model and forward hooks.

Written from the papers and the design alone; it must never import the product it is there to judge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tests.reference.reference import Positions, ReferenceModel, is_steered


@dataclass(frozen=True)
class Intervention:
    """One operation at one site of one layer, at the tokens that `positions` names.

    tensors, each [hidden] unless said otherwise: `v` (add, replace), `v` or a basis [k, hidden]
    (project), `v` (clamp), `encoder`, `decoder` (feature), `weight`, `bias`, `low`, `high`
    (transport), `b1`, `b2` (rotate). settings: min, max; value, multiply, bias, threshold; angle,
    adaptive.
    """

    operation: str
    site: str
    layer: int
    coefficient: float
    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    positions: Positions = "generation"

    def change(self, h: Tensor) -> Any:
        """What it changes of the streams `h` [tokens, hidden]."""
        t, s, c = self.tensors, self.settings, self.coefficient
        if self.operation == "add":
            return (c * t["v"]).expand_as(h)
        if self.operation == "replace":
            return ((1 - c) * h + c * t["v"]) - h
        if self.operation == "project":
            basis = t["v"].reshape(-1, h.shape[-1])
            basis = basis / basis.norm(dim=1, keepdim=True)
            return -c * (h @ basis.T) @ basis
        if self.operation == "clamp":
            u = t["v"] / t["v"].norm()
            p = h @ u
            held = p
            if "min" in s:
                held = torch.where(held < s["min"], torch.full_like(p, s["min"]), held)
            if "max" in s:
                held = torch.where(held > s["max"], torch.full_like(p, s["max"]), held)
            return c * torch.outer(held - p, u)
        if self.operation == "feature":
            pre = h @ t["encoder"] + s.get("bias", 0.0)
            f = pre * (pre > s.get("threshold", 0.0))
            target = torch.full_like(f, s["value"]) if "value" in s else s["multiply"] * f
            return c * torch.outer(target - f, t["decoder"])
        if self.operation == "transport":
            moved = t["weight"] * h + t["bias"]
            inside = (h > t["low"]) & (h < t["high"])
            return torch.where(inside, (1 - c) * h + c * moved, h) - h
        if self.operation == "rotate":
            turn = math.radians(s["angle"])
            x, y = h @ t["b1"], h @ t["b2"]
            flat = torch.outer(x, t["b1"]) + torch.outer(y, t["b2"])
            turned = torch.outer(x * math.cos(turn) - y * math.sin(turn), t["b1"]) + torch.outer(
                x * math.sin(turn) + y * math.cos(turn), t["b2"]
            )
            change = c * (turned - flat)
            return change * (x > 0)[:, None] if s.get("adaptive") else change
        raise ValueError(f"unknown operation {self.operation!r}")


class Intervened:
    """A reference model under interventions; all those at one place read the same stream. Sites as
    the reference has them, and "resid_mid": the stream that the norm before the MLP gets."""

    def __init__(self, reference: ReferenceModel) -> None:
        self.reference = reference

    def logprobs(
        self,
        token_ids: Sequence[int],
        prompt_len: int,
        interventions: Sequence[Intervention],
        *,
        keep_norm: bool = False,
    ) -> Tensor:
        """Log-probabilities of the next token after each one given: [len(token_ids), vocab]."""
        with self.hooked(len(token_ids), prompt_len, interventions, keep_norm=keep_norm):
            return self.reference.steered_logprobs(token_ids, prompt_len)

    def _hook(self, site: str, layer: int, change: Any) -> Any:
        if site == "resid_mid":
            block: Any = self.reference.model.model.layers[layer]
            return block.post_attention_layernorm.register_forward_pre_hook(_on_input(change))
        return self.reference._part(site, layer).register_forward_hook(_on_output(change))

    @contextmanager
    def hooked(
        self,
        length: int,
        prompt_len: int,
        interventions: Sequence[Intervention],
        *,
        keep_norm: bool = False,
    ) -> Iterator[None]:
        """The model's forward passes over `length` tokens have the interventions in here."""
        places: dict[tuple[str, int], list[Intervention]] = {}
        for one in interventions:
            places.setdefault((one.site, one.layer), []).append(one)
        handles = []
        try:
            for place, ones in places.items():
                masks = [
                    torch.tensor([is_steered(t, prompt_len, one.positions) for t in range(length)])
                    for one in ones
                ]
                change = _changing(ones, masks, keep_norm=keep_norm)
                handles.append(self._hook(*place, change))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _on_output(change: Any) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        value = output[0] if isinstance(output, tuple) else output
        after = change(value.reshape(-1, value.shape[-1])).reshape(value.shape)
        return (after, *output[1:]) if isinstance(output, tuple) else after

    return hook


def _on_input(change: Any) -> Any:
    """In place: the block goes on with the tensor that its norm gets."""

    def hook(_module: nn.Module, inputs: Any) -> None:
        value = inputs[0]
        value.copy_(change(value.reshape(-1, value.shape[-1])).reshape(value.shape))

    return hook


def _changing(ones: list[Intervention], masks: list[Tensor], *, keep_norm: bool) -> Any:
    def change(h: Tensor) -> Tensor:
        after = h.clone()
        for one, mask in zip(ones, masks, strict=True):
            after[mask] += one.change(h)[mask]
        if keep_norm:
            any_of = torch.stack(masks).any(0)
            scaled = after * (h.norm(dim=-1, keepdim=True) / after.norm(dim=-1, keepdim=True))
            after[any_of] = scaled[any_of]
        return after

    return change
