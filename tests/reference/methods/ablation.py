"""What directional ablation's trials measure, over the whole vocabulary; torch alone.

Written from the paper and METHODS.md: it must never import the product it is there to judge.
"""

import math
from collections.abc import Sequence

from torch import Tensor


def odds(logprobs: Tensor, tokens: Sequence[int]) -> float:
    """log(p / (1 - p)) that the next token is one of `tokens`; logprobs: [vocab]."""
    p = logprobs.double().exp()
    inside = float(p[list(tokens)].sum())
    return math.log(inside + 1e-8) - math.log(max(0.0, 1 - inside) + 1e-8)


def divergence(plain: Tensor, changed: Tensor) -> float:
    """KL(plain || changed) of the next token, in nats; [vocab] each."""
    return float((plain.double().exp() * (plain.double() - changed.double())).sum())


def lumped(plain: Tensor, changed: Tensor, most: int) -> float:
    """The same over the `most` likeliest tokens of `plain`, all others being one."""
    kept = plain.topk(most).indices
    p, q = plain.double().exp()[kept], changed.double().exp()[kept]
    rest = 1 - float(p.sum()), 1 - float(q.sum())
    pairs = [*zip(p.tolist(), q.tolist(), strict=True), rest]
    return math.fsum(a * (math.log(a + 1e-6) - math.log(b + 1e-6)) for a, b in pairs)
