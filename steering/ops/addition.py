"""The one operation: h_t <- h_t + sum_k g[t, k] * c[e(t), k] * bank[i[e(t), k]].

h_t is the stream at token t, e(t) the token's table entry, i the bank row, c the coefficient and g
the gain of its k-th term. It is a torch custom op, so torch.compile treats it as opaque and CUDA
graphs capture it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

IDLE: Final[set[int]] = set()
"""Addresses of the `token_entry` tensors of tables that mark no token in the running step. The
operation returns at once for these, except while a graph is captured, which other steps replay. New
tables are not in the set before their first step, so the operation runs in the profile run, which
compiles its kernel before a capture."""


_left_out: Final[list[None]] = []


@contextmanager
def left_out() -> Iterator[None]:
    """No operation does anything in here. A CUDA graph that is captured in here has none, and is
    for steps that mark no token."""
    _left_out.append(None)
    try:
        yield
    finally:
        _left_out.pop()


def is_left_out() -> bool:
    """Whether a graph is captured that has no operation."""
    return bool(_left_out)


class Marked(NamedTuple):
    """The steered tokens of a step, as indices: n tokens with u table entries. Made once a step."""

    tokens: Tensor
    """[n] int64, ascending: which tokens of the batch."""
    entries: Tensor
    """[u] int64: the table entries in use; a token with gains has an item of its own."""
    spread: Tensor | None
    """[n] int64: for each token, its index in `entries`; None if token i has item i."""
    gains: Tensor | None = None
    """[u, K] float32: what the coefficients of each of `entries` are multiplied by; None for 1."""


def sums(bank: Tensor, index: Tensor, coefficient: Tensor) -> Tensor:
    """sum_k c[.., k] * bank[i[.., k]]: float32 [.., hidden]. `bank` [rows, hidden]; `index` (i) and
    `coefficient` (c) [.., K]."""
    terms = index.shape[-1]
    added = embedding_bag(
        index.reshape(-1, terms), bank,
        per_sample_weights=coefficient.reshape(-1, terms), mode="sum",
    )  # fmt: skip
    return added.view(*index.shape[:-1], -1)


def add_marked(hidden: Tensor, added: Tensor, marked: Marked) -> None:
    """Add to `hidden` [tokens, hidden], in place, at the tokens of `marked`. `added` [u, hidden]
    float32 is what each of `marked.entries` adds. A prefill has thousands of tokens but few table
    entries."""
    tokens, spread = marked.tokens, marked.spread
    delta = added if spread is None else added.index_select(0, spread)
    if hidden.dtype == torch.float32:
        hidden.index_add_(0, tokens, delta)
    else:
        hidden[tokens] = (hidden[tokens].float() + delta).to(hidden.dtype)


# Defined by its schema: the dispatch of a `custom_op` costs more than a small addition.
_LIBRARY: Final = torch.library.Library("steersman", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "add(Tensor(a!) hidden, Tensor bank, Tensor index, Tensor coefficient, Tensor token_entry, "
    "Tensor token_gain) -> ()"
)


def add(
    hidden: Tensor,
    bank: Tensor,
    index: Tensor,
    coefficient: Tensor,
    token_entry: Tensor,
    token_gain: Tensor,
) -> None:
    """Add each steered token's vectors to `hidden`, in place.

    Shapes and dtypes: `hidden` [tokens, hidden] of any float dtype; `bank` [rows, hidden] float32;
    `index` [entries, K] int32 and `coefficient` [entries, K] float32, the part of the tables for
    one hook point, where unused terms have row 0 (all zeros) and coefficient 0.0; `token_entry` [>=
    tokens] int32, the table entry of each token, or -1 for a token that is not steered;
    `token_gain` [>= tokens, K] float32, which multiplies the token's coefficients and is 1 unless
    they change token by token.

    The sum is taken in float32 and cast once. Tokens with entry -1 are not touched.
    """
    if _left_out or token_entry.data_ptr() in IDLE:
        return
    entries = token_entry[: hidden.shape[0]]
    tokens = (entries >= 0).nonzero().squeeze(1)
    if tokens.numel():
        gains = token_gain[tokens]
        if bool((gains == 1).all()):
            used, spread = torch.unique(entries[tokens], return_inverse=True)
            added = sums(bank, index[used], coefficient[used])
            add_marked(hidden, added, Marked(tokens, used, spread))
        else:
            used = entries[tokens]
            added = sums(bank, index[used], coefficient[used] * gains)
            add_marked(hidden, added, Marked(tokens, used, None))


def add_on_cuda(
    hidden: Tensor,
    bank: Tensor,
    index: Tensor,
    coefficient: Tensor,
    token_entry: Tensor,
    token_gain: Tensor,
) -> None:
    """The same in one kernel. No shape depends on data, so CUDA graphs can capture it."""
    idle = token_entry.data_ptr() in IDLE
    if _left_out or (idle and not torch.cuda.is_current_stream_capturing()):
        return
    # Here, because a CPU needs no Triton. The profile run comes through: a start without it fails.
    from steersman.steering.ops.kernel import add_rows

    add_rows(hidden, bank, index, coefficient, token_entry, token_gain)


def add_on_meta(*_: Tensor) -> None:
    """The form for torch.compile's fake tensors: no values to compute, and no shape changes."""


_LIBRARY.impl("add", add, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("add", add_on_cuda, "CUDA")  # type: ignore[no-untyped-call]
_LIBRARY.impl("add", add_on_meta, "Meta")  # type: ignore[no-untyped-call]
