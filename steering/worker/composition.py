"""Dynamic Activation Composition in a worker: from companions' logits to coefficients.

Scalena, Sarti and Nissim 2024, as METHODS.md describes their code. Independent of vLLM. A "stream"
is the number of a companion: 0 is unsteered, n has the n-th vector alone.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steersman.steering.plan.dynamic import Choice, Companion, Dynamic, LastToken
from steersman.steering.plan.errors import NotComposed
from steersman.steering.plan.plan import Plan

_LIKELIEST: Final = (1024, 8192)
"""A nucleus of at most this many tokens is found without sorting the vocabulary."""


Guess = Callable[[str, LastToken, Tensor], int]
"""The token that a runner's sampler would take for an answer with this id and last token from these
next-token logits [vocabulary] float32, which may be overwritten."""


class _StreamLogits(NamedTuple):
    last: LastToken
    """The token behind which the logits were computed."""
    logits: Tensor
    """[vocabulary] float32."""


class Composer:
    """The companions of one worker, and the latest logits of each.

    The logits behind the last two tokens of each companion are kept: a companion may compute a
    draft of the answer's next token before the coefficients of the token before it are chosen.

    Assumption: `choose` is called for a token after all companions have computed that token.
    """

    def __init__(self) -> None:
        self.companions: dict[str, Companion] = {}
        self._logits: dict[str, dict[int, tuple[_StreamLogits, ...]]] = {}
        """By answer and stream: the logits behind the latest token and behind the one before."""

    def add(self, request_id: str, companion: Companion) -> None:
        """Track a companion that is new to the runner, or resumed."""
        self.companions[request_id] = companion

    def remove(self, request_ids: Iterable[str]) -> None:
        """Forget requests that ended."""
        for request_id in request_ids:
            companion = self.companions.pop(request_id, None)
            if companion is not None:
                self._logits.pop(companion.answer, None)

    def record_logits(self, request_id: str, last: LastToken, logits: Tensor) -> None:
        """Keep a companion's next-token logits [vocabulary] behind the token `last`."""
        answer, stream = self.companions[request_id]
        # Cloned: samplers write into their input, and a row would keep the whole batch alive.
        kept = _StreamLogits(last, logits.float().clone())
        streams = self._logits.setdefault(answer, {})
        before = (e for e in streams.get(stream, ()) if e.last.position == last.position - 1)
        streams[stream] = (kept, *before)

    def choose(self, answer: str, plan: Plan, last: LastToken) -> Choice:
        """The coefficients for an answer's token `last`. Raises `NotComposed`."""
        dynamic = plan.dynamic
        assert dynamic is not None
        there = self._behind(answer, plan, last)
        if len(there) != len(plan.vectors) + 1:
            raise NotComposed(f"not all companions have computed token {last.position}")
        caps = torch.tensor([v.coefficient for v in plan.vectors], device=there[0].device)
        found = divergences(there[0], torch.stack(there[1:]), dynamic)
        chosen = torch.minimum(found.clamp(min=0), caps)
        values = torch.stack([chosen, found]).tolist()
        if not bool(torch.isfinite(found).all()):
            raise NotComposed(
                f"the divergences at token {last.position} are not finite: {values[1]}"
            )
        return Choice(*map(tuple, values))

    def draft(self, answer: str, plan: Plan, last: LastToken, choice: Choice, guess: Guess) -> int:
        """A draft of the answer's token behind `last`, whose coefficients are `choice`: what
        `guess` takes of its logits if those were linear in what is added. All companions must have
        computed `last`."""
        dynamic = plan.dynamic
        assert dynamic is not None
        plain, *alone = self._behind(answer, plan, last)
        logits = plain.clone()
        for n, (one, coefficient) in enumerate(zip(alone, choice.coefficients, strict=True)):
            if start := dynamic.start_of(n):
                logits += coefficient / start * (one - plain)
        return guess(answer, last, logits)

    def _behind(self, answer: str, plan: Plan, last: LastToken) -> list[Tensor]:
        """The logits behind `last` of all companions that have computed it, the unsteered one
        first."""
        streams = self._logits.get(answer, {})
        kept = [e for n in range(len(plan.vectors) + 1) for e in streams.get(n, ())]
        return [e.logits for e in kept if e.last == last]


def divergences(plain: Tensor, steered: Tensor, dynamic: Dynamic) -> Tensor:
    """KL(plain || steered) for each vector, over the union of the two nuclei: float32 [k].

    `plain` [vocabulary] and `steered` [k, vocabulary] are float32 logits.
    """
    p, q = torch.log_softmax(plain, dim=-1), torch.log_softmax(steered, dim=-1)
    if dynamic.top_ps:
        masses = enumerate(dynamic.top_ps)
        union = torch.stack([nucleus(p, top_p) | nucleus(q[n], top_p) for n, top_p in masses])
    else:
        union = nucleus(p, dynamic.top_p) | nucleus(q, dynamic.top_p)
    p, q = (
        torch.log_softmax(x.masked_fill(~union, -torch.inf), dim=-1) for x in (p.expand_as(q), q)
    )
    total = torch.where(union, p.exp() * (p - q), 0.0).sum(-1)
    return total / union.sum(-1) if dynamic.mean else total


def nucleus(logprobs: Tensor, top_p: float) -> Tensor:
    """Mask, bool [..., vocabulary], of the likeliest tokens that together reach the mass `top_p`,
    including the token that crosses it. `logprobs`: natural logarithms [..., vocabulary]."""
    if top_p >= 1:
        return torch.ones_like(logprobs, dtype=torch.bool)
    chances = logprobs.exp()
    tokens = chances.shape[-1]
    # The flatter the distribution is, the more it takes.
    for most in (*_LIKELIEST, tokens):
        values = chances.topk(min(most, tokens), dim=-1).values
        inside = _inside(values, top_p)
        if most >= tokens or not bool(inside[..., -1].any()):
            break
    least = values.masked_fill(~inside, torch.inf).amin(-1, keepdim=True)
    above, equal = chances > least, chances == least
    # Of equally likely tokens at the edge, those with the lowest ids.
    room = inside.sum(-1, keepdim=True) - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def _inside(values: Tensor, top_p: float) -> Tensor:
    """Mask, bool like `values` (descending probabilities), of the tokens before which the mass is
    less than `top_p`."""
    inside = values.cumsum(-1) - values < top_p
    inside[..., 0] = True  # However small `top_p` is: in float32 it may be 0.
    return inside
