"""The bank's rows: which vector sits in which row, and who uses it."""

from collections.abc import Callable, Collection, Iterable, Set

from steersman.steering.plan.errors import VectorUnavailable
from steersman.steering.plan.plan import BankKey

ZERO_ROW = 0
"""Row 0 is all zeros for ever: unused terms point at it."""

Fill = Callable[[int, BankKey], None]
"""Writes what a key names into a row of the bank; raises where it cannot."""


class RowAllocator:
    """Rows 1..capacity, by what they hold: the scheduler says what, requests lease what is there.

    Guarantees: a leased row keeps its content until its last lease ends, evicted or not; `place`
    fills all rows or none, `lease` takes all or none; `check` raises if the books do not balance.
    """

    def __init__(self, capacity: int) -> None:
        self._free = list(range(capacity, 0, -1))
        self._row: dict[BankKey, int] = {}
        self._leases: dict[BankKey, int] = {}
        self._leaving: set[BankKey] = set()
        """Evicted under lease: they go when it ends."""
        self.capacity = capacity

    @property
    def used(self) -> int:
        """Rows under lease now."""
        return len(self._leases)

    @property
    def resident(self) -> int:
        """Rows that hold a vector, leased or not."""
        return len(self._row)

    def resident_vectors(self) -> int:
        """Distinct vectors with at least one resident row."""
        return len({digest for digest, *_ in self._row})

    def resident_keys(self) -> Collection[BankKey]:
        """What the rows hold."""
        return self._row.keys()

    def __contains__(self, key: BankKey) -> bool:
        return key in self._row and key not in self._leaving

    def has_room(self, keys: Collection[BankKey]) -> bool:
        """Whether `place` finds a row for each of `keys`."""
        return sum(key not in self._row for key in keys) <= len(self._free)

    def place(self, keys: Collection[BankKey], fill: Fill) -> None:
        """Fill a row with each of `keys` that is not resident. Raises what `fill` raises, with none
        of `keys` resident then but those that were. Assumption: there is room."""
        placed = list[BankKey]()
        try:
            for key in keys:
                if key not in self._row:
                    fill(self._free[-1], key)
                    self._row[key] = self._free.pop()
                    placed.append(key)
        except BaseException:
            self.evict(placed)
            raise
        self._leaving.difference_update(keys)

    def evict(self, keys: Iterable[BankKey]) -> None:
        """Free the rows of those of `keys` that are resident; of those under lease, when it
        ends."""
        for key in keys:
            if key in self._leases:
                self._leaving.add(key)
            elif key in self._row:
                self._free.append(self._row.pop(key))

    def lease(self, keys: Set[BankKey]) -> dict[BankKey, int]:
        """Row of each key, each under one more lease. Raises `VectorUnavailable` with nothing
        leased where one is not resident."""
        if not keys <= self._row.keys():
            absent = sum(key not in self._row for key in keys)
            raise VectorUnavailable(
                f"{absent} of the request's {len(keys)} bank rows are not there"
            )
        for key in keys:
            self._leases[key] = self._leases.get(key, 0) + 1
        return {key: self._row[key] for key in keys}

    def release(self, keys: Iterable[BankKey]) -> None:
        """End one lease on each key."""
        for key in keys:
            self._leases[key] -= 1
            if self._leases[key] == 0:
                del self._leases[key]
                if key in self._leaving:
                    self._leaving.remove(key)
                    self._free.append(self._row.pop(key))

    def check(self) -> None:
        """Raise RuntimeError unless every row is free or resident, and leases are on residents."""
        rows = sorted([*self._free, *self._row.values()])
        if rows != list(range(1, self.capacity + 1)) or not self._leases.keys() <= self._row.keys():
            raise RuntimeError("the bank's rows do not add up")
        if not self._leaving <= self._leases.keys():
            raise RuntimeError("a bank row is evicted and still there")
