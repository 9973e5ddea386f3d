"""Orders in a worker: rows are filled on all ranks or on none, and go when they are not needed."""

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor

from steersman.steering.plan.errors import VectorUnavailable
from steersman.steering.plan.plan import VectorRows
from steersman.steering.plan.wire.loads import Load, LoadOrders, LoadReport, keys_of
from steersman.steering.worker.loads import loads as module
from steersman.steering.worker.loads.loads import Loads
from steersman.steering.worker.loads.reads import Read, Reads
from steersman.steering.worker.loads.vector_bank import VectorBank
from steersman.steering.worker.tables import Tables, TableSizes
from steersman.vectors.tensors import HookPoint

HIDDEN = 4


class Library(Reads):
    """Reads that are over when the test says so."""

    def __init__(self) -> None:
        super().__init__(lambda _: {}, threads=0)
        self.begun: list[str] = []
        self.forgotten: list[str] = []

    def begin(self, digest: str) -> None:
        self.begun.append(digest)

    def forget(self, digest: str) -> None:
        self.forgotten.append(digest)

    def end(self, digest: str, found: Mapping[HookPoint, Tensor] | VectorUnavailable) -> None:
        self._over[digest] = Read(found, 0.5)


class Worker:
    """One rank."""

    def __init__(self, bank_rows: int = 6, others: Sequence[int] | None = None) -> None:
        """`others`: what another rank says to everything: the lowest counts."""
        tables = Tables(TableSizes(6, 4, 2, bank_rows, HIDDEN, 8), torch.device("cpu"))
        self.tables = tables
        self.bank = VectorBank(tables)
        self.library = Library()
        self.others = others
        self.loads = Loads(self.library, self.bank, self._lowest)

    def _lowest(self, values: Sequence[int]) -> Sequence[int]:
        return values if self.others is None else [*map(min, values, self.others)]

    def order(self, *loads: Load, evict: Sequence[VectorRows] = ()) -> None:
        self.loads.take(LoadOrders(tuple(evict), loads))

    def content(self, rows: VectorRows) -> list[list[float]]:
        leased = self.bank.rows.lease({*keys_of(rows)})
        self.bank.rows.release(leased)
        return [self.tables.bank[leased[key]].tolist() for key in keys_of(rows)]


def points(*layers: int) -> tuple[HookPoint, ...]:
    return tuple(HookPoint("resid_post", layer) for layer in layers)


def vector(value: float, *layers: int) -> dict[HookPoint, Tensor]:
    return {point: torch.full((HIDDEN,), value + point.layer) for point in points(*layers)}


A = ("a", "resid_post", 1, 1)


def test_rows_are_filled_when_the_vector_is_read() -> None:
    worker = Worker()
    worker.order(Load(0, "a", points(1, 2), 1))
    assert worker.loads.report() == LoadReport({}, {})
    worker.library.end("a", vector(10, 1, 2, 3))
    assert worker.loads.report() == LoadReport({0: 0.5}, {})
    assert worker.content(A) == [[11.0] * HIDDEN]
    assert worker.bank.largest[worker.bank.rows.lease({*keys_of(A)})[next(keys_of(A))]] == 11
    assert worker.bank.rows.resident == 2
    assert (len(worker.loads), worker.loads.report()) == (0, LoadReport({}, {}))


def test_a_tensor_for_each_step_has_a_row_for_each() -> None:
    worker = Worker()
    worker.order(Load(0, "a", points(1), 3))
    worker.library.end("a", {points(1)[0]: torch.arange(12.0).reshape(3, HIDDEN)})
    worker.loads.report()
    assert worker.content(("a", "resid_post", 1, 3)) == torch.arange(12.0).reshape(3, 4).tolist()


