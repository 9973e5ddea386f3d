"""The operation where terms may read the stream, as a Triton kernel.

One launch, as `steersman.steering.ops.kernel` has it: a token whose terms only add is steered by
one program for each block of its columns, with the same arithmetic. A token with a term that reads
the stream is steered by one program alone, because what the others write would race with what it
reads: first the products of the whole stream with the rows that are read, then the change, column
by column; and once more where the stream keeps its norm.
"""

import triton
import triton.language as tl
from torch import Tensor

from steersman.steering.ops.kernel import (
    TERMS_AT_ONCE,
    WIDEST_BLOCK,
    add_columns,
    dense,
    used_terms,
)
from steersman.steering.ops.terms import SCALARS

WIDEST_PART = 512
"""Hidden dimensions that the program of a token that reads has in registers: with more of them, the
programs of tokens that only add would have fewer neighbours on a multiprocessor."""

_READS = tl.constexpr(2**30)
_SCALARS = tl.constexpr(SCALARS)


@triton.jit  # type: ignore[untyped-decorator]
def stream_at(  # type: ignore[no-untyped-def]
    hidden,
    other,
    at,
    other_at,
    inside,
    SPLIT: tl.constexpr,  # noqa: N803
):
    """The part of the stream that is written, and the whole stream: float32."""
    own = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32)
    stream = own
    if SPLIT:
        stream += tl.load(other + other_at, mask=inside, other=0.0).to(tl.float32)
    return own, stream


@triton.jit
def one_of(values, terms, k):  # type: ignore[no-untyped-def]
    """The k-th of a token's values."""
    return tl.sum(tl.where(terms == k, values, 0.0), axis=0)


@triton.jit  # type: ignore[untyped-decorator]
def change_of(  # type: ignore[no-untyped-def]
    stream,
    bank,
    index,
    reads,
    along,
    across,
    held,
    moving,
    terms,
    columns,
    inside,
    bank_stride,
    TERMS: tl.constexpr,  # noqa: N803
):
    """What a token's terms change of `stream` at `columns`: float32. `index` and `reads`: pointers
    to those of its first term. `along` and `across` multiply the rows that are added and read;
    `held` is what goes off the stream itself; `moving` is the coefficient of each term that
    transports."""
    change = -held * stream
    for k in range(TERMS):
        a = one_of(along, terms, k)
        if a != 0.0:
            row = tl.load(index + k).to(tl.int64)
            change += a * tl.load(bank + row * bank_stride + columns, mask=inside, other=0.0)
        x = one_of(across, terms, k)
        if x != 0.0:
            row = tl.load(reads + k).to(tl.int64)
            change += x * tl.load(bank + row * bank_stride + columns, mask=inside, other=0.0)
        c = one_of(moving, terms, k)
        if c != 0.0:
            # The column behind it has two of its rows, and no coefficient.
            row = tl.load(index + k).to(tl.int64)
            weight = tl.load(bank + row * bank_stride + columns, mask=inside, other=0.0)
            row = tl.load(reads + k).to(tl.int64)
            bias = tl.load(bank + row * bank_stride + columns, mask=inside, other=0.0)
            row = tl.load(index + k + 1).to(tl.int64)
            low = tl.load(bank + row * bank_stride + columns, mask=inside, other=0.0)
            row = tl.load(reads + k + 1).to(tl.int64)
            high = tl.load(bank + row * bank_stride + columns, mask=inside, other=0.0)
            moves = (low < stream) & (stream < high)
            change += tl.where(moves, c * ((weight - 1.0) * stream + bias), 0.0)
    return change


@triton.jit  # type: ignore[untyped-decorator]
def product_with(  # type: ignore[no-untyped-def]
    row,
    hidden,
    other,
    bank,
    width,
    column_stride,
    other_column_stride,
    bank_stride,
    SPLIT: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """The product of a token's stream with a bank row: float32. `hidden`, `other`: pointers to the
    token's."""
    product = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK).to(tl.int64)
        inside = columns < width
        at, other_at = columns * column_stride, columns * other_column_stride
        _, stream = stream_at(hidden, other, at, other_at, inside, SPLIT)
        product += stream * tl.load(bank + row * bank_stride + columns, mask=inside, other=0.0)
    return tl.sum(product, axis=0)


