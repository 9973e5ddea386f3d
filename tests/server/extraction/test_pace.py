"""The pace: alone, beside others, and never nothing."""

from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from steersman.server.extraction import pace as module
from steersman.server.extraction.examples import Example
from steersman.server.extraction.pace import BITE_S, FIRST_PORTION, Pace


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


class Served(NamedTuple):
    taken: float
    """Of the engine's time, by texts."""
    longest: float
    """Of a step, in seconds."""
    plain: int
    """Steps without texts."""
    texts: int


def served(pace: Pace, clock: Clock, token: float, step: float, seconds: float = 400.0) -> Served:
    """What becomes of an engine that has a step of others' every `step` seconds, longer by what the
    texts' tokens in it cost, of which it takes the portion that the first says."""
    end, spent, longest, plain, texts = clock.now + seconds, 0.0, 0.0, 0, 0
    waiting: list[tuple[int, int, float]] = []
    """Tokens left, portion, cost."""
    while clock.now < end:
        left, rest, costs = waiting[0][1] if waiting else 0, [], 0.0
        for tokens, portion, cost in waiting:
            taken = min(tokens, left)
            left -= taken
            costs += taken * token
            if taken < tokens:
                rest.append((tokens - taken, portion, cost))
        texts += len(waiting) - len(rest)
        plain += not waiting
        in_step, waiting = waiting, []
        ends = clock.now + step + costs
        longest = max(longest, step + costs)
        spent += costs
        while clock.now < ends:
            cost = pace.cost(text())
            # Those of this step are in flight until its end.
            flying = [one[2] for one in (*in_step, *waiting)]
            pause = pace.pause(cost, len(flying), sum(flying))
            if pause:
                clock.now += min(pause, ends - clock.now)
            else:
                pace.spend(cost)
                waiting.append((len(text().tokens), pace.portion(), cost))
        waiting = rest + waiting
    return Served(spent / seconds, longest, plain, texts)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("token", [0.0005, 0.0015, 0.005, 0.02])
def test_beside_others_it_takes_its_share_and_a_step_is_not_much_longer(
    clock: Clock, share: float, token: float
) -> None:
    """Texts of 10, 30, 100 and 400 ms beside steps of 100 ms."""
    pace = Pace(share, steps(token=token), lambda: 8, 64)
    found = served(pace, clock, token, 0.1)
    assert found.longest <= max(0.1 / (1 - share), 0.1 + token) + 1e-9
    assert found.taken <= 1.05 * share
    # The step between two texts is not taken: of short texts, half of the share is left.
    assert found.taken >= 0.3 * share
    assert found.plain > 20, "what a text costs is measured by these"


def test_progress_does_not_depend_on_how_many_others_there_are(clock: Clock) -> None:
    texts = []
    for others in (1, 8, 10_000):
        clock.now = 100.0
        pace = Pace(0.25, steps(), lambda others=others: others, 64)  # type: ignore[misc]
        texts.append(served(pace, clock, 0.002, 0.1).texts)
    assert texts[0] == texts[1] == texts[2] > 400


def test_a_step_of_others_is_at_most_a_third_as_long_again_for_a_quarter(clock: Clock) -> None:
    """Short texts: as many as that. One that is longer goes alone, and is divided."""
    pace = Pace(0.25, steps(token=0.0008), lambda: 8, 64)
    cost = pace.cost(text())
    assert pace.pause(cost, 1, cost) == 0
    assert pace.pause(cost, 2, 2 * cost) > 0
    long = Pace(0.25, steps(token=0.002), lambda: 8, 64)
    assert long.pause(0.04, 0, 0.0) == 0
    assert long.pause(0.04, 1, 0.04) > 0
    assert [long.portion() for _ in range(4)] == [8, 16, 16, 16]


def test_a_portion_is_small_while_nothing_is_measured_and_a_token_at_least() -> None:
    unknown = Pace(0.25, steps(plain=None), lambda: 8, 64)
    assert [unknown.portion() for _ in range(3)] == [FIRST_PORTION] * 3
    assert Pace(0.25, steps(token=3.0), lambda: 8, 64).portion() == 1
    free = Pace(0.25, steps(token=0.0), lambda: 8, 64)
    assert [free.portion() for _ in range(3)] == [8, 16, 32]
    assert Pace(1.0, steps(), lambda: 8, 64).portion() == 0


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
    nothing: Any = SimpleNamespace(plain=None, by_token=None, by_sequence=None)
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
