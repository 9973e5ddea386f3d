"""Which requests get bank rows now, which wait, and which are refused; the scheduler decides.

Every request that reaches a worker has its rows reserved here first, so the workers' allocator
(`steering/worker/bank.py`) never runs out; and a request begins when its rows are filled
(`LoadBook`).
"""

import heapq
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass
from typing import Final

from steersman.steering.plan.plan import VectorRows
from steersman.steering.plan.wire.loads import LoadReport
from steersman.steering.scheduler.loads import LoadBook

PATIENCE: Final = 1000
"""How many requests whose rows are reserved already may pass the first that waits."""

LOOK: Final = 8192
"""Sets of rows of waiting requests that one pass examines, at most (about a millisecond)."""

BEGIN: Final = 16_384
"""Most bank rows of all requests that begin in one pass; a single request may have more. Workers
take about 0.005 ms a row (to read the plan, lease the row and write it), while all others wait."""

Rank = tuple[float, ...]
"""Lower is served first; equal ranks in the order in which they arrive."""


@dataclass
class _Held:
    """A request that waits."""

    wanted: Set[VectorRows]
    steps: int
    place: tuple[Rank, int]
    watched: VectorRows | None = None
    """One set of rows that it lacks: while no other request has it, this one cannot pass others."""


class AdmissionQueue:
    """Reserves bank rows for requests: at once, or as soon as other requests give rows back.

    Assumptions: `add`, then `remove`, is called for each request; none needs more than `capacity`
    rows.

    Guarantees:

    - Reserved rows never exceed `capacity`, reserved table entries for steps never `step_entries`.
    - Requests with the same vector share its rows.
    - At most `max_waiting` requests wait.
    - A waiting request is not overtaken for ever: behind it no request gets rows that are not
      reserved already, and at most `PATIENCE` requests that need no new rows pass it.
    - The cost of a pass depends on the requests that start, not on those that wait.
    - If many requests get their rows at once, those beyond `BEGIN` rows begin in later passes.
    """

    def __init__(
        self, capacity: int, max_waiting: int, loads: LoadBook, step_entries: int = 0
    ) -> None:
        self.capacity = capacity
        self.loads = loads
        """Which of the rows that are set aside are filled."""
        self.step_entries = step_entries
        """Table entries for requests whose vectors have a tensor for each step."""
        self.max_waiting = max_waiting
        self._runs: dict[str, tuple[Set[VectorRows], int]] = {}
        """What is reserved for each request: bank rows, and a number of table entries for steps."""
        self._users: Counter[VectorRows] = Counter()
        self._taken = 0
        self._steps_taken = 0
        self._changes = 0
        """Counts the events after which a request that waits may get its rows."""
        self._held: dict[str, _Held] = {}
        self._line: list[tuple[Rank, int, str]] = []
        """A heap over `_held`; a request that left is removed when it comes to the front."""
        self._arrivals = 0
        self._blocked: tuple[str, int] | None = None
        """The first waiting request when it did not fit, and `_changes` at that time."""
        self._watchers: defaultdict[VectorRows, dict[str, None]] = defaultdict(dict)
        self._doubtful = OrderedDict[str, None]()
        """Waiting requests whose rows may all be reserved for other requests now."""
        self._overtaken = 0
        """How many requests passed the first that waits."""
        self._begun = 0
        """Rows of the requests that begin in the coming pass."""
        self._later = OrderedDict[str, int]()
        """Number of rows of each request whose rows are filled and that begins in a later pass."""

    @property
    def taken(self) -> int:
        """Number of rows reserved now."""
        return self._taken

    @property
    def waiting(self) -> int:
        """Number of requests that have not got their rows yet."""
        return len(self._held)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._runs or request_id in self._held

    def is_admitted(self, request_id: str) -> bool:
        """Whether the request has its rows, they are filled, and it may begin."""
        return (
            request_id in self._runs
            and request_id not in self._later
            and not self.loads.waits(request_id)
        )

    def add(
        self, request_id: str, wanted: Collection[VectorRows], steps: int = 0, rank: Rank = ()
    ) -> bool:
        """Reserve rows for a request, or keep it waiting. Returns False, and keeps nothing, if
        `max_waiting` requests wait already. `steps`: table entries that it needs for steps, at most
        `step_entries`."""
        self._arrivals += 1
        one = _Held(frozenset(wanted), steps, (rank, self._arrivals))
        first = self._first()
        lacks = next(self._lacking(one), None)
        if first is None or one.place < self._held[first].place:
            if self._fits(one):
                self._take(request_id, one)
                self._begin(request_id)
                return True
        elif lacks is None and not steps and self._overtaken < PATIENCE:
            self._overtaken += 1
            self._take(request_id, one)
            self._begin(request_id)
            return True
        if len(self._held) >= self.max_waiting:
            return False
        self._held[request_id] = one
        heapq.heappush(self._line, (*one.place, request_id))
        if not steps:  # A request that needs entries for steps waits until it is the first.
            self._watch(request_id, one, lacks)
        return True

    def try_admit(self) -> list[str]:
        """Ids of waiting requests that begin now. Call once in each pass of the scheduler."""
        self._give_rows()
        found = []
        while self._later:
            rows = next(iter(self._later.values()))
            if self._begun and self._begun + rows > BEGIN:
                break
            self._begun += rows
            found.append(self._later.popitem(last=False)[0])
        self._begun = 0
        return found

    def loaded(self, report: LoadReport) -> dict[str, str]:
        """Record what the workers report about loads. Returns the requests that cannot be steered,
        with the reason; the caller ends them."""
        ready, failed = self.loads.take(report)
        for request_id in ready:
            self._later[request_id] = self._rows(request_id)
        return failed

    def _give_rows(self) -> None:
        """Reserve free rows for requests that wait."""
        looked = 0
        while looked < LOOK and (first := self._first()) is not None:
            if self._blocked == (first, self._changes):
                break
            looked += len(self._held[first].wanted)
            if not self._fits(self._held[first]):
                self._blocked = first, self._changes
                break
            self._let_in(first)
            self._overtaken = 0
        while self._doubtful and looked < LOOK and self._overtaken < PATIENCE:
            request_id, _ = self._doubtful.popitem(last=False)
            one = self._held[request_id]
            looked += len(one.wanted)
            lacks = next(self._lacking(one), None)
            if lacks is None:
                self._let_in(request_id)
                self._overtaken += 1
            else:
                self._watch(request_id, one, lacks)

    def remove(self, request_id: str) -> None:
        """Give back the rows and entries of a request. Does nothing for an unknown id."""
        if request_id not in self:
            return
        self._forget(request_id)
        self._later.pop(request_id, None)
        wanted, steps = self._runs.pop(request_id, (frozenset[VectorRows](), 0))
        self._steps_taken -= steps
        self._changes += 1
        gone = []
        for rows in wanted:
            self._users[rows] -= 1
            if not self._users[rows]:
                del self._users[rows]
                self._taken -= rows[-1]
                gone.append(rows)
        self.loads.release(request_id, gone)

    def _first(self) -> str | None:
        """Id of the first request that waits."""
        if not self._held:
            self._line.clear()
            self._overtaken = 0
            return None
        if len(self._line) > 2 * len(self._held) + 64:
            self._line = [(*one.place, name) for name, one in self._held.items()]
            heapq.heapify(self._line)
        while True:
            rank, number, name = self._line[0]
            one = self._held.get(name)
            if one is not None and one.place == (rank, number):
                return name
            heapq.heappop(self._line)

    def _lacking(self, one: _Held) -> Iterator[VectorRows]:
        return (rows for rows in one.wanted if rows not in self._users)

    def _fits(self, one: _Held) -> bool:
        new = sum(rows[-1] for rows in self._lacking(one))
        room = self.capacity - self._taken
        return new <= room and one.steps <= self.step_entries - self._steps_taken

    def _let_in(self, request_id: str) -> None:
        one = self._forget(request_id)
        self._take(request_id, one)
        if not self.loads.waits(request_id):
            self._later[request_id] = self._rows(request_id)

    def _begin(self, request_id: str) -> None:
        """Let a request that has its rows begin in the coming pass, or put it behind those of later
        passes; or, if its rows are not filled, do nothing."""
        if self.loads.waits(request_id):
            return
        rows = self._rows(request_id)
        if self._begun and self._begun + rows > BEGIN:
            self._later[request_id] = rows
        else:
            self._begun += rows

    def _rows(self, request_id: str) -> int:
        return sum(rows[-1] for rows in self._runs[request_id][0])

    def _take(self, request_id: str, one: _Held | None) -> None:
        assert one is not None
        self._changes += 1
        self._runs[request_id] = one.wanted, one.steps
        self._steps_taken += one.steps
        new = []
        for rows in one.wanted:
            if rows not in self._users:
                new.append(rows)
                self._taken += rows[-1]
                for watcher in self._watchers.pop(rows, ()):
                    self._held[watcher].watched = None
                    self._doubtful[watcher] = None
            self._users[rows] += 1
        self.loads.want(request_id, one.wanted, new)

    def _watch(self, request_id: str, one: _Held, lacks: VectorRows | None) -> None:
        one.watched = lacks
        if lacks is None:
            self._doubtful[request_id] = None
        else:
            self._watchers[lacks][request_id] = None

    def _forget(self, request_id: str) -> _Held | None:
        """Remove a request from those that wait."""
        self._doubtful.pop(request_id, None)
        one = self._held.pop(request_id, None)
        if one is not None and one.watched is not None:
            watchers = self._watchers[one.watched]
            del watchers[request_id]
            if not watchers:
                del self._watchers[one.watched]
        return one
