"""What gates measure of the stream, in torch (`steersman.steering.plan.when.gates` says what)."""

from collections.abc import Callable, Collection
from typing import Final

import torch
from torch import Tensor

PROJECTION: Final = 0
COSINE: Final = 1
CAST: Final = 2

Measuring = Callable[[Tensor, Tensor | None], None]
"""Measures the gates of one hook point on the stream there: two tensors [tokens, hidden] whose sum
it is, or the stream and None."""

MEASURING: Final[dict[int, Measuring]] = {}
"""By the address of a hook point's part of the table `index`, what the running step measures there.
A compiled graph has the operation alone, which looks here; on CPUs only."""


def measured(stream: Tensor, rows: Tensor, measure: Tensor, present: Collection[int]) -> Tensor:
    """What is measured of each of n tokens: float32 [n].

    `stream` and `rows` [n, hidden] float32: the token's stream, and the vector it is measured with.
    `measure` [n] int: how, one of `PROJECTION`, `COSINE`, `CAST`; `present`: all that are among
    them. A stream of zeros has the cosine 0.
    """
    # Products and sums row by row: a token's value does not depend on what stands beside it.
    product, square = (rows * stream).sum(-1), (rows * rows).sum(-1)
    found = product / square.sqrt()
    if COSINE in present or CAST in present:
        norm = (stream * stream).sum(-1).sqrt()
        if COSINE in present:
            found = torch.where(measure == COSINE, found / norm, found)
        if CAST in present:
            turned = torch.tanh(rows * (product / square).unsqueeze(-1))
            lengths = norm * (turned * turned).sum(-1).sqrt()
            found = torch.where(measure == CAST, (stream * turned).sum(-1) / lengths, found)
    return found.nan_to_num(0.0)
