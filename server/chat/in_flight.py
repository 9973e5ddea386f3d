"""Counts what the steered requests in flight of this API server need of the engine."""

from collections import Counter

from steersman.server.metrics import METRICS
from steersman.steering.plan import BankKey


class InFlight:
    """Bank rows and companions of the requests in flight. Used on the event loop only, so it has no
    lock."""

    def __init__(self) -> None:
        self.rows: Counter[BankKey] = Counter()
        """Bank rows, each with how many requests need it."""
        self.companions = 0
        """Sequences that compute beside the answers of dynamic requests."""
        METRICS.rows_used.set(0)
        METRICS.companions.set(0)

    def digests(self) -> frozenset[str]:
        """The vectors that requests in flight need. Any thread may call it."""
        # By place: plans make their keys as plain tuples.
        return frozenset(digest for digest, *_ in list(self.rows))

    def enter(self, rows: frozenset[BankKey], companions: int) -> None:
        """Add what a request needs: bank rows, and companions if it is dynamic."""
        self.rows.update(rows)
        self._show(companions)

    def leave(self, rows: frozenset[BankKey], companions: int) -> None:
        """Take off what the request needed."""
        for row in rows:
            self.rows[row] -= 1
            if self.rows[row] == 0:
                del self.rows[row]
        self._show(-companions)

    def _show(self, companions: int) -> None:
        self.companions += companions
        METRICS.rows_used.set(len(self.rows))
        METRICS.companions.set(self.companions)
