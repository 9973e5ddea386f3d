"""What the scheduler orders: vectors are read, brought into the bank on all ranks, and dropped."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from steersman.steering.plan.errors import VectorUnavailable
from steersman.steering.plan.plan import BankKey, VectorRows
from steersman.steering.plan.wire.loads import Load, LoadOrders, LoadReport, keys_of
from steersman.steering.worker.loads.reads import Read, Reads
from steersman.steering.worker.loads.vector_bank import VectorBank

AT_ONCE: Final = 1024
"""Bank rows that are filled in one step, but for those of one vector: some 0.01 ms each."""

Lowest = Callable[[Sequence[int]], Sequence[int]]
"""Element by element, the lowest on any rank. All ranks must call it alike."""


@dataclass
class _Pending:
    """A load that is not over on all ranks."""

    digest: str
    rows: dict[VectorRows, None]
    read: Read | None = None
    placed: bool = False
    failed: str | None = None

    @property
    def keys(self) -> list[BankKey]:
        return [key for rows in self.rows for key in keys_of(rows)]


class Loads:
    """The loads of one worker.

    Assumption: all ranks are given the same orders and call `report` alike. Guarantee: a load is
    reported as ready when all ranks have filled its rows, and as failed, with nothing of it kept,
    when one cannot.
    """

    def __init__(self, reads: Reads, bank: VectorBank, lowest: Lowest = tuple) -> None:
        self._reads = reads
        self._bank = bank
        self._lowest = lowest
        self._pending: dict[int, _Pending] = {}
        self._number: dict[VectorRows, int] = {}
        """The load of each of their rows."""

    def __len__(self) -> int:
        return len(self._pending)

    def take(self, orders: LoadOrders) -> None:
        """Drop what is not needed any more, and begin to read what is."""
        for rows in orders.evict:
            self._evict(rows)
        for load in orders.load:
            rows_of = dict.fromkeys(_rows_of(load))
            self._pending[load.number] = _Pending(load.digest, rows_of)
            self._number.update(dict.fromkeys(rows_of, load.number))
            self._reads.begin(load.digest)

    def wait(self, seconds: float) -> None:
        """Return when a vector has been read, or after `seconds`: for a step in which there is
        nothing else to do."""
        if any(load.read is None for load in self._pending.values()):
            self._reads.wait(seconds)

    def report(self) -> LoadReport:
        """Bring into the bank what has been read, and find which loads are over on all ranks."""
        report = LoadReport({}, {})
        over = self._reads.take()
        left = AT_ONCE
        for load in self._pending.values():
            load.read = load.read or over.get(load.digest)
            if load.read is not None and not load.placed and load.failed is None:
                left = self._place(load, load.read, left)
        if not self._pending:
            return report
        loads = list(self._pending.items())
        placed = [int(load.placed) for _, load in loads]
        sound = [int(load.failed is None) for _, load in loads]
        lowest = self._lowest([*placed, *sound])
        for n, (number, load) in enumerate(loads):
            if not lowest[len(loads) + n]:
                self._bank.evict(load.keys)
                report.failed[number] = load.failed or "another rank could not load the vector"
                self._forget(number)
            elif lowest[n]:
                assert load.read is not None
                report.ready[number] = load.read.seconds
                self._forget(number)
        return report

    def _place(self, load: _Pending, read: Read, left: int) -> int:
        """Fill a load's rows, if they are not over those that are `left` for this step; how many
        are left then."""
        keys = load.keys
        if isinstance(read.found, VectorUnavailable):
            load.failed = str(read.found)
        elif left == AT_ONCE or len(keys) <= left:
            try:
                load.placed = self._bank.place(keys, read.found)
            except VectorUnavailable as error:
                load.failed = str(error)
            return left - len(keys)
        return left

    def _evict(self, rows: VectorRows) -> None:
        self._bank.evict(keys_of(rows))
        number = self._number.pop(rows, None)
        if number is not None:
            load = self._pending[number]
            del load.rows[rows]
            if not load.rows:
                self._forget(number)

    def _forget(self, number: int) -> None:
        """A load is over, or nothing is left of it."""
        load = self._pending.pop(number)
        for rows in load.rows:
            del self._number[rows]
        if all(other.digest != load.digest for other in self._pending.values()):
            self._reads.forget(load.digest)


def _rows_of(load: Load) -> Iterable[VectorRows]:
    return ((load.digest, *point, load.steps) for point in load.points)
