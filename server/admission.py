"""Who may enter: the bank rows of all requests in flight must fit the bank."""

from collections import Counter

from steering.plan import Plan


class BankFull(Exception):
    """The bank is full of vectors in use; the request may be tried again in `retry_after` s."""

    def __init__(self, needed: int, free: int) -> None:
        self.retry_after = 1
        super().__init__(
            f"the vector bank is full of vectors in use: {needed} rows are needed, {free} are "
            "free; try again soon, or start the server with a larger bank (--bank-rows)"
        )


class Admission:
    """Counts bank rows in use by this server's requests. For one event loop, not thread-safe.

    Guarantee: while `rows_in_use <= capacity`, the workers can place every admitted request.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._users: Counter[tuple[str, str, int]] = Counter()

    @property
    def rows_in_use(self) -> int:
        """Distinct rows that requests in flight need."""
        return len(self._users)

    def enter(self, plan: Plan) -> None:
        """Count `plan` in; raises `BankFull` when its rows do not fit beside the others'."""
        rows = plan.rows()
        needed = sum(1 for row in rows if row not in self._users)
        free = self.capacity - len(self._users)
        if needed > free:
            raise BankFull(needed, free)
        self._users.update(rows)

    def leave(self, plan: Plan) -> None:
        """Count `plan` out again."""
        for row in plan.rows():
            self._users[row] -= 1
            if self._users[row] == 0:
                del self._users[row]
