"""The bank's rows: which vector is in which row, which requests use it, what may be evicted."""

from collections import OrderedDict
from collections.abc import Callable, Collection

from steersman.steering.plan.errors import VectorUnavailable
from steersman.steering.plan.plan import BankKey

ZERO_ROW = 0
"""Row 0 is all zeros for ever: unused terms point at it."""


class RowAllocator:
    """Leases rows 1..capacity by their content. Of the rows without a lease, the least recently
    used is reused first.

    Assumption: `fill(row, key)` writes the vector into the bank and raises if it cannot.
    Guarantees: a leased row keeps its content until its last lease ends; `lease` takes all rows or
    none; `check` raises if rows, keys and leases do not agree.
    """

    def __init__(self, capacity: int, fill: Callable[[int, BankKey], None]) -> None:
        self._fill = fill
        self._free = list(range(capacity, 0, -1))
        self._row: dict[BankKey, int] = {}
        self._leases: dict[BankKey, int] = {}
        self._idle: OrderedDict[BankKey, None] = OrderedDict()
        self.capacity = capacity

    @property
    def used(self) -> int:
        """Number of rows under lease now."""
        return len(self._leases)

    @property
    def resident(self) -> int:
        """Number of rows that hold a vector, leased or not."""
        return len(self._row)

    def resident_vectors(self) -> int:
        """Number of distinct vectors with at least one resident row."""
        return len({digest for digest, *_ in self._row})

    def missing(self, keys: Collection[BankKey]) -> list[BankKey]:
        """Those of `keys` that are not resident, in ascending order."""
        return sorted(key for key in keys if key not in self._row)

    def lease(self, keys: Collection[BankKey]) -> dict[BankKey, int]:
        """Add a lease to each key, fill the rows that are not resident, and return the row of each
        key.

        Raises `VectorUnavailable` if there are too few free rows, and any error that `fill` raises;
        nothing is leased then.
        """
        absent = self.missing(keys)
        reusable = sum(1 for key in self._idle if key not in keys)
        if len(absent) > len(self._free) + reusable:
            raise VectorUnavailable(
                f"the bank's {self.capacity} rows are in use and {len(absent)} more are needed"
            )
        for key in keys:
            self._idle.pop(key, None)
            self._leases[key] = self._leases.get(key, 0) + 1
        try:
            for key in absent:
                self._place(key)
        except BaseException:
            self.release(keys)
            raise
        return {key: self._row[key] for key in keys}

    def release(self, keys: Collection[BankKey]) -> None:
        """End one lease on each key. A row keeps its content until it is needed for another key."""
        for key in keys:
            self._leases[key] -= 1
            if self._leases[key] == 0:
                del self._leases[key]
                if key in self._row:
                    self._idle[key] = None

    def _place(self, key: BankKey) -> None:
        if self._free:
            row = self._free.pop()
        else:
            evicted, _ = self._idle.popitem(last=False)
            row = self._row.pop(evicted)
        try:
            self._fill(row, key)
        except BaseException:
            self._free.append(row)
            raise
        self._row[key] = row

    def check(self) -> None:
        """Raise RuntimeError unless each row is exactly one of free, idle and leased."""
        rows = sorted([*self._free, *self._row.values()])
        books = set(self._leases) | set(self._idle)
        if rows != list(range(1, self.capacity + 1)) or books != set(self._row):
            raise RuntimeError(
                "free, idle and leased rows of the bank do not add up to its capacity"
            )
        if set(self._leases) & set(self._idle):
            raise RuntimeError("a bank row is both leased and idle")
