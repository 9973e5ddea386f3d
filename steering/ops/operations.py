"""The operation where terms may read the stream: in torch, and the custom op `steersman::steer`.

All terms of a token at a hook point read the same stream h, hidden + residual in float32. What
they change is summed, and cast once where it is added. A token whose terms only add is steered
exactly as by `steersman.steering.ops.addition`: its bits are the same.
"""

from collections.abc import Collection
from typing import Final, NamedTuple

import torch
from torch import Tensor

from steersman.steering.ops.addition import IDLE, add, is_left_out
from steersman.steering.ops.gates import MEASURING
from steersman.steering.ops.terms import FORM, KEEP_NORM, REPLACE, ROTATE, TRANSPORT

READS: Final = 2**30
"""Added to a token's table entry if a term of the entry reads the stream, at any hook point."""

AT_ONCE: Final = 2**22
"""Most float32 values of bank rows that are gathered at once."""


class Terms(NamedTuple):
    """The terms of n tokens at one hook point, K each."""

    rows: Tensor
    """[n, K] int: bank rows of what is added."""
    reads: Tensor
    """[n, K] int: bank rows whose product with the stream decides how much."""
    coefficient: Tensor
    """[n, K] float32, with gains; 0 for an unused term."""
    scalars: Tensor
    """[n, K, SCALARS] float32."""


def change(
    stream: Tensor, bank: Tensor, terms: Terms, kinds: Collection[int] | None = None
) -> Tensor:
    """What `terms` change of `stream` [n, hidden] float32: float32 [n, hidden]. `bank` [rows,
    hidden] float32. `kinds`: all kinds of the terms, `KEEP_NORM` among them where a norm stays;
    None if that is not known."""
    index, reads, coefficient, scalars = terms
    b, alpha, beta, gamma, lo, hi, tau, kind = scalars.unbind(-1)
    used = coefficient != 0
    if kinds is None:
        kinds = {int(one) for one in kind[used].tolist()}
        kinds |= {one - KEEP_NORM for one in kinds if one >= KEEP_NORM}
    keeps = kind >= KEEP_NORM
    if any(one >= KEEP_NORM for one in kinds):
        kind = torch.where(keeps, kind - KEEP_NORM, kind)
    rows = bank[index]
    changed = torch.zeros_like(stream)
    along = torch.zeros_like(coefficient)
    if FORM in kinds:
        p = _products(bank[reads], stream) + b
        read = beta * torch.minimum(torch.maximum(p, lo), hi) + gamma * p
        phi = alpha + torch.where(p > tau, read, 0.0)
        # What is not used may be anything: no number of it may reach the sum.
        along = torch.where(used & (kind == FORM), coefficient * phi, 0.0)
    if ROTATE in kinds:
        first, second = _products(rows, stream), _products(bank[reads], stream)
        turned = used & (kind == ROTATE) & (first > tau)
        along = torch.where(turned, coefficient * (alpha * first - beta * second), along)
        across = torch.where(turned, coefficient * (beta * first + alpha * second), 0.0)
        changed += _sums(across, torch.where(turned[..., None], bank[reads], 0.0))
    if REPLACE in kinds:
        replaces = used & (kind == REPLACE)
        along = torch.where(replaces, coefficient, along)
        changed -= torch.where(replaces, coefficient, 0.0).sum(-1, keepdim=True) * stream
    changed += _sums(along, rows)
    transports = used & (kind == TRANSPORT)
    for column in range(index.shape[1] - 1) if TRANSPORT in kinds else ():
        tokens = transports[:, column].nonzero().flatten()
        if len(tokens):
            h = stream[tokens]
            weight, low = (bank[index[tokens, column + n]] for n in (0, 1))
            bias, high = (bank[reads[tokens, column + n]] for n in (0, 1))
            moved = torch.where((low < h) & (h < high), (weight - 1.0) * h + bias, 0.0)
            changed[tokens] += coefficient[tokens, column, None] * moved
    if any(one >= KEEP_NORM for one in kinds):
        after = stream + changed
        norm = after.norm(dim=-1, keepdim=True)
        factor = torch.where(norm > 0, stream.norm(dim=-1, keepdim=True) / norm, 1.0)
        keeping = (keeps & used).any(-1, keepdim=True)
        changed = torch.where(keeping, after * factor - stream, changed)
    return changed


def _products(rows: Tensor, stream: Tensor) -> Tensor:
    """The product of each token's stream [n, hidden] with its rows [n, K, hidden]: [n, K]."""
    return torch.matmul(rows, stream.unsqueeze(-1)).squeeze(-1)


def _sums(factors: Tensor, rows: Tensor) -> Tensor:
    """The sum of each token's rows [n, K, hidden], multiplied by its factors [n, K]: [n,
    hidden]."""
    return torch.matmul(factors.unsqueeze(1), rows).squeeze(1)