@pytest.mark.parametrize(
    ("found", "steps", "reason"),
    [
        (VectorUnavailable("its file is gone"), 1, "its file is gone"),
        (vector(0, 2), 1, "has no tensor resid_post.1"),
        ({points(1)[0]: torch.ones(3)}, 1, "hidden size is 4"),
        ({points(1)[0]: torch.ones(2, HIDDEN)}, 1, "a tensor for each of 2 steps"),
        ({points(1)[0]: torch.ones(2, HIDDEN)}, 3, "a tensor for each of 2 steps"),
    ],
)
def test_what_cannot_be_loaded_is_reported_and_leaves_nothing(
    found: Mapping[HookPoint, Tensor] | VectorUnavailable, steps: int, reason: str
) -> None:
    worker = Worker()
    worker.order(Load(0, "a", points(1), steps), Load(1, "b", points(1), 1))
    worker.library.end("a", found)
    worker.library.end("b", vector(0, 1))
    report = worker.loads.report()
    assert [*report.failed] == [0]
    assert reason in report.failed[0]
    assert report.ready == {1: 0.5}
    assert worker.bank.rows.resident == 1
    worker.bank.rows.check()


def test_a_load_is_over_when_all_ranks_have_it() -> None:
    worker = Worker(others=(0, 1))
    worker.order(Load(0, "a", points(1), 1))
    worker.library.end("a", vector(0, 1))
    assert worker.loads.report() == LoadReport({}, {})
    assert worker.bank.rows.resident == 1
    worker.others = (1, 1)
    assert worker.loads.report() == LoadReport({0: 0.5}, {})


def test_a_rank_follows_the_others_when_they_cannot_load() -> None:
    worker = Worker(others=(0, 0))
    worker.order(Load(0, "a", points(1), 1))
    worker.library.end("a", vector(0, 1))
    assert worker.loads.report().failed == {0: "another rank could not load the vector"}
    assert worker.bank.rows.resident == 0


def test_a_vector_that_two_loads_need_is_read_once() -> None:
    worker = Worker()
    worker.order(Load(0, "a", points(1), 1))
    worker.order(Load(1, "a", points(2), 1))
    worker.library.end("a", vector(10, 1, 2))
    assert worker.loads.report().ready == {0: 0.5, 1: 0.5}
    assert worker.library.forgotten == ["a"]


def test_a_load_that_is_not_needed_any_more_is_forgotten() -> None:
    worker = Worker()
    worker.order(Load(0, "a", points(1, 2), 1))
    worker.order(evict=[A])
    assert len(worker.loads) == 1
    worker.order(Load(1, "a", points(1), 1), evict=[("a", "resid_post", 2, 1)])
    assert len(worker.loads) == 1
    worker.library.end("a", vector(10, 1, 2))
    assert worker.loads.report().ready == {1: 0.5}
    assert worker.bank.rows.resident == 1
    worker.order(evict=[A])
    assert worker.bank.rows.resident == 0
    worker.library.end("a", vector(10, 1, 2))
    assert worker.loads.report() == LoadReport({}, {})
    assert worker.bank.rows.resident == 0


def test_rows_that_a_request_still_has_are_waited_for() -> None:
    """The scheduler gives them to another in the step in which the worker is told of the end."""
    worker = Worker(bank_rows=1)
    worker.order(Load(0, "a", points(1), 1))
    worker.library.end("a", vector(10, 1))
    worker.loads.report()
    leased = worker.bank.rows.lease({*keys_of(A)})
    worker.order(Load(1, "b", points(1), 1), evict=[A])
    worker.library.end("b", vector(20, 1))
    assert worker.loads.report() == LoadReport({}, {})
    assert worker.tables.bank[1].tolist() == [11.0] * HIDDEN
    worker.bank.rows.release(leased)
    assert worker.loads.report() == LoadReport({1: 0.5}, {})
    assert worker.tables.bank[1].tolist() == [21.0] * HIDDEN


def test_a_step_fills_so_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 3)
    worker = Worker(bank_rows=9)
    for n, name in enumerate("abc"):
        worker.order(Load(n, name, points(1, 2) if n else points(1, 2, 3, 4), 1))
        worker.library.end(name, vector(n, 1, 2, 3, 4))
    assert [sorted(worker.loads.report().ready) for _ in range(4)] == [[0], [1], [2], []]
