"""The operation, in each of its forms, against a naive loop."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steering.op import Marked, add, add_marked, sums
from tests.steering.interpreted import interpreted

HIDDEN = 12


def by_indices(
    hidden: Tensor, bank: Tensor, index: Tensor, coefficient: Tensor, token_row: Tensor
) -> None:
    """`add_marked`, as the tables call it: token after token of each request."""
    rows = token_row[: hidden.shape[0]]
    tokens = (rows >= 0).nonzero().squeeze(1)
    if tokens.numel():
        used = rows[tokens].long()
        added = sums(bank, index[used], coefficient[used])
        add_marked(hidden, added, Marked(tokens, used, None))


on_torch = pytest.mark.parametrize("operation", [add, by_indices])
"""Quick enough for many examples; the other form has its own in test_kernel.py."""
# The first call of torch's form may take seconds: torch imports its compiler.
unhurried = settings(deadline=None)
ways = pytest.mark.parametrize("operation", [add, interpreted, by_indices])
Operation = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]


def naive(
    hidden: Tensor, bank: Tensor, index: Tensor, coefficient: Tensor, token_row: Tensor
) -> Tensor:
    """h_t + sum_k c * bank, token by token, in float64."""
    out = hidden.double()
    for t in range(hidden.shape[0]):
        row = int(token_row[t])
        if row >= 0:
            for k in range(index.shape[1]):
                out[t] += float(coefficient[row, k]) * bank[int(index[row, k])].double()
    return out


@st.composite
def tables(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    tokens, requests = draw(st.integers(1, 24)), draw(st.integers(1, 6))
    width, rows = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bank = torch.randn(1 + rows, HIDDEN, generator=generator)
    bank[0] = 0
    index = torch.randint(0, 1 + rows, (requests, width), generator=generator, dtype=torch.int32)
    coefficient = torch.randn(requests, width, generator=generator) * (index != 0)
    spare = draw(st.integers(0, 5))
    token_row = torch.randint(
        -1, requests, (tokens + spare,), generator=generator, dtype=torch.int32
    )
    return torch.randn(tokens, HIDDEN, generator=generator), bank, index, coefficient, token_row


@on_torch
@unhurried
@given(case=tables())
def test_equals_the_naive_loop(
    operation: Operation,
    case: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
) -> None:
    hidden, *rest = case
    expected = naive(hidden, *rest)
    before = hidden.clone()
    operation(hidden, *rest)
    torch.testing.assert_close(hidden.double(), expected, rtol=1e-6, atol=1e-6)
    unsteered = rest[-1][: hidden.shape[0]] < 0
    assert torch.equal(hidden[unsteered], before[unsteered])


@on_torch
@unhurried
@given(case=tables(), dtype=st.sampled_from([torch.bfloat16, torch.float16]))
def test_half_precision_is_cast_once(
    operation: Operation,
    case: tuple[Tensor, Tensor, Tensor, Tensor, Tensor],
    dtype: torch.dtype,
) -> None:
    wide, *rest = case
    hidden = wide.to(dtype)
    expected = naive(hidden, *rest).float().to(dtype)
    before = hidden.clone()
    operation(hidden, *rest)
    # Sums that lie between two neighbours may round either way, never further.
    spacing = torch.finfo(dtype).eps * expected.float().abs().clamp(min=0.05)
    assert bool(((hidden.float() - expected.float()).abs() <= spacing).all())
    unsteered = rest[-1][: hidden.shape[0]] < 0
    assert torch.equal(hidden[unsteered], before[unsteered])


@ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_poison_in_what_is_not_used_stays_there(operation: Operation, dtype: torch.dtype) -> None:
    poison = float("nan")
    hidden = torch.ones(6, HIDDEN, dtype=dtype)
    hidden[[1, 4]] = poison
    bank = torch.full((4, HIDDEN), poison)
    bank[0], bank[2] = 0.0, 0.5
    index = torch.tensor([[3, 3], [2, 0], [1, 3]], dtype=torch.int32)
    coefficient = torch.tensor([[poison, poison], [4.0, 0.0], [poison, poison]])
    token_row = torch.tensor([1, -1, -1, 1, -1, 1, 0, 2, 2], dtype=torch.int32)
    operation(hidden, bank, index, coefficient, token_row)
    assert hidden[:, 0].float().nan_to_num(-7).tolist() == [3, -7, 1, 3, -7, 3]


@ways
def test_rows_beyond_the_step_are_not_read(operation: Operation) -> None:
    hidden = torch.zeros(2, HIDDEN)
    token_row = torch.tensor([-1, 0, 77, 77], dtype=torch.int32)
    index = torch.tensor([[1]], dtype=torch.int32)
    operation(hidden, torch.ones(2, HIDDEN), index, torch.ones(1, 1), token_row)
    assert hidden.sum(1).tolist() == [0.0, HIDDEN]


@ways
def test_a_strided_table_and_a_strided_stream(operation: Operation) -> None:
    stream = torch.zeros(4, 2 * HIDDEN)
    hidden = stream[:, :HIDDEN]
    index = torch.ones(3, 2, 1, dtype=torch.int32)[1]
    token_row = torch.tensor([0, -1, 1, 1], dtype=torch.int32)
    operation(hidden, torch.ones(2, HIDDEN), index, torch.ones(2, 1), token_row)
    assert stream[:, 0].tolist() == [1, 0, 1, 1]
    assert not stream[:, HIDDEN:].any()


def test_torch_finds_the_operation_sound() -> None:
    """Schema, mutation and fake implementation agree, so torch.compile may rely on them."""
    arguments = (
        torch.randn(5, HIDDEN),
        torch.randn(3, HIDDEN),
        torch.tensor([[1, 2], [0, 0]], dtype=torch.int32),
        torch.randn(2, 2),
        torch.tensor([0, -1, 1, -1, 0], dtype=torch.int32),
    )
    torch.library.opcheck(torch.ops.steersman.add.default, arguments)
