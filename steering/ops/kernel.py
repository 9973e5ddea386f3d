"""The operation as a Triton kernel. Importing this module needs Triton; only the CUDA form does.

One program adds one token's vectors to `BLOCK` of its hidden dimensions, so the grid depends on
shapes alone, and a captured CUDA graph can be replayed with any content of the tables. The program
of a token that is not steered loads four bytes. If the token is steered, but not at this hook
point, it also loads the token's coefficients.

The terms of a token are not handled one after another: all indices are loaded at once with the
stream, then the rows of the bank as one tile. In decode a step waits for memory, not for
arithmetic, so a program waits four times in a row, however many terms there are. A term with
coefficient 0 (every unused one) is masked out of the tile: it causes no memory traffic, and the
content of its bank row cannot reach the sum.
"""

import triton
import triton.language as tl
from torch import Tensor

WIDEST_BLOCK = 1024
"""Hidden dimensions of one program: a few programs a token even at batch 1, and no spills."""

TERMS_AT_ONCE = 8
"""Terms in one tile; where the tables have more, a program goes through them tile by tile."""


@triton.jit  # type: ignore[untyped-decorator]
def used_terms(coefficient, TERMS: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: N803
    """How many of an entry's terms have a coefficient. `coefficient`: pointer to its first."""
    used = 0
    for first in tl.static_range(0, TERMS, TILE):
        terms = first + tl.arange(0, TILE)
        c = tl.load(coefficient + terms, mask=terms < TERMS, other=0.0)
        used += tl.sum((c != 0.0).to(tl.int32), axis=0)
    return used


@triton.jit  # type: ignore[untyped-decorator]
def sum_of_terms(  # type: ignore[no-untyped-def]
    bank,
    index,
    coefficient,
    gain,
    columns,
    inside,
    bank_stride,
    TERMS: tl.constexpr,  # noqa: N803 (Triton's custom for what is known when it compiles)
    TILE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """What a token's terms add to its hidden dimensions `columns`: float32 [BLOCK]. `index`,
    `coefficient` and `gain`: pointers to those of the token's first term."""
    delta = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in tl.static_range(0, TERMS, TILE):
        terms = first + tl.arange(0, TILE)
        there = terms < TERMS
        c = tl.load(coefficient + terms, mask=there, other=0.0)
        c *= tl.load(gain + terms, mask=there, other=1.0)
        i = tl.load(index + terms, mask=there, other=0).to(tl.int64)
        used = (c != 0.0)[:, None] & inside[None, :]
        vectors = tl.load(bank + i[:, None] * bank_stride + columns[None, :], mask=used, other=0.0)
        delta += tl.sum(c[:, None] * vectors, axis=0)
    return delta


@triton.jit  # type: ignore[untyped-decorator]
def add_columns(  # type: ignore[no-untyped-def]
    hidden,
    bank,
    index,
    coefficient,
    gain,
    width,
    column_stride,
    bank_stride,
    TERMS: tl.constexpr,  # noqa: N803
    TILE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """Add a token's terms to block `program_id(1)` of its hidden dimensions. `hidden`: pointer to
    the token's; the others as for `sum_of_terms`."""
    columns = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    place = hidden + columns * column_stride
    stream = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    delta = sum_of_terms(
        bank, index, coefficient, gain, columns, inside, bank_stride, TERMS, TILE, BLOCK
    )
    tl.store(place, (stream + delta).to(hidden.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def add_block(  # type: ignore[no-untyped-def]
    hidden,
    bank,
    index,
    coefficient,
    token_entry,
    token_gain,
    width,
    token_stride,
    column_stride,
    bank_stride,
    index_stride,
    coefficient_stride,
    gain_stride,
    TERMS: tl.constexpr,  # noqa: N803 (Triton's custom for what is known when it compiles)
    TILE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """The program for token `program_id(0)` and block `program_id(1)` of its hidden dimensions."""
    # All offsets in 64 bits: rows times hidden size passes 2^31 in a large bank or prefill.
    token = tl.program_id(0).to(tl.int64)
    entry = tl.load(token_entry + token).to(tl.int64)
    if entry < 0:
        return
    # A token that has nothing to add at this hook point leaves before it loads the stream.
    if used_terms(coefficient + entry * coefficient_stride, TERMS, TILE) == 0:
        return
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


def add_rows(
    hidden: Tensor,
    bank: Tensor,
    index: Tensor,
    coefficient: Tensor,
    token_entry: Tensor,
    token_gain: Tensor,
) -> None:
    """Run the kernel on the tensors' device. Arguments as for
    `steersman.steering.ops.addition.add`.

    One launch; it allocates nothing and waits for nothing. `hidden` may have any strides. The last
    dimension of `index`, `coefficient`, `token_gain` and `bank` must be contiguous. Raises
    ValueError for tables that do not match `hidden`: the kernel would read past their end.
    """
    tokens, width = hidden.shape
    terms = index.shape[1]
    fits = min(len(token_entry), len(token_gain)) >= tokens and bank.shape[1] == width
    alike = index.shape == coefficient.shape and token_gain.shape[1] == terms
    if not (fits and alike and dense(bank, index, coefficient, token_gain)):
        raise ValueError(
            f"hidden {tuple(hidden.shape)} does not match bank {tuple(bank.shape)}, index "
            f"{tuple(index.shape)}, coefficient {tuple(coefficient.shape)}, token_entry "
            f"{tuple(token_entry.shape)} and token_gain {tuple(token_gain.shape)}, or the rows of "
            "one of them are not dense"
        )
    if tokens == 0 or width == 0 or terms == 0:
        return
    block = min(triton.next_power_of_2(width), WIDEST_BLOCK)
    # Tokens are the first axis of the grid: the second ends at 65535.
    add_block[(tokens, triton.cdiv(width, block))](
        hidden,
        bank,
        index,
        coefficient,
        token_entry,
        token_gain,
        width,
        hidden.stride(0),
        hidden.stride(1),
        bank.stride(0),
        index.stride(0),
        coefficient.stride(0),
        token_gain.stride(0),
        TERMS=terms,
        TILE=min(triton.next_power_of_2(terms), TERMS_AT_ONCE),
        BLOCK=block,
        num_warps=4,
    )


def dense(*tables: Tensor) -> bool:
    """Whether the rows of these tables [rows, columns] have no gaps between their columns."""
    return all(table.stride(1) == 1 or table.shape[1] == 1 for table in tables)
