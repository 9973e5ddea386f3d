"""Limits of a key: answers a minute, and answers at once (`steersman.server.auth.count_answers`).

Time is the monotonic clock, which does not jump. The rate limiters of libraries that we looked at
use the wall clock, and lock a key out when that is set back. Each API server process counts for
itself.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from steersman.server.auth.permissions import KeyPermissions
from steersman.server.errors import NotAllowed, TooManyRequests


@dataclass
class _Use:
    """What one key has used."""

    running: int = 0
    tokens: float = 0.0
    """Answers that it may ask for at once now; `per_minute` at the most."""
    counted_at: float | None = None


class RateLimiter:
    """The counts of every key, by name, so they stay when the keys file changes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uses: dict[str, _Use] = {}

    def enter(self, permissions: KeyPermissions, count: int = 1, before: int = 0) -> None:
        """Count `count` answers of a request, of which `before` are counted already.

        Raises `TooManyRequests`, or `NotAllowed` if waiting would not help; nothing is counted
        then.
        """
        _check_can_be(permissions, before + count)
        use = self._uses.setdefault(permissions.name, _Use())
        most = permissions.max_concurrent_requests
        if most is not None and use.running + count > most:
            raise TooManyRequests(
                f"other requests of this key have {use.running - before} answers running, "
                f"and at most {most} may run at once (max_concurrent_requests): wait for "
                "one of them to end",
                code="too_many_concurrent_requests",
            )
        if permissions.requests_per_minute is not None:
            self._take(use, permissions.requests_per_minute, count)
        use.running += count

    def leave(self, permissions: KeyPermissions, count: int = 1) -> None:
        """Take `count` answers off the number that run at once."""
        use = self._uses[permissions.name]
        use.running -= count
        if use.running == 0 and use.counted_at is None:
            del self._uses[permissions.name]

    def _take(self, use: _Use, per_minute: int, count: int) -> None:
        """Take answers from the key's bucket, which holds a minute's answers and fills evenly."""
        now = self._clock()
        if use.counted_at is None:
            use.tokens = per_minute
        else:
            filled = use.tokens + (now - use.counted_at) * per_minute / 60
            use.tokens = min(float(per_minute), filled)
        use.counted_at = now
        if use.tokens < count:
            raise TooManyRequests(
                f"this key may make {per_minute} requests a minute (requests_per_minute), and each "
                "answer counts as one: try again later",
                code="rate_limit_exceeded",
                retry_after=math.ceil((count - use.tokens) * 60 / per_minute),
            )
        use.tokens -= count


class CountedRequest:
    """One request in its key's counts, from its first byte to the end of its answers."""

    def __init__(self, limiter: RateLimiter, permissions: KeyPermissions) -> None:
        """Count one answer. Raises what `RateLimiter.enter` raises."""
        self._limiter, self._permissions = limiter, permissions
        limiter.enter(permissions)
        self._answers = 1

    def count(self, answers: int) -> None:
        """Count the request as `answers`, if that is more than it counts as now. Raises what
        `RateLimiter.enter` raises."""
        if answers > self._answers:
            self._limiter.enter(self._permissions, answers - self._answers, self._answers)
            self._answers = answers

    def leave(self) -> None:
        """Call when the request has ended."""
        self._limiter.leave(self._permissions, self._answers)


def _check_can_be(permissions: KeyPermissions, answers: int) -> None:
    for name in ("max_concurrent_requests", "requests_per_minute"):
        most = getattr(permissions, name)
        if most is not None and answers > most:
            raise NotAllowed(
                f"this request makes {answers} answers, and this key may have {most} ({name}): ask "
                "for fewer in one request (n, prompts, conversations)",
                code="too_many_answers",
            )