def steer_tokens(
    hidden: Tensor,
    other: Tensor | None,
    tokens: Tensor,
    terms: Terms,
    bank: Tensor,
    kinds: Collection[int] | None = None,
) -> None:
    """Change `hidden` [tokens, hidden] of any float dtype, in place, at the indices `tokens` [n]
    int64, by the `terms` of these tokens. `other`, of the same shape, is the rest of the stream, if
    the stream is in two parts. `kinds` as for `change`."""
    most = max(1, AT_ONCE // (bank.shape[1] * terms.rows.shape[1]))
    for first in range(0, len(tokens), most):
        some = slice(first, first + most)
        at = tokens[some]
        own = hidden[at].float()
        stream = own if other is None else own + other[at].float()
        changed = change(stream, bank, Terms(*(part[some] for part in terms)), kinds)
        hidden[at] = (own + changed).to(hidden.dtype)


_LIBRARY: Final = torch.library.Library("steersman", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "steer(Tensor(a!) hidden, Tensor? other, Tensor bank, Tensor index, Tensor reads, "
    "Tensor coefficient, Tensor scalars, Tensor token_entry, Tensor token_gain, "
    "Tensor? gate=None, Tensor? register=None) -> ()"
)


def steer(
    hidden: Tensor,
    other: Tensor | None,
    bank: Tensor,
    index: Tensor,
    reads: Tensor,
    coefficient: Tensor,
    scalars: Tensor,
    token_entry: Tensor,
    token_gain: Tensor,
    gate: Tensor | None = None,
    register: Tensor | None = None,
) -> None:
    """Steer each marked token of `hidden`, in place.

    As `steersman.steering.ops.addition.add`, with `other` [tokens, hidden], the rest of the stream,
    or None; `reads` [entries, K] int32 and `scalars` [entries, K, SCALARS] float32
    (`steersman.steering.ops.terms`); `gate` [entries, K] uint8, each term's column of `register`
    [>= tokens, columns] float32, by which its coefficient is multiplied; None: by 1. These are read
    only for tokens to whose entry `READS` is added in `token_entry`. Before that the gates are
    measured that `steersman.steering.ops.gates.MEASURING` has for this `index`.
    """
    if is_left_out():
        return
    if (measure := MEASURING.get(index.data_ptr())) is not None:
        measure(hidden, other)
    if token_entry.data_ptr() in IDLE:
        return
    entries = token_entry[: hidden.shape[0]]
    tokens = (entries >= READS).nonzero().squeeze(1)
    if len(tokens):
        used = (entries[tokens] - READS).long()
        gained = coefficient[used] * token_gain[tokens]
        terms = Terms(index[used], reads[used], gained, scalars[used])
        if gate is not None and register is not None and bool((columns := gate[used]).any()):
            steer_tokens(hidden, other, *gated(tokens, terms, columns, register), bank=bank)
        else:
            steer_tokens(hidden, other, tokens, terms, bank=bank)
        entries = torch.where(entries >= READS, -1, entries)
    if len(tokens) < len(entries):
        add(hidden, bank, index, coefficient, entries, token_gain)


def gated(tokens: Tensor, terms: Terms, columns: Tensor, register: Tensor) -> tuple[Tensor, Terms]:
    """Those of `tokens` [n] int64 of which a term acts, and their `terms`. `columns` [n, K] int:
    each term's own of `register` [>= tokens, columns] float32, which is 1 where it acts, else 0."""
    flags = register[tokens].gather(1, columns.long())
    terms = terms._replace(coefficient=terms.coefficient * flags)
    # Where no gate passes nothing is written, not even what is there.
    acting = (terms.coefficient != 0).any(-1)
    return tokens[acting], Terms(*(part[acting] for part in terms))


def steer_on_cuda(
    hidden: Tensor,
    other: Tensor | None,
    bank: Tensor,
    index: Tensor,
    reads: Tensor,
    coefficient: Tensor,
    scalars: Tensor,
    token_entry: Tensor,
    token_gain: Tensor,
    gate: Tensor | None = None,
    register: Tensor | None = None,
) -> None:
    """The same in one kernel, without gates, which are refused on GPUs. No shape depends on data,
    so CUDA graphs can capture it."""
    idle = token_entry.data_ptr() in IDLE
    if is_left_out() or (idle and not torch.cuda.is_current_stream_capturing()):
        return
    # Here, because a CPU needs no Triton. The profile run comes through: a start without it fails.
    from steersman.steering.ops.steer_kernel import steer_rows

    steer_rows(hidden, other, bank, index, reads, coefficient, scalars, token_entry, token_gain)


def steer_on_meta(*_: Tensor | None) -> None:
    """The form for torch.compile's fake tensors: no values to compute, and no shape changes."""


_LIBRARY.impl("steer", steer, "CPU")  # type: ignore[no-untyped-call]
_LIBRARY.impl("steer", steer_on_cuda, "CUDA")  # type: ignore[no-untyped-call]
_LIBRARY.impl("steer", steer_on_meta, "Meta")  # type: ignore[no-untyped-call]