@triton.jit  # type: ignore[untyped-decorator]
def steer_token(  # type: ignore[no-untyped-def]
    hidden,
    other,
    bank,
    index,
    reads,
    coefficient,
    scalars,
    gain,
    width,
    column_stride,
    other_column_stride,
    bank_stride,
    SPLIT: tl.constexpr,  # noqa: N803
    TERMS: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    ALL: tl.constexpr,  # noqa: N803
):
    """Steer one token whole. All pointers are to what is the token's own."""
    terms = tl.arange(0, ALL)
    # What multiplies each term's rows: small vectors, of which no thread has more than it needs.
    along = tl.zeros((ALL,), dtype=tl.float32)
    across = tl.zeros((ALL,), dtype=tl.float32)
    moving = tl.zeros((ALL,), dtype=tl.float32)
    held = 0.0
    keeps = 0
    for k in range(TERMS):
        c = tl.load(coefficient + k) * tl.load(gain + k)
        if c != 0.0:
            numbers = scalars + k * _SCALARS
            kind = tl.load(numbers + 7)
            keeps = tl.where(kind >= 8.0, 1, keeps)
            kind = tl.where(kind >= 8.0, kind - 8.0, kind)
            a = tl.where(kind == 2.0, c, 0.0)
            held += a
            x = 0.0
            if kind < 2.0:
                p = 0.0
                row = tl.load(reads + k).to(tl.int64)
                if row > 0:
                    p = product_with(
                        row, hidden, other, bank, width, column_stride, other_column_stride,
                        bank_stride, SPLIT, BLOCK,
                    )  # fmt: skip
                alpha, beta, tau = tl.load(numbers + 1), tl.load(numbers + 2), tl.load(numbers + 6)
                if kind == 1.0:
                    row = tl.load(index + k).to(tl.int64)
                    q = product_with(
                        row, hidden, other, bank, width, column_stride, other_column_stride,
                        bank_stride, SPLIT, BLOCK,
                    )  # fmt: skip
                    a = tl.where(q > tau, c * (alpha * q - beta * p), 0.0)
                    x = tl.where(q > tau, c * (beta * q + alpha * p), 0.0)
                else:
                    p += tl.load(numbers)
                    lo, hi = tl.load(numbers + 4), tl.load(numbers + 5)
                    clipped = tl.minimum(tl.maximum(p, lo), hi)
                    read = beta * clipped + tl.load(numbers + 3) * p
                    a = c * (alpha + tl.where(p > tau, read, 0.0))
            along = tl.where(terms == k, a, along)
            across = tl.where(terms == k, x, across)
            moving = tl.where(terms == k, tl.where(kind == 3.0, c, 0.0), moving)
    before = tl.zeros((BLOCK,), dtype=tl.float32)
    after = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK).to(tl.int64)
        inside = columns < width
        at, other_at = columns * column_stride, columns * other_column_stride
        own, stream = stream_at(hidden, other, at, other_at, inside, SPLIT)
        change = change_of(
            stream, bank, index, reads, along, across, held, moving, terms, columns, inside,
            bank_stride, TERMS,
        )  # fmt: skip
        if keeps == 0:
            tl.store(hidden + at, (own + change).to(hidden.dtype.element_ty), mask=inside)
        else:
            moved = tl.where(inside, stream + change, 0.0)
            before += stream * stream
            after += moved * moved
    if keeps != 0:
        norm = tl.sum(after, axis=0)
        factor = tl.sqrt(tl.sum(before, axis=0)) / tl.sqrt(tl.where(norm > 0.0, norm, 1.0))
        factor = tl.where(norm > 0.0, factor, 1.0)
        for start in range(0, width, BLOCK):
            columns = start + tl.arange(0, BLOCK).to(tl.int64)
            inside = columns < width
            at, other_at = columns * column_stride, columns * other_column_stride
            own, stream = stream_at(hidden, other, at, other_at, inside, SPLIT)
            change = change_of(
                stream, bank, index, reads, along, across, held, moving, terms, columns, inside,
                bank_stride, TERMS,
            )  # fmt: skip
            change = (stream + change) * factor - stream
            tl.store(hidden + at, (own + change).to(hidden.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def steer_block(  # type: ignore[no-untyped-def]
    hidden,
    other,
    bank,
    index,
    reads,
    coefficient,
    scalars,
    token_entry,
    token_gain,
    width,
    token_stride,
    column_stride,
    other_token_stride,
    other_column_stride,
    bank_stride,
    index_stride,
    reads_stride,
    coefficient_stride,
    scalars_stride,
    gain_stride,
    SPLIT: tl.constexpr,  # noqa: N803
    TERMS: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    PART: tl.constexpr,  # noqa: N803
    ALL: tl.constexpr,  # noqa: N803
):
    """The program for token `program_id(0)` and block `program_id(1)` of its hidden dimensions."""
    # All offsets in 64 bits: rows times hidden size passes 2^31 in a large bank or prefill.
    token = tl.program_id(0).to(tl.int64)
    marked = tl.load(token_entry + token).to(tl.int64)
    if marked < 0:
        return
    reading = marked >= _READS
    entry = tl.where(reading, marked - _READS, marked)
    if used_terms(coefficient + entry * coefficient_stride, TERMS, TILE) == 0:
        return
    if reading:
        if tl.program_id(1) == 0:
            steer_token(
                hidden + token * token_stride,
                other + token * other_token_stride,
                bank,
                index + entry * index_stride,
                reads + entry * reads_stride,
                coefficient + entry * coefficient_stride,
                scalars + entry * scalars_stride,
                token_gain + token * gain_stride,
                width,
                column_stride,
                other_column_stride,
                bank_stride,
                SPLIT,
                TERMS,
                PART,
                ALL,
            )
    else:
        add_columns(
            hidden + token * token_stride,
            bank,
            index + entry * index_stride,
            coefficient + entry * coefficient_stride,
            token_gain + token * gain_stride,
            width,
            column_stride,
            bank_stride,
            TERMS,
            TILE,
            BLOCK,
        )


def steer_rows(
    hidden: Tensor,
    other: Tensor | None,
    bank: Tensor,
    index: Tensor,
    reads: Tensor,
    coefficient: Tensor,
    scalars: Tensor,
    token_entry: Tensor,
    token_gain: Tensor,
) -> None:
    """Run the kernel on the tensors' device. Arguments as for
    `steersman.steering.ops.operations.steer`.

    One launch; it allocates nothing and waits for nothing. `hidden` and `other` may have any
    strides. The last dimension of the other tables, and the last two of `scalars`, must be
    contiguous. Raises ValueError for tables that do not match `hidden`: the kernel would read past
    their end.
    """
    tokens, width = hidden.shape
    terms = index.shape[1]
    fits = min(len(token_entry), len(token_gain)) >= tokens and bank.shape[1] == width
    alike = index.shape == coefficient.shape == reads.shape and token_gain.shape[1] == terms
    own = scalars.shape == (*index.shape, SCALARS) and scalars.stride()[1:] == (SCALARS, 1)
    split = other is None or other.shape == hidden.shape
    if not (
        fits and alike and own and split and dense(bank, index, reads, coefficient, token_gain)
    ):
        raise ValueError(
            f"hidden {tuple(hidden.shape)} does not match bank {tuple(bank.shape)}, index "
            f"{tuple(index.shape)}, reads {tuple(reads.shape)}, coefficient "
            f"{tuple(coefficient.shape)}, scalars {tuple(scalars.shape)}, token_entry "
            f"{tuple(token_entry.shape)}, token_gain {tuple(token_gain.shape)} and other "
            f"{None if other is None else tuple(other.shape)}, or the rows of one of them are not "
            "dense"
        )
    if tokens == 0 or width == 0 or terms == 0:
        return
    block = min(triton.next_power_of_2(width), WIDEST_BLOCK)
    whole = triton.next_power_of_2(terms)
    second = hidden if other is None else other
    # Tokens are the first axis of the grid: the second ends at 65535.
    steer_block[(tokens, triton.cdiv(width, block))](
        hidden,
        second,
        bank,
        index,
        reads,
        coefficient,
        scalars,
        token_entry,
        token_gain,
        width,
        hidden.stride(0),
        hidden.stride(1),
        second.stride(0),
        second.stride(1),
        bank.stride(0),
        index.stride(0),
        reads.stride(0),
        coefficient.stride(0),
        scalars.stride(0),
        token_gain.stride(0),
        SPLIT=other is not None,
        TERMS=terms,
        TILE=min(whole, TERMS_AT_ONCE),
        BLOCK=block,
        PART=min(block, WIDEST_PART),
        ALL=whole,
        num_warps=4,
    )
