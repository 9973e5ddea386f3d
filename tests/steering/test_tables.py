"""The tables: what a row holds, and that a step leaves no mark of the one before."""

import torch

from steering.tables import Tables, TableSizes

SIZES = TableSizes(slots=4, table_rows=3, terms=2, bank_rows=5, hidden=8, tokens=16)


def make() -> Tables:
    return Tables(SIZES, torch.device("cpu"))


def test_shapes_and_empty_state() -> None:
    tables = make()
    assert tables.bank.shape == (6, 8)
    assert tables.index.shape == tables.coefficient.shape == (4, 3, 2)
    assert (tables.index.dtype, tables.token_row.dtype) == (torch.int32, torch.int32)
    assert not tables.bank.any()
    assert not tables.index.any()
    assert not tables.coefficient.any()
    assert tables.token_row.tolist() == [-1] * 16


def test_a_row_is_written_whole_and_alone() -> None:
    tables = make()
    tables.write_row(1, {0: [(3, 0.5), (4, -2.0)], 2: [(5, 7.0)]})
    tables.write_row(1, {2: [(1, 1.5)]})
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
    assert tables.token_row.tolist() == [2] * 4 + [-1] * 5 + [0] * 3 + [-1] * 4
    tables.begin_step()
    tables.mark(1, 2, 1)
    tables.commit(3)
    assert tables.token_row.tolist() == [-1, 1] + [-1] * 14
    tables.begin_step()
    tables.commit(16)
    assert tables.token_row.tolist() == [-1] * 16


def test_the_operation_sees_the_tensors_it_was_given() -> None:
    """Layers hold references to the tensors from before the profile run: none may be replaced."""
    tables = make()
    before = {name: value.data_ptr() for name, value in tensors(tables).items()}
    tables.fill_bank(1, torch.ones(8))
    tables.write_row(0, {0: [(1, 1.0)]})
    tables.begin_step()
    tables.mark(0, 1, 0)
    tables.commit(1)
    assert {name: value.data_ptr() for name, value in tensors(tables).items()} == before


def tensors(tables: Tables) -> dict[str, torch.Tensor]:
    found = {k: v for k, v in vars(tables).items() if isinstance(v, torch.Tensor)}
    assert {"bank", "index", "coefficient", "token_row"} <= set(found)
    return found
