"""The tables: what a row holds, that a step leaves no mark of the one before, and what its marks
add where tokens are known as indices."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import steersman.steering.worker.tables
from steersman.steering.ops.addition import add, add_marked
from steersman.steering.worker.tables import Tables, TableSizes

SIZES = TableSizes(slots=4, table_entries=3, terms=2, bank_rows=5, hidden=8, tokens=16)


def make(sizes: TableSizes = SIZES) -> Tables:
    return Tables(sizes, torch.device("cpu"))


def test_shapes_and_empty_state() -> None:
    tables = make()
    assert tables.bank.shape == (6, 8)
    assert tables.index.shape == tables.coefficient.shape == (4, 3, 2)
    assert (tables.index.dtype, tables.token_entry.dtype) == (torch.int32, torch.int32)
    assert not tables.bank.any()
    assert not tables.index.any()
    assert not tables.coefficient.any()
    assert tables.token_entry.tolist() == [-1] * 16
    assert torch.equal(tables.token_gain, torch.ones(16, 2))


def test_a_row_is_written_whole_and_alone() -> None:
    tables = make()
    tables.write_entry(1, {0: [(3, 0.5), (4, -2.0)], 2: [(5, 7.0)]})
    tables.write_entry(1, {2: [(1, 1.5)]})
    expected_index = torch.zeros(4, 3, 2, dtype=torch.int32)
    expected_coefficient = torch.zeros(4, 3, 2)
    expected_index[2, 1, 0], expected_coefficient[2, 1, 0] = 1, 1.5
    assert torch.equal(tables.index, expected_index)
    assert torch.equal(tables.coefficient, expected_coefficient)


def test_bank_rows_are_copies() -> None:
    tables, vector = make(), torch.ones(8)
    tables.fill_bank(2, vector)
    vector.zero_()
    assert tables.bank.sum(1).tolist() == [0, 0, 8, 0, 0, 0]


def test_a_step_starts_unmarked_whatever_came_before() -> None:
    tables = make()
    tables.begin_step()
    tables.mark(0, 4, 2)
    tables.mark(9, 12, 0)
    tables.commit(12)
    assert tables.token_entry.tolist() == [2] * 4 + [-1] * 5 + [0] * 3 + [-1] * 4
    tables.begin_step()
    tables.mark(1, 2, 1)
    tables.commit(3)
    assert tables.token_entry.tolist() == [-1, 1] + [-1] * 14
    tables.begin_step()
    tables.commit(16)
    assert tables.token_entry.tolist() == [-1] * 16


def test_gains_are_one_but_where_a_mark_of_the_step_has_others() -> None:
    tables = make()
    tables.begin_step()
    tables.mark(9, 11, 1, [[2.0, -1.0], [0.0, 3.0]])
    tables.mark(0, 4, 2)
    tables.mark(5, 6, 0, [[0.5]])  # for its first term; the other stays
    tables.commit(12)
    expected = torch.ones(16, 2)
    expected[9:11] = torch.tensor([[2.0, -1.0], [0.0, 3.0]])
    expected[5, 0] = 0.5
    assert torch.equal(tables.token_gain, expected)
    tables.begin_step()
    tables.mark(1, 3, 1)
    tables.commit(3)
    assert torch.equal(tables.token_gain, torch.ones(16, 2))
    assert tables.token_entry.tolist() == [-1, 1, 1] + [-1] * 13


def test_with_gains_each_token_is_an_entry_of_its_own() -> None:
    """And those of a mark without are still one: a prefill beside it has thousands."""
    tables = make()
    tables.begin_step()
    tables.mark(9, 11, 1, [[2.0, -1.0], [0.0, 3.0]])
    tables.mark(0, 3, 2)
    tables.commit(11)
    marked = tables.marked
    assert marked is not None
    assert marked.gains is not None
    assert marked.spread is not None
    assert marked.tokens.tolist() == [0, 1, 2, 9, 10]
    assert marked.entries.tolist() == [2, 1, 1]
    assert marked.spread.tolist() == [0, 0, 0, 1, 2]
    assert marked.gains.tolist() == [[1.0, 1.0], [2.0, -1.0], [0.0, 3.0]]
    tables.begin_step()
    tables.mark(0, 3, 2)
    tables.commit(3)
    assert tables.marked is not None
    assert tables.marked.gains is None
    assert tables.marked.entries.tolist() == [2]


def test_gains_that_do_not_go_with_the_tokens_or_the_terms_are_refused() -> None:
    tables = make()
    tables.begin_step()
    for wrong in ([[1.0, 2.0]] * 3, [[1.0, 2.0, 3.0]] * 2, [[1.0, 2.0], [1.0]]):
        with pytest.raises(ValueError, match=r"shape|broadcast"):
            tables.mark(0, 2, 1, wrong)


class Mark(NamedTuple):
    """Arguments of `Tables.mark`."""

    start: int
    stop: int
    row: int
    gains: list[list[float]] | None


ROOMY = TableSizes(slots=5, table_entries=4, terms=3, bank_rows=6, hidden=7, tokens=900)


@st.composite
def steps(draw: st.DrawFn) -> list[list[Mark]]:
    """Chunks of a few tokens or hundreds, in any order, some with gains, for some of the terms."""
    made = []
    for _ in range(draw(st.integers(1, 3))):
        marks, stop = [], 0
        for _ in range(draw(st.integers(0, 4))):
            start = stop + draw(st.integers(0, 2))
            count = draw(st.sampled_from([1, 1, 2, 5, 200]))
            stop = start + count
            gains = None
            if draw(st.booleans()):
                generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
                values = torch.rand(count, draw(st.integers(1, 3)), generator=generator) * 4 - 2
                values[torch.rand(values.shape, generator=generator) < 0.2] = 0.0
                values[torch.rand(count, generator=generator) < 0.3] = 1.0
                gains = values.tolist()
            marks.append(Mark(start, stop, draw(st.integers(0, 3)), gains))
        made.append(draw(st.permutations(marks)))
    return made


def filled(seed: int) -> Tables:
    """Each row with terms at some of the slots, as many as there is room for or fewer."""
    tables, generator = make(ROOMY), torch.Generator().manual_seed(seed)

    def below(number: int) -> int:
        return int(torch.randint(number, (), generator=generator))

    for row in range(1, 1 + ROOMY.bank_rows):
        tables.fill_bank(row, torch.randn(ROOMY.hidden, generator=generator))
    most = 1 + below(ROOMY.terms)
    for row in range(ROOMY.table_entries):
        terms = {
            slot: [(1 + below(ROOMY.bank_rows), below(9) / 2 - 2) for _ in range(1 + below(most))]
            for slot in range(ROOMY.slots)
            if below(3)
        }
        tables.write_entry(row, terms)
    return tables


def naive(tables: Tables, marks: list[Mark], slot: int, hidden: torch.Tensor) -> torch.Tensor:
    """What the marks say, token by token, in float64."""
    out = hidden.double()
    for start, stop, row, gains in marks:
        for token in range(start, stop):
            own = [1.0] * ROOMY.terms if gains is None else gains[token - start]
            factors = [*own, *[1.0] * (ROOMY.terms - len(own))]
            for k, factor in enumerate(factors):
                strength = factor * float(tables.coefficient[slot, row, k])
                out[token] += strength * tables.bank[int(tables.index[slot, row, k])].double()
    return out


@settings(deadline=None, max_examples=40)
@given(made=steps(), seed=st.integers(0, 2**31), at_once=st.sampled_from([1, 50, 5000, 2**21]))
def test_at_every_slot_the_marks_add_what_the_operation_adds(
    made: list[list[Mark]], seed: int, at_once: int
) -> None:
    """However many slots the sums are taken for at once."""
    tables = filled(seed)
    for marks in made:
        tables.begin_step()
        for mark in marks:
            tables.mark(*mark)
        tokens = max((mark.stop for mark in marks), default=0)
        tables.commit(tokens)
        assert (tables.marked is None) == (not marks)
        for slot in sorted(tables.active_slots):
            before = torch.randn(tokens, ROOMY.hidden)
            by_rows, by_indices = before.clone(), before.clone()
            index, coefficient = tables.index[slot], tables.coefficient[slot]
            add(by_rows, tables.bank, index, coefficient, tables.token_entry, tables.token_gain)
            assert tables.marked is not None
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(steersman.steering.worker.tables, "_AT_ONCE", at_once)
                add_marked(by_indices, tables.added(slot), tables.marked)
            torch.testing.assert_close(by_indices, by_rows, rtol=1e-6, atol=1e-5)
            expected = naive(tables, marks, slot, before)
            torch.testing.assert_close(by_indices.double(), expected, rtol=1e-6, atol=1e-5)


def test_the_operation_sees_the_tensors_it_was_given() -> None:
    """Layers hold references to the tensors from before the profile run: none may be replaced."""
    tables = make()
    before = {name: value.data_ptr() for name, value in tensors(tables).items()}
    tables.fill_bank(1, torch.ones(8))
    tables.write_entry(0, {0: [(1, 1.0)]})
    tables.begin_step()
    tables.mark(0, 1, 0, [[0.5]])
    tables.commit(1)
    assert {name: value.data_ptr() for name, value in tensors(tables).items()} == before


def tensors(tables: Tables) -> dict[str, torch.Tensor]:
    found = {k: v for k, v in vars(tables).items() if isinstance(v, torch.Tensor)}
    assert {"bank", "index", "coefficient", "token_entry", "token_gain"} <= set(found)
    return found
