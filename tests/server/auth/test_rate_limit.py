"""How often and how much at once: by a clock that the test turns."""

import time
from inspect import signature

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steersman.server.auth.rate_limit import RateLimiter
from steersman.server.errors import TooManyRequests
from tests.support.server.keys import permissions


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


STEPS = st.lists(
    st.tuples(st.floats(0, 90, allow_nan=False), st.integers(1, 8)), min_size=1, max_size=40
)


@given(st.integers(1, 30), STEPS)
def test_never_more_than_a_minutes_worth_and_what_has_come_since(
    per_minute: int, steps: list[tuple[float, int]]
) -> None:
    clock = Clock()
    limiter, who = RateLimiter(clock), permissions(requests_per_minute=per_minute)
    let_in: list[float] = []
    waits: list[int] = []
    for passes, asks in steps:
        clock.now += passes
        for _ in range(asks):
            try:
                limiter.enter(who)
            except TooManyRequests as refusal:
                waits.append(refusal.retry_after)
            else:
                let_in.append(clock.now)
                limiter.leave(who)
    assert all(1 <= wait <= 60 for wait in waits)
    # Over every stretch of time, not only from the start.
    for i, begin in enumerate(let_in):
        for n, end in enumerate(let_in[i:], 1):
            assert n <= per_minute + (end - begin) * per_minute / 60 + 1e-6


@given(st.integers(1, 30), st.integers(0, 40))
def test_who_waits_as_long_as_told_is_let_in(per_minute: int, before: int) -> None:
    clock = Clock()
    limiter, who = RateLimiter(clock), permissions(requests_per_minute=per_minute)
    refusal = None
    for _ in range(per_minute + 1 + before):
        try:
            limiter.enter(who)
        except TooManyRequests as error:
            refusal = error
    assert refusal is not None
    clock.now += refusal.retry_after
    limiter.enter(who)


def test_a_refused_request_does_not_count_as_running() -> None:
    limiter, who = (
        RateLimiter(Clock()),
        permissions(requests_per_minute=1, max_concurrent_requests=2),
    )
    limiter.enter(who)
    for _ in range(5):
        with pytest.raises(TooManyRequests, match="requests_per_minute"):
            limiter.enter(who)
    limiter.leave(who)
    assert limiter._uses[who.name].running == 0


def test_one_refused_for_what_runs_costs_none_of_the_rate() -> None:
    limiter, who = (
        RateLimiter(Clock()),
        permissions(requests_per_minute=2, max_concurrent_requests=1),
    )
    limiter.enter(who)
    for _ in range(5):
        with pytest.raises(TooManyRequests) as refusal:
            limiter.enter(who)
        assert refusal.value.code == "too_many_concurrent_requests"
    limiter.leave(who)
    limiter.enter(who)


def test_the_wall_clock_has_no_say() -> None:
    # Somebody sets that one back, or a leap second does.
    assert signature(RateLimiter).parameters["clock"].default is time.monotonic


def test_counts_outlive_a_new_keys_file() -> None:
    clock = Clock()
    limiter = RateLimiter(clock)
    free, tight = permissions(), permissions(requests_per_minute=2, max_concurrent_requests=2)
    limiter.enter(free)
    for _ in range(2):
        limiter.enter(tight)
        with pytest.raises(TooManyRequests, match="max_concurrent"):
            limiter.enter(tight)
        limiter.leave(tight)
    # The rate is used up; that the last one leaves with the rights of before gives none back.
    limiter.leave(free)
    with pytest.raises(TooManyRequests, match="requests_per_minute"):
        limiter.enter(tight)
    # A higher rate is believed from here on, not as if it had been so before.
    faster = permissions(requests_per_minute=60)
    with pytest.raises(TooManyRequests):
        limiter.enter(faster)
    clock.now += 1
    limiter.enter(faster)
    with pytest.raises(TooManyRequests):
        limiter.enter(faster)


def test_keys_do_not_share() -> None:
    limiter = RateLimiter(Clock())
    one, two = (permissions(name, requests_per_minute=1) for name in ("one", "two"))
    limiter.enter(one)
    limiter.enter(two)
    with pytest.raises(TooManyRequests):
        limiter.enter(one)


def test_nothing_is_kept_of_whom_nothing_limits() -> None:
    limiter, who = RateLimiter(Clock()), permissions()
    for _ in range(3):
        limiter.enter(who)
    for _ in range(3):
        limiter.leave(who)
    assert not limiter._uses
