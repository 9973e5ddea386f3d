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
class Gate:
    """What has to be so for an intervention: `measure` of the stream as it arrives at a site of one
    layer, with the vector `v` [hidden], is over the threshold, or under it.

    over: "token", each by itself; "prompt_last", the prompt's last; "prompt_mean", their mean."""

    site: str
    layer: int
    v: Tensor
    measure: str
    threshold: float
    below: bool = False
    over: str = "token"

    def value(self, h: Tensor) -> float:
        """What is measured of one stream [hidden]."""
        if self.measure == "projection":
            return float(torch.dot(h, self.v / self.v.norm()))
        if self.measure == "cosine":
            return float(torch.cosine_similarity(h, self.v, dim=0, eps=1e-30))
        if self.measure == "cast":
            outer = torch.outer(self.v, self.v) / torch.dot(self.v, self.v)
            return float(torch.cosine_similarity(h, torch.tanh(outer @ h), dim=0, eps=1e-30))
        raise ValueError(f"unknown measure {self.measure!r}")

    def values(self, h: Tensor, prompt_len: int) -> list[float]:
        """For each token of `h` [tokens, hidden], what decides about it."""
        if self.over == "token":
            return [self.value(one) for one in h]
        prompt = h[:prompt_len]
        told = prompt[-1] if self.over == "prompt_last" else prompt.double().mean(0).to(h.dtype)
        return [self.value(told)] * len(h)

    def passes(self, value: float) -> bool:
        return value < self.threshold if self.below else value > self.threshold


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
    gate: Gate | None = None

    def change(self, h: Tensor) -> Any:
        """What it changes of the streams `h` [tokens, hidden]."""
        t = {name: tensor.to(h.dtype) for name, tensor in self.tensors.items()}
        s, c = self.settings, self.coefficient
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
        measured: dict[int, list[float]] | None = None,
    ) -> Tensor:
        """Log-probabilities of the next token after each one given: [len(token_ids), vocab].
        `measured` gets, by the index of each intervention with a gate, what decided about each
        token."""
        measured = {} if measured is None else measured
        with self.hooked(
            len(token_ids),
            prompt_len,
            interventions,
            keep_norm=keep_norm,
            measured=measured,
            token_ids=token_ids,
        ):
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
        measured: dict[int, list[float]] | None = None,
        token_ids: Sequence[int] = (),
    ) -> Iterator[None]:
        """The model's forward passes over `length` tokens have the interventions in here.
        `token_ids`: theirs, for markers."""
        values = {} if measured is None else measured
        places: dict[tuple[str, int], list[int]] = {}
        for n, one in enumerate(interventions):
            places.setdefault((one.site, one.layer), []).append(n)
        handles = []
        try:
            for n, one in enumerate(interventions):
                if one.gate is not None:
                    read = _measuring(one.gate, prompt_len, values, n)
                    handles.append(self._hook(one.gate.site, one.gate.layer, read))
            for place, numbers in places.items():
                ones = [interventions[n] for n in numbers]
                masks = [
                    _passing(
                        [is_at(t, prompt_len, one.positions, token_ids) for t in range(length)],
                        one.gate,
                        values,
                        n,
                    )
                    for n, one in zip(numbers, ones, strict=True)
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


def is_at(t: int, prompt_len: int, positions: Positions, token_ids: Sequence[int]) -> bool:
    """Whether the token with 0-based index `t` is one that `positions` names; of a marker, such as
    {"after": [7]}, those from its last token on, else those before it."""
    if not isinstance(positions, dict) or not positions.keys() & {"after", "until"}:
        return is_steered(t, prompt_len, positions)
    ((side, marker),) = positions.items()
    text = list(token_ids)
    ends = [n for n in range(len(text)) if text[: n + 1][-len(marker) :] == list(marker)]
    reached = bool(ends) and t >= ends[0]
    return reached if side == "after" else not reached


def _measuring(gate: Gate, prompt_len: int, values: dict[int, list[float]], number: int) -> Any:
    """Changes nothing, and keeps what the gate measures."""

    def read(h: Tensor) -> Tensor:
        values[number] = gate.values(h, prompt_len)
        return h

    return read


def _passing(
    steered: list[bool], gate: Gate | None, values: dict[int, list[float]], number: int
) -> Any:
    """A function that gives the mask of the tokens that are changed, when its gate is measured."""

    def mask() -> Tensor:
        if gate is None:
            return torch.tensor(steered)
        passed = [gate.passes(value) for value in values[number]]
        return torch.tensor([a and b for a, b in zip(steered, passed, strict=True)])

    return mask


def _changing(ones: list[Intervention], masks_of: list[Any], *, keep_norm: bool) -> Any:
    def change(h: Tensor) -> Tensor:
        after = h.clone()
        masks = [mask() for mask in masks_of]
        for one, mask in zip(ones, masks, strict=True):
            after[mask] += one.change(h)[mask]
        if keep_norm:
            any_of = torch.stack(masks).any(0)
            scaled = after * (h.norm(dim=-1, keepdim=True) / after.norm(dim=-1, keepdim=True))
            after[any_of] = scaled[any_of]
        return after

    return change
