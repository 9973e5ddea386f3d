"""How often and how much at once a key asks.

By the monotonic clock, which no administrator and no leap second moves: the rate limiters of
libraries that we looked at go by the wall clock, and lock a key out when that is set back. Each API
server process counts for itself.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import TooManyRequests
from server.keys.rights import Rights


@dataclass
class _Use:
    """One key's."""

    running: int = 0
    tokens: float = 0.0
    """Requests that it may make at once now; `per_minute` at the most."""
    counted_at: float | None = None


class Meter:
    """Counts of every key, by name, so that they outlive a new keys file."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def enter(self, rights: Rights) -> None:
        """Count a request in. Raises `TooManyRequests`, and then it is not counted."""
        use = self._uses.setdefault(rights.name, _Use())
        most = rights.max_concurrent_requests
        if most is not None and use.running >= most:
            raise TooManyRequests(
                f"{use.running} requests of this key are running, as many as may "
                f"(max_concurrent_requests): wait for one of them to end",
                code="too_many_concurrent_requests",
            )
        if rights.requests_per_minute is not None:
            self._take(use, rights.requests_per_minute)
        use.running += 1

    def leave(self, rights: Rights) -> None:
        """Count it out again."""
        use = self._uses[rights.name]
        use.running -= 1
        if use.running == 0 and use.counted_at is None:
            del self._uses[rights.name]

    def _take(self, use: _Use, per_minute: int) -> None:
        """A bucket that holds a minute's requests and fills evenly."""
        now = self._clock()
        if use.counted_at is None:
            use.tokens = per_minute
        else:
            filled = use.tokens + (now - use.counted_at) * per_minute / 60
            use.tokens = min(float(per_minute), filled)
        use.counted_at = now
        if use.tokens < 1:
            raise TooManyRequests(
                f"this key may make {per_minute} requests a minute (requests_per_minute)",
                code="rate_limit_exceeded",
                retry_after=math.ceil((1 - use.tokens) * 60 / per_minute),
            )
        use.tokens -= 1
