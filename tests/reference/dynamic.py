"""Dynamic Activation Composition the slow and obvious way: no cache, k + 2 forwards a token.

Written from the paper's code as METHODS.md describes it (Scalena, Sarti, Nissim 2024); it must
never import the product it is there to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.reference.reference import ReferenceModel, Term


@dataclass(frozen=True)
class Property:
    """One property's vector: at each site and layer [hidden], or [steps, hidden] for one a step.

    cap: the most its coefficient may be. hold: behind the last step, its vector goes on.
    """

    tensors: dict[tuple[str, int], Tensor]
    cap: float = 2.0
    hold: bool = False

    def at(self, step: int, coefficient: float, position: int) -> list[Term]:
        """What it adds to the token at `position`, which is generated in `step`."""
        terms = []
        here = {"start": position, "stop": position + 1}
        for (site, layer), tensor in self.tensors.items():
            rows = tensor if tensor.ndim == 2 else tensor[None]
            lasting = tensor.ndim == 1 or self.hold
            if step < len(rows) or lasting:
                vector = rows[min(step, len(rows) - 1)]
                terms.append(Term(site, layer, coefficient, vector, here))
        return terms


@dataclass
class Composed:
    """An answer, and for each of its tokens each property's coefficient and divergence."""

    tokens: list[int] = field(default_factory=list)
    coefficients: list[list[float]] = field(default_factory=list)
    divergences: list[list[float]] = field(default_factory=list)


def compose(
    reference: ReferenceModel,
    prompt: Sequence[int],
    properties: Sequence[Property],
    new_tokens: int,
    *,
    start: float = 2.0,
    top_p: float = 0.95,
    mean: bool = True,
) -> Composed:
    """The greedy answer. `mean`: the divergence divided by |Q|, as in the paper's code."""
    found = Composed()
    last = len(prompt) - 1

    def next_token(terms: list[Term]) -> Tensor:
        text = [*prompt, *found.tokens]
        return reference.steered_logprobs(text, len(prompt), terms)[-1]

    for step in range(new_tokens):
        plain = next_token([])
        divergences, coefficients = [], []
        for one in properties:
            alone = [t for j in range(step + 1) for t in one.at(j, start, last + j)]
            divergences.append(divergence(plain, next_token(alone), top_p, mean))
            coefficients.append(min(max(divergences[-1], 0.0), one.cap))
        found.divergences.append(divergences)
        found.coefficients.append(coefficients)
        together = [
            term
            for j, chosen in enumerate(found.coefficients)
            for one, coefficient in zip(properties, chosen, strict=True)
            for term in one.at(j, coefficient, last + j)
        ]
        found.tokens.append(int(next_token(together).argmax()))
    return found


def divergence(plain: Tensor, steered: Tensor, top_p: float, mean: bool) -> float:
    """KL(plain || steered) over the union of their nuclei. Both: log-probabilities [vocabulary]."""
    union = sorted(nucleus(plain, top_p) | nucleus(steered, top_p))
    p = torch.log_softmax(plain[union], dim=0)
    q = torch.log_softmax(steered[union], dim=0)
    total = float((p.exp() * (p - q)).sum())
    return total / len(union) if mean else total


def nucleus(logprobs: Tensor, top_p: float) -> set[int]:
    """The likeliest tokens that together reach `top_p`, the one that crosses it included."""
    chosen: set[int] = set()
    mass = 0.0
    for token in logprobs.argsort(descending=True).tolist():
        chosen.add(token)
        mass += float(logprobs[token].exp())
        if mass >= top_p:
            break
    return chosen
