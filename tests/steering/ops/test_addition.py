"""The operation, in each of its forms, against a naive loop."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from steersman.steering.ops.addition import Marked, add, add_marked, sums
from tests.support.steering.interpreted import interpreted

HIDDEN = 12
NAN = float("nan")


def by_indices(
    hidden: Tensor,
    bank: Tensor,
    index: Tensor,
    coefficient: Tensor,
    token_entry: Tensor,
    token_gain: Tensor,
) -> None:
    """`add_marked`, as the tables call it: token after token of each request."""
    rows = token_entry[: hidden.shape[0]]
    tokens = (rows >= 0).nonzero().squeeze(1)
    if tokens.numel():
        used = rows[tokens].long()
        added = sums(bank, index[used], coefficient[used] * token_gain[tokens])
        add_marked(hidden, added, Marked(tokens, used, None))


on_torch = pytest.mark.parametrize("operation", [add, by_indices])
"""Quick enough for many examples; the other form has its own in test_kernel.py."""
# The first call of torch's form may take seconds: torch imports its compiler.
unhurried = settings(deadline=None)
ways = pytest.mark.parametrize("operation", [add, interpreted, by_indices])
Operation = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]


class Case(NamedTuple):
    """Arguments of the operation."""

    hidden: Tensor
    bank: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple has a method of that name
    coefficient: Tensor
    token_entry: Tensor
    token_gain: Tensor

    @property
    def unsteered(self) -> Tensor:
        return self.token_entry[: len(self.hidden)] < 0


def naive(
    hidden: Tensor,
    bank: Tensor,
    index: Tensor,
    coefficient: Tensor,
    token_entry: Tensor,
    token_gain: Tensor,
) -> Tensor:
    """h_t + sum_k g * c * bank, token by token, in float64."""
    out = hidden.double()
    for t in range(hidden.shape[0]):
        row = int(token_entry[t])
        if row >= 0:
            for k in range(index.shape[1]):
                strength = float(token_gain[t, k]) * float(coefficient[row, k])
                out[t] += strength * bank[int(index[row, k])].double()
    return out


@st.composite
def tables(draw: st.DrawFn) -> Case:
    tokens, requests = draw(st.integers(1, 24)), draw(st.integers(1, 6))
    width, rows = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bank = torch.randn(1 + rows, HIDDEN, generator=generator)
    bank[0] = 0
    index = torch.randint(0, 1 + rows, (requests, width), generator=generator, dtype=torch.int32)
    coefficient = torch.randn(requests, width, generator=generator) * (index != 0)
    token_entry = torch.randint(
        -1,
        requests,
        (tokens + draw(st.integers(0, 5)),),
        generator=generator,
        dtype=torch.int32,
    )
    # Gains for some tokens, or for none at all, which torch's form takes another way through.
    gain = torch.ones(tokens + draw(st.integers(0, 5)), width)
    if draw(st.booleans()):
        gain = torch.rand(gain.shape, generator=generator) * 4 - 2
        for constant in (0.0, 1.0):
            gain[torch.rand(gain.shape, generator=generator) < 0.2] = constant
        gain[torch.rand(len(gain), generator=generator) < 0.3] = 1.0
    gain[:tokens][token_entry[:tokens] < 0] = NAN
    gain[tokens:] = NAN
    hidden = torch.randn(tokens, HIDDEN, generator=generator)
    return Case(hidden, bank, index, coefficient, token_entry, gain)


@on_torch
@unhurried
@given(case=tables())
def test_equals_the_naive_loop(operation: Operation, case: Case) -> None:
    expected = naive(*case)
    before = case.hidden.clone()
    operation(*case)
    torch.testing.assert_close(case.hidden.double(), expected, rtol=1e-6, atol=1e-5)
    assert torch.equal(case.hidden[case.unsteered], before[case.unsteered])


@on_torch
@unhurried
@given(case=tables(), dtype=st.sampled_from([torch.bfloat16, torch.float16]))
def test_half_precision_is_cast_once(operation: Operation, case: Case, dtype: torch.dtype) -> None:
    hidden = case.hidden.to(dtype)
    expected = naive(hidden, *case[1:]).float().to(dtype)
    before = hidden.clone()
    operation(hidden, *case[1:])
    # Sums that lie between two neighbours may round either way, never further.
    spacing = torch.finfo(dtype).eps * expected.float().abs().clamp(min=0.05)
    assert bool(((hidden.float() - expected.float()).abs() <= spacing).all())
    assert torch.equal(hidden[case.unsteered], before[case.unsteered])


@ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gains", [(1.0, 1.0, 1.0), (2.0, 1.0, -0.5)])
def test_poison_in_what_is_not_used_stays_there(
    operation: Operation, dtype: torch.dtype, gains: tuple[float, float, float]
) -> None:
    hidden = torch.ones(6, HIDDEN, dtype=dtype)
    hidden[[1, 4]] = NAN
    bank = torch.full((4, HIDDEN), NAN)
    bank[0], bank[2] = 0.0, 0.5
    index = torch.tensor([[3, 3], [2, 0], [1, 3]], dtype=torch.int32)
    coefficient = torch.tensor([[NAN, NAN], [4.0, 0.0], [NAN, NAN]])
    token_entry = torch.tensor([1, -1, -1, 1, -1, 1, 0, 2, 2], dtype=torch.int32)
    token_gain = torch.full((8, 2), NAN)
    token_gain[[0, 3, 5]] = torch.tensor([[gain, 1.0] for gain in gains])
    operation(hidden, bank, index, coefficient, token_entry, token_gain)
    first, second, third = (1 + 2 * gain for gain in gains)
    assert hidden[:, 0].float().nan_to_num(-7).tolist() == [first, -7, 1, second, -7, third]


@ways
def test_a_gain_is_for_one_token_and_one_term(operation: Operation) -> None:
    """Tokens of one row; the last has a row of which one term is not used."""
    hidden = torch.zeros(5, HIDDEN)
    bank = torch.tensor([0.0, 1.0, 100.0]).unsqueeze(1).repeat(1, HIDDEN)
    index = torch.tensor([[1, 2], [2, 0]], dtype=torch.int32)
    coefficient = torch.tensor([[2.0, 3.0], [1.0, 0.0]])
    token_entry = torch.tensor([0, 0, 0, 0, 1], dtype=torch.int32)
    token_gain = torch.tensor([[1.0, 1.0], [0.5, 1.0], [0.0, -1.0], [0.0, 0.0], [4.0, 9.0]])
    operation(hidden, bank, index, coefficient, token_entry, token_gain)
    assert hidden[:, 0].tolist() == [302.0, 301.0, -300.0, 0.0, 400.0]


@ways
def test_rows_beyond_the_step_are_not_read(operation: Operation) -> None:
    hidden = torch.zeros(2, HIDDEN)
    token_entry = torch.tensor([-1, 0, 77, 77], dtype=torch.int32)
    index = torch.tensor([[1]], dtype=torch.int32)
    token_gain = torch.tensor([[5.0], [1.0], [NAN]])
    operation(hidden, torch.ones(2, HIDDEN), index, torch.ones(1, 1), token_entry, token_gain)
    assert hidden.sum(1).tolist() == [0.0, HIDDEN]


@ways
def test_a_strided_table_and_a_strided_stream(operation: Operation) -> None:
    stream = torch.zeros(4, 2 * HIDDEN)
    hidden = stream[:, :HIDDEN]
    index = torch.ones(3, 2, 1, dtype=torch.int32)[1]
    token_entry = torch.tensor([0, -1, 1, 1], dtype=torch.int32)
    token_gain = torch.tensor([[NAN, 1.0, NAN], [NAN, 2.0, NAN]]).repeat(2, 1)[:, 1:2]
    operation(hidden, torch.ones(2, HIDDEN), index, torch.ones(2, 1), token_entry, token_gain)
    assert stream[:, 0].tolist() == [1, 0, 1, 2]
    assert not stream[:, HIDDEN:].any()


def test_torch_finds_the_operation_sound() -> None:
    """Schema, mutation and fake implementation agree, so torch.compile may rely on them."""
    arguments = (
        torch.randn(5, HIDDEN),
        torch.randn(3, HIDDEN),
        torch.tensor([[1, 2], [0, 0]], dtype=torch.int32),
        torch.randn(2, 2),
        torch.tensor([0, -1, 1, -1, 0], dtype=torch.int32),
        torch.rand(5, 2),
    )
    torch.library.opcheck(torch.ops.steersman.add.default, arguments)
