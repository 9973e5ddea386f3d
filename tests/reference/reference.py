"""Steering the slow and obvious way: a Hugging Face model, plain forward hooks, no cache.

Written from the design alone; it must never import the product it is there to judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

Positions = str | dict[str, Any]


@dataclass(frozen=True)
class Term:
    """`coefficient * vector` added at one site of one layer, at the tokens that `positions` names.

    site: "resid_post" (the block's output), "attn_out" or "mlp_out" (that part's output before it
    joins the residual stream). vector: [hidden], or [tokens, hidden]: one for each of these tokens.
    """

    site: str
    layer: int
    coefficient: float
    vector: Tensor
    positions: Positions = "generation"


def is_steered(t: int, prompt_len: int, positions: Positions) -> bool:
    """Whether the token with 0-based index `t` is one that `positions` names."""
    match positions:
        case "generation":
            return t >= prompt_len - 1
        case "after_prompt":
            return t >= prompt_len
        case "prompt":
            return t < prompt_len
        case "all":
            return True
        case {"of": "answer", **others}:
            ends: Any = {"start": 0, "stop": 2**40, **others}
            return bool(ends["start"] <= t - prompt_len < ends["stop"])
        case {"start": int(start), "stop": int(stop)}:
            first = start if start >= 0 else prompt_len + start
            end = stop if stop >= 0 else prompt_len + stop
            return first <= t < end
        case _:
            raise ValueError(f"unknown positions {positions!r}")


class ReferenceModel:
    """A Llama-shaped causal language model with eager attention, on the CPU.

    dtype: float64 where a tolerance is to bound the engine's rounding alone, not the sum of two.
    """

    def __init__(self, model_dir: str | Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            model_dir, dtype=dtype, attn_implementation="eager"
        ).eval()

    def steered_logprobs(
        self, token_ids: Sequence[int], prompt_len: int, terms: Sequence[Term] = ()
    ) -> Tensor:
        """Log-probabilities of the next token after each one given: [len(token_ids), vocab].

        The first `prompt_len` of `token_ids` are the prompt, the rest was generated.
        """
        with torch.no_grad(), self._steered(len(token_ids), prompt_len, terms):
            logits = self.model(input_ids=torch.tensor([list(token_ids)]), use_cache=False).logits
        return torch.log_softmax(logits[0].float(), dim=-1)

    def greedy(self, prompt_ids: Sequence[int], n: int, terms: Sequence[Term] = ()) -> list[int]:
        """The `n` likeliest next tokens, one by one, the whole text anew for each."""
        token_ids = list(prompt_ids)
        for _ in range(n):
            logprobs = self.steered_logprobs(token_ids, len(prompt_ids), terms)
            token_ids.append(int(logprobs[-1].argmax()))
        return token_ids[len(prompt_ids) :]

    def streams(
        self,
        token_ids: Sequence[int],
        places: Sequence[tuple[str, int]] = (),
        prompt_len: int = 0,
        terms: Sequence[Term] = (),
    ) -> Tensor:
        """What leaves each place, a site and a layer: [places, len(token_ids), hidden]; without
        places, each block; with what is added there. By hooks: the last of Hugging Face's hidden
        states is a normed one.
        """
        places = places or [("resid_post", n) for n in range(len(self.model.model.layers))]
        heard: dict[tuple[str, int], Tensor] = {}
        handles = []
        with torch.no_grad(), self._steered(len(token_ids), prompt_len, terms):
            try:
                for place in places:
                    handles.append(self._hear(heard, place))
                self.model(input_ids=torch.tensor([list(token_ids)]), use_cache=False)
            finally:
                for handle in handles:
                    handle.remove()
        return torch.stack([heard[place] for place in places])

    def _hear(self, heard: dict[tuple[str, int], Tensor], place: tuple[str, int]) -> Any:
        hook = _hearing(heard, place)
        if place[0] == "resid_mid":  # The stream that the norm before the MLP gets.
            block: Any = self.model.model.layers[place[1]]
            return block.post_attention_layernorm.register_forward_pre_hook(
                lambda module, inputs: hook(module, (), inputs)
            )
        return self._part(*place).register_forward_hook(hook)

    def _part(self, site: str, layer: int) -> nn.Module:
        block = self.model.model.layers[layer]
        part = {"resid_post": block, "attn_out": block.self_attn, "mlp_out": block.mlp}[site]
        assert isinstance(part, nn.Module)
        return part

    @contextmanager
    def _steered(self, length: int, prompt_len: int, terms: Sequence[Term]) -> Iterator[None]:
        handles = []
        try:
            for term in terms:
                steered = [t for t in range(length) if is_steered(t, prompt_len, term.positions)]
                change = torch.zeros(length, term.vector.shape[-1])
                change[steered] = term.coefficient * term.vector.float()
                part = self._part(term.site, term.layer)
                handles.append(part.register_forward_hook(_adding(change)))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hearing(heard: dict[tuple[str, int], Tensor], place: tuple[str, int]) -> Any:
    """A forward hook that keeps the module's (first) output, [tokens, hidden], in `heard`."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        heard[place] = value.reshape(-1, value.shape[-1])

    return hook


def _adding(change: Tensor) -> Any:
    """A forward hook that adds `change` [tokens, hidden] to the module's (first) output."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + change, *output[1:])
        return output + change

    return hook
