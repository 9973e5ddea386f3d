"""Which vectors the workers hold, which they are loading, and who waits for them.

The workers keep what they are asked to load until they are asked to drop it. So the scheduler knows
what is in their banks: a request under vectors that are there begins at once, and who needs others
waits outside vLLM's queue until all ranks have them. No step ever waits for a file.
"""

import itertools
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Set
from dataclasses import dataclass, field

from steersman.steering.plan.plan import VectorRows
from steersman.steering.plan.wire.loads import Load, LoadOrders, LoadReport
from steersman.vectors.tensors import HookPoint


@dataclass
class _Loading:
    """A load that is not over."""

    rows: dict[VectorRows, None]
    asker: str
    """The request that needed it first."""
    waiters: set[str] = field(default_factory=set)


class LoadBook:
    """The rows that workers hold or load, whether requests use them or not.

    Assumption: the rows that requests use never exceed `capacity` (`AdmissionQueue`).
    Guarantees: neither do those that the workers are asked to hold; of rows that no request uses,
    the least recently used go first; a load that no request waits for any more is dropped.
    """

    def __init__(
        self, capacity: int, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`timeout`: seconds that a request waits for its loads, at most."""
        self._room = capacity
        """Rows that hold nothing."""
        self.timeout = timeout
        self._clock = clock
        self._numbers = itertools.count()
        self._held: dict[VectorRows, int | None] = {}
        """The number of the load that fills the rows; None once they are filled."""
        self._unused = OrderedDict[VectorRows, None]()
        """Those of them that no request uses, the least recently used first."""
        self._loads: dict[int, _Loading] = {}
        self._waiting: dict[str, tuple[float, set[int]]] = {}
        """By request: since when it waits, and the loads that it waits for. In order of time."""
        self._evict: list[VectorRows] = []
        self._unsent = set[int]()
        """Loads that the workers have not been asked for."""
        self._seconds: dict[str, tuple[float, ...]] = {}
        """By request, how long each vector took that was loaded for it first."""

    @property
    def waiting(self) -> int:
        """Requests that wait for a load."""
        return len(self._waiting)

    @property
    def loading(self) -> int:
        """Loads that are not over."""
        return len(self._loads)

    @property
    def vectors(self) -> int:
        """Vectors of which the workers hold something."""
        return len({rows[0] for rows, number in self._held.items() if number is None})

    def waits(self, request_id: str) -> bool:
        """Whether a request waits for a load."""
        return request_id in self._waiting

    def want(self, request_id: str, wanted: Set[VectorRows], new: Collection[VectorRows]) -> None:
        """A request uses the rows `wanted` from now on; of them, no other uses the `new` ones."""
        missing = []
        for rows in new:
            if rows in self._held:
                del self._unused[rows]
            else:
                missing.append(rows)
        if missing:
            self._make_room(sum(rows[-1] for rows in missing))
            self._load(request_id, missing)
        if self._loads:
            numbers = {self._held.get(rows) for rows in wanted} - {None}
            for number in numbers:
                self._loads[number].waiters.add(request_id)  # type: ignore[index]
            if numbers:
                self._waiting[request_id] = self._clock(), numbers  # type: ignore[assignment]

    def release(self, request_id: str, gone: Iterable[VectorRows]) -> None:
        """Record that a request has ended, and that no request uses the rows `gone` any more."""
        self._seconds.pop(request_id, None)
        for rows in gone:
            if rows in self._held:  # Else they could not be loaded.
                self._unused[rows] = None
        _, numbers = self._waiting.pop(request_id, (0.0, set[int]()))
        for number in numbers:
            load = self._loads[number]
            load.waiters.discard(request_id)
            if not load.waiters:
                for rows in [*load.rows]:
                    self._drop(rows)

    def expired(self) -> list[str]:
        """Requests that have waited too long. The caller ends them."""
        until = self._clock() - self.timeout
        waits = ((name, since) for name, (since, _) in self._waiting.items())
        return [name for name, since in itertools.takewhile(lambda one: one[1] < until, waits)]

    def orders(self) -> LoadOrders | None:
        """What to ask of the workers with the coming step; None where there is nothing to do, and
        nothing to report on."""
        if not (self._evict or self._loads):
            return None
        loads = [_message(number, self._loads[number].rows) for number in sorted(self._unsent)]
        orders = LoadOrders(tuple(self._evict), tuple(loads))
        self._evict.clear()
        self._unsent.clear()
        return orders

    def take(self, report: LoadReport) -> tuple[list[str], dict[str, str]]:
        """Record what the workers report. Returns the requests that wait no longer, and those that
        cannot be steered, with the reason; the caller ends the latter."""
        ready, failed = list[str](), dict[str, str]()
        for number, seconds in report.ready.items():
            load = self._loads.pop(number, None)
            if load is None:
                continue  # It was dropped meanwhile, and the workers are asked to do so.
            if load.asker in self._waiting:
                self._seconds[load.asker] = (*self._seconds.get(load.asker, ()), seconds)
            for rows in load.rows:
                self._held[rows] = None
            for name in load.waiters:
                numbers = self._waiting[name][1]
                numbers.discard(number)
                if not numbers:
                    del self._waiting[name]
                    ready.append(name)
        for number, reason in report.failed.items():
            load = self._loads.pop(number, None)
            for rows in load.rows if load is not None else ():
                self._forget(rows)
            for name in load.waiters if load is not None else ():
                self._waiting[name][1].discard(number)
                failed.setdefault(name, reason)
        return ready, failed

    def seconds_of(self, request_ids: Iterable[str]) -> dict[str, tuple[float, ...]]:
        """By request, how long each vector took that was loaded for it first, where any was."""
        if not self._seconds:
            return {}
        return {name: self._seconds[name] for name in request_ids if name in self._seconds}

    def _load(self, request_id: str, missing: list[VectorRows]) -> None:
        def vector(rows: VectorRows) -> tuple[str, int]:
            return rows[0], rows[3]

        for _, group in itertools.groupby(sorted(missing, key=vector), vector):
            number = next(self._numbers)
            self._loads[number] = _Loading(dict.fromkeys(group), request_id)
            self._unsent.add(number)
            for rows in self._loads[number].rows:
                self._held[rows] = number
                self._room -= rows[-1]

    def _make_room(self, wanted: int) -> None:
        while self._room < wanted and self._unused:
            self._drop(next(iter(self._unused)))

    def _drop(self, rows: VectorRows) -> None:
        """Have the workers drop rows that no request uses."""
        number = self._held[rows]
        self._forget(rows)
        if number not in self._unsent:
            self._evict.append(rows)
        if number is not None:
            load = self._loads[number]
            del load.rows[rows]
            if not load.rows:
                del self._loads[number]
                self._unsent.discard(number)

    def _forget(self, rows: VectorRows) -> None:
        del self._held[rows]
        self._unused.pop(rows, None)
        self._room += rows[-1]


def _message(number: int, rows: Collection[VectorRows]) -> Load:
    points = sorted(HookPoint(site, layer) for _, site, layer, _ in rows)
    digest, _, _, steps = next(iter(rows))
    return Load(number, digest, tuple(points), steps)
