"""Who may take rows of the bank now, who waits, who is turned away: kept by the scheduler.

The workers' allocator (`steering/bank.py`) then never runs out, because every request that reaches
a worker has its rows set aside here first.
"""

from collections import Counter
from collections.abc import Collection, Set

from steering.plan.plan import Row


class RowQueue:
    """Sets bank rows aside for requests, in the order in which the scheduler asks.

    Assumption: `arrive`, then `may_run` until it says yes, then `leave`, for each request, which
    needs at most `capacity` rows.
    Guarantees: rows set aside never exceed `capacity`, nor those for steps `step_rows`; requests
    under one vector share its rows; at most `max_waiting` requests wait; whoever waits is not
    overtaken for ever, because behind a request that waits nobody gets rows that are not set aside
    already.
    """

    def __init__(self, capacity: int, max_waiting: int, step_rows: int = 0) -> None:
        self.capacity = capacity
        self.step_rows = step_rows
        """Table rows for requests that need one for each of many steps."""
        self._steps: dict[str, int] = {}
        self._steps_taken = 0
        self.max_waiting = max_waiting
        self._rows: dict[str, Set[Row]] = {}
        self._wanted: Counter[Row] = Counter()
        """Rows of all requests here, running or waiting."""
        self._taken: Counter[Row] = Counter()
        self._runs: set[str] = set()
        self._waiting: set[str] = set()
        self._blocked_turn: int | None = None

    @property
    def taken(self) -> int:
        """Rows set aside now."""
        return len(self._taken)

    @property
    def waiting(self) -> int:
        """Requests that arrived when their rows did not fit, and have not got them yet."""
        return len(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._rows

    def runs(self, request_id: str) -> bool:
        """Whether the request has its rows."""
        return request_id in self._runs

    def arrive(self, request_id: str, rows: Collection[Row], steps: int = 0) -> bool:
        """Queue a request; False, and nothing kept, if too many wait already. `steps`: table rows
        that it needs for steps, at most `step_rows`."""
        new = sum(1 for row in rows if row not in self._wanted)
        if new and len(self._wanted) + new > self.capacity:
            if len(self._waiting) >= self.max_waiting:
                return False
            self._waiting.add(request_id)
        self._rows[request_id] = frozenset(rows)
        self._steps[request_id] = steps
        self._wanted.update(rows)
        return True

    def may_run(self, request_id: str, turn: int) -> bool:
        """Whether the request has its rows, which are set aside for it if they fit.

        `turn` numbers the scheduler's passes over its queue.
        """
        if request_id in self._runs:
            return True
        rows = self._rows[request_id]
        steps = self._steps[request_id]
        new = sum(1 for row in rows if row not in self._taken)
        fits = self.taken + new <= self.capacity and self._steps_taken + steps <= self.step_rows
        if (new or steps) and (self._blocked_turn == turn or not fits):
            self._blocked_turn = turn
            return False
        self._steps_taken += steps
        self._taken.update(rows)
        self._runs.add(request_id)
        self._waiting.discard(request_id)
        return True

    def leave(self, request_id: str) -> None:
        """Give back whatever the request has; does nothing for one that is not here."""
        rows = self._rows.pop(request_id, None)
        if rows is None:
            return
        steps = self._steps.pop(request_id)
        _subtract(self._wanted, rows)
        self._waiting.discard(request_id)
        if request_id in self._runs:
            self._runs.remove(request_id)
            self._steps_taken -= steps
            _subtract(self._taken, rows)


def _subtract(users: Counter[Row], rows: Set[Row]) -> None:
    for row in rows:
        users[row] -= 1
        if users[row] == 0:
            del users[row]
