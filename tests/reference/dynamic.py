"""Dynamic Activation Composition the slow and obvious way: no cache, k + 2 forwards a token.

Written from the paper's code as METHODS.md describes it (Scalena, Sarti, Nissim 2024); it must
never import the product it is there to judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.reference.reference import ReferenceModel, Term


@dataclass(frozen=True)
class Property:
    """One property's vector: at each site and layer [hidden], or [steps, hidden] for one a step.

    cap: the most its coefficient may be. hold: behind the last step, its vector goes on.
    start, top_p: those of `compose`, where it has none of its own.
    """

    tensors: dict[tuple[str, int], Tensor]
    cap: float = 2.0
    hold: bool = False
    start: float | None = None
    top_p: float | None = None

    def at(self, first: int, coefficients: Sequence[float]) -> list[Term]:
        """What it adds to the tokens from `first` on, the i-th of which has step i: to each at one
        of the coefficients."""
        terms = []
        here = {"start": first, "stop": first + len(coefficients)}
        for (site, layer), tensor in self.tensors.items():
            rows = tensor if tensor.ndim == 2 else tensor[None]
            lasting = tensor.ndim == 1 or self.hold
            added = torch.zeros(len(coefficients), rows.shape[-1])
            for step, coefficient in enumerate(coefficients):
                if step < len(rows) or lasting:
                    added[step] = coefficient * rows[min(step, len(rows) - 1)].float()
            terms.append(Term(site, layer, 1.0, added, here))
        return terms


@dataclass
class Composed:
    """An answer, and for each of its tokens each property's coefficient and divergence."""

    tokens: list[int] = field(default_factory=list)
    coefficients: list[list[float]] = field(default_factory=list)
    divergences: list[list[float]] = field(default_factory=list)


def likeliest(logprobs: Tensor, _answer: Sequence[int]) -> int:
    """The token that greedy sampling takes."""
    return int(logprobs.argmax())


def compose(
    reference: ReferenceModel,
    prompt: Sequence[int],
    properties: Sequence[Property],
    new_tokens: int,
    *,
    start: float = 2.0,
    top_p: float = 0.95,
    mean: bool = True,
    every: int = 1,
    pick: Callable[[Tensor, Sequence[int]], int] = likeliest,
) -> Composed:
    """The answer. `mean`: the divergence divided by |Q|, as in the paper's code. `every`:
    coefficients are found at the first of so many tokens. `pick`: the next token, given its
    log-probabilities [vocabulary] and the answer so far."""
    found = Composed()
    last = len(prompt) - 1

    def next_token(terms: list[Term]) -> Tensor:
        text = [*prompt, *found.tokens]
        return reference.steered_logprobs(text, len(prompt), terms)[-1]

    for step in range(new_tokens):
        if step % every == 0:
            plain = next_token([])
            divergences, coefficients = [], []
            for one in properties:
                tried = start if one.start is None else one.start
                mass = top_p if one.top_p is None else one.top_p
                alone = one.at(last, [tried] * (step + 1))
                divergences.append(divergence(plain, next_token(alone), mass, mean))
                coefficients.append(min(max(divergences[-1], 0.0), one.cap))
        found.divergences.append(divergences)
        found.coefficients.append(coefficients)
        together = [
            term
            for one, chosen in zip(properties, zip(*found.coefficients, strict=True), strict=True)
            for term in one.at(last, chosen)
        ]
        found.tokens.append(pick(next_token(together), found.tokens))
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
