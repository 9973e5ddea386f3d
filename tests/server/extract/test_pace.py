"""The pace: alone, beside others, and never nothing."""

from types import SimpleNamespace
from typing import Any

import pytest

from server.extract import pace as module
from server.extract.examples import Example
from server.extract.pace import BITE_S, Pace


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(module, "time", found)
    return found


def text(tokens: int = 20, new: int = 0) -> Example:
    return Example(("pair", 1), "positive", tuple(range(tokens)), tokens - 1, tokens + new)


def steps(plain: float | None = 0.1, token: float = 0.002, sequence: float | None = 0.01) -> Any:
    return SimpleNamespace(plain=plain, by_token=token, by_sequence=sequence)


def simulated(pace: Pace, clock: Clock, seconds: float, step: float, most: int = 10_000) -> float:
    """Seconds of engine time that texts took, on an engine that has a step of others' every `step`
    seconds and longer by what the texts in it cost."""
    end, spent, waiting = clock.now + seconds, 0.0, []
    while clock.now < end:
        in_step, waiting = waiting, []
        ends = clock.now + step + sum(in_step)
        spent += sum(in_step)
        while clock.now < ends:
            cost = pace.cost(text())
            pause = pace.pause(cost, len(in_step) + len(waiting), sum(in_step) + sum(waiting))
            if pause:
                clock.now += min(pause, ends - clock.now)
            else:
                assert len(waiting) < most
                pace.spend(cost)
                waiting.append(cost)
    return spent


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("cost", [0.0005, 0.002, 0.02])
def test_beside_others_it_takes_its_share_and_gets_it(
    clock: Clock, share: float, cost: float
) -> None:
    """Texts of 10, 40 and 400 ms beside steps of 100 ms."""
    pace = Pace(share, steps(token=cost), lambda: 8, 64)
    taken = simulated(pace, clock, 400.0, 0.1) / 400.0
    assert 0.6 * share <= taken <= 1.05 * share


def test_a_step_of_others_is_at_most_half_as_long_again_for_a_quarter(clock: Clock) -> None:
    """Short texts: as many as that; one that is longer than that has one beside it at most."""
    pace = Pace(0.25, steps(token=0.0008), lambda: 8, 64)
    cost = pace.cost(text())
    assert pace.pause(cost, 2, 2 * cost) == 0
    assert pace.pause(cost, 3, 3 * cost) > 0
    long = Pace(0.25, steps(token=0.02), lambda: 8, 64)
    assert long.pause(0.4, 1, 0.4) == 0
    assert long.pause(0.4, 2, 0.8) > 0


def test_alone_it_takes_all_in_bites(clock: Clock) -> None:
    pace = Pace(0.25, steps(plain=None), lambda: 0, 64)
    cost = pace.cost(text())
    running = 0
    while pace.pause(cost, running, running * cost) == 0:
        pace.spend(cost)
        running += 1
    assert running == round(BITE_S / cost)
    cheap = Pace(0.25, steps(plain=None, token=1e-6), lambda: 0, 64)
    assert cheap.pause(2e-5, 63, 63 * 2e-5) == 0
    assert cheap.pause(2e-5, 64, 64 * 2e-5) > 0


def test_what_was_not_used_is_not_saved_up(clock: Clock) -> None:
    pace = Pace(0.25, steps(), lambda: 3, 64)
    pace.spend(0.04)
    clock.now += 1000.0
    assert pace.pause(0.04, 0, 0.0) == 0
    pace.spend(0.04)
    assert pace.pause(0.04, 0, 0.0) > 0
    clock.now += 0.16
    assert pace.pause(0.04, 0, 0.0) == 0


def test_others_who_leave_free_the_engine_at_once(clock: Clock) -> None:
    others = 3
    pace = Pace(0.25, steps(), lambda: others, 64)
    pace.spend(0.4)
    assert pace.pause(0.04, 1, 0.04) > 0
    others = 0
    assert pace.pause(0.04, 1, 0.04) == 0


def test_a_whole_share_is_as_if_alone(clock: Clock) -> None:
    pace = Pace(1.0, steps(), lambda: 8, 64)
    pace.spend(10.0)
    assert pace.pause(0.04, 3, 0.12) == 0


def test_while_nothing_is_measured_the_texts_own_time_counts(clock: Clock) -> None:
    """As the engine's clock has nothing where all others' answers are of one token."""
    nothing = SimpleNamespace(plain=None, by_token=None, by_sequence=None)
    pace = Pace(0.25, nothing, lambda: 8, 64)
    pace.took(text(20), 0.5)
    cost = pace.cost(text(20))
    assert cost == pytest.approx(0.5)
    pace.spend(cost)
    clock.now += 1.9
    assert pace.pause(cost, 0, 0.0) > 0
    clock.now += 0.2
    assert pace.pause(cost, 0, 0.0) == 0


def test_steps_count_by_sequence(clock: Clock) -> None:
    assert Pace(0.25, steps(), lambda: 1, 64).cost(text(20, new=30)) == pytest.approx(0.04 + 0.3)


def test_a_text_that_seems_to_cost_nothing_counts_for_something(clock: Clock) -> None:
    """Or all of them would go at once, as soon as others' steps have become shorter by chance."""
    pace = Pace(0.25, steps(token=0.0), lambda: 8, 64)
    cost = pace.cost(text())
    assert cost == pytest.approx(0.01)
    assert pace.pause(cost, 5, 5 * cost) > 0
