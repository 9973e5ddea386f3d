"""Who gets bank rows, who waits, who is turned away."""

from collections.abc import Hashable
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from steersman.steering.plan.plan import VectorRows
from steersman.steering.scheduler import admission
from steersman.steering.scheduler.admission import BEGIN, AdmissionQueue
from tests.support.steering.loading import AllThere


def rows(*layers: int, vector: str = "a", steps: int = 1) -> frozenset[VectorRows]:
    return frozenset((vector, "resid_post", layer, steps) for layer in layers)


def queue_of(capacity: int, max_waiting: int, step_entries: int = 0) -> AdmissionQueue:
    """A queue of workers that hold every vector."""
    return AdmissionQueue(capacity, max_waiting, AllThere(), step_entries)


def size(wanted: frozenset[VectorRows]) -> int:
    return sum(one[-1] for one in wanted)


def test_rows_of_one_vector_are_shared() -> None:
    queue = queue_of(2, 0)
    for n in range(1000):
        assert queue.add(f"r{n}", rows(1, 2))
        assert queue.is_admitted(f"r{n}")
    assert queue.taken == 2
    for n in range(1000):
        queue.remove(f"r{n}")
    assert queue.taken == 0


def test_what_does_not_fit_waits_until_rows_are_given_back() -> None:
    queue = queue_of(3, 8)
    assert queue.add("first", rows(1, 2))
    assert queue.add("second", rows(3, steps=2))
    assert queue.waiting == 1
    assert queue.try_admit() == []
    queue.remove("first")
    assert not queue.is_admitted("second")
    assert queue.try_admit() == ["second"]
    assert queue.is_admitted("second")
    assert (queue.waiting, queue.taken) == (0, 2)


def test_whoever_has_to_wait_counts_whatever_it_waits_for() -> None:
    """CASES 1.2: rows that somebody waits for already, rows for steps, those before it."""
    queue = queue_of(2, 1, step_entries=4)
    assert queue.add("runs", rows(1, 2))
    assert queue.add("waits", rows(3))
    assert not queue.add("too many", rows(4))
    assert not queue.add("under the vector that is waited for", rows(3))
    assert not queue.add("after it", rows(1, 3))
    assert not queue.add("for steps", rows(1), steps=1)
    assert "too many" not in queue
    assert queue.add("needs nothing new", rows(1))
    queue.remove("waits")
    assert queue.add("for steps", rows(1), steps=4)
    assert queue.is_admitted("for steps")
    assert queue.add("for more steps", rows(1), steps=1)
    assert not queue.is_admitted("for more steps")
    assert not queue.add("for yet more", rows(1), steps=1)
    queue.remove("for steps")
    assert queue.try_admit() == ["for more steps"]


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_at_most_so_many_wait_of_a_thousand_of_one_kind(limit: int) -> None:
    for wanted, steps in ((rows(3), 0), (rows(1), 1)):
        queue = queue_of(2, limit, step_entries=1)
        assert queue.add("runs", rows(1, 2), steps=1)
        assert sum(queue.add(f"r{n}", wanted, steps) for n in range(1000)) == limit
        assert queue.waiting == limit


def test_small_requests_do_not_overtake_a_large_one_for_ever() -> None:
    queue = queue_of(4, 8)
    for name, wanted in (("runs", rows(1, 2)), ("large", rows(3, 4, 5, 6)), ("small", rows(7))):
        assert queue.add(name, wanted)
    assert queue.try_admit() == []
    queue.remove("runs")
    assert queue.try_admit() == ["large"]
    queue.remove("large")
    assert queue.try_admit() == ["small"]


def test_a_request_whose_rows_are_there_passes_one_that_waits() -> None:
    queue = queue_of(4, 8)
    for name, wanted in (("runs", rows(1, 2)), ("large", rows(3, 4, 5)), ("same", rows(2))):
        assert queue.add(name, wanted)
    assert (queue.is_admitted("large"), queue.is_admitted("same")) == (False, True)


def test_a_request_passes_as_soon_as_others_have_its_rows() -> None:
    queue = queue_of(4, 8)
    for name, wanted in (
        ("runs", rows(1, 2)),
        ("first", rows(3, 4, 5)),
        ("large", rows(1, 2, 3, 4)),
        ("same", rows(4, 5)),
    ):
        assert queue.add(name, wanted)
    queue.remove("runs")
    assert queue.try_admit() == ["first", "same"]


def test_who_needs_no_rows_passes_so_often_and_no_oftener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PATIENCE", 3)
    queue = queue_of(2, 8)
    assert queue.add("a", rows(1))
    assert queue.add("large", rows(2, 3))
    for n in range(5):
        assert queue.add(f"r{n}", rows(1))
    assert [n for n in range(5) if queue.is_admitted(f"r{n}")] == [0, 1, 2]
    for name in ("a", "r0", "r1", "r2"):
        assert queue.try_admit() == []
        queue.remove(name)
    assert queue.try_admit() == ["large"]
    queue.remove("large")
    assert queue.try_admit() == ["r3", "r4"]


def test_a_crowd_begins_a_few_a_pass() -> None:
    """All have their rows at once; what the workers do for them is spread over passes."""
    rows = {("v", "resid_post", n, 1) for n in range(BEGIN // 4)}
    queue = queue_of(BEGIN, max_waiting=0)
    names = [f"r{n}" for n in range(10)]
    assert all(queue.add(name, rows) for name in names)
    assert queue.add("light", {("w", "resid_post", 1, 1)})
    assert [name for name in names if queue.is_admitted(name)] == names[:4]
    assert not queue.is_admitted("light"), "no room is left for it in this pass"
    assert queue.waiting == 0
    assert queue.try_admit() == []
    queue.remove("r5")
    assert queue.try_admit() == ["r4", "r6", "r7", "r8"]
    assert queue.try_admit() == ["r9", "light"]
    for name in (*names, "light"):
        queue.remove(name)
    assert (queue.taken, queue.try_admit()) == (0, [])


def test_who_needs_more_than_begins_in_a_pass_begins_alone() -> None:
    queue = queue_of(3 * BEGIN, max_waiting=0)
    for n in range(3):
        assert queue.add(f"r{n}", {(f"v{n}", "resid_post", 1, BEGIN + 1 - n)})
    assert [queue.is_admitted(f"r{n}") for n in range(3)] == [True, False, False]
    assert [queue.try_admit() for _ in range(3)] == [[], ["r1"], ["r2"]]


def test_those_who_get_rows_begin_a_few_a_pass() -> None:
    queue = queue_of(BEGIN, max_waiting=5)
    queue.add("first", {("v", "resid_post", 1, BEGIN)})
    for n in range(5):
        assert queue.add(f"r{n}", {("w", "resid_post", n, BEGIN // 5)})
    assert queue.try_admit() == []
    more = {("w", "resid_post", n, BEGIN // 5) for n in range(5)}
    queue.remove("first")
    assert queue.try_admit() == [f"r{n}" for n in range(5)]
    assert all(queue.add(f"s{n}", more) for n in range(3))
    assert [queue.is_admitted(f"s{n}") for n in range(3)] == [True, False, False]
    assert [queue.try_admit() for _ in range(3)] == [[], ["s1"], ["s2"]]


def test_who_ranks_before_others_is_served_before_them() -> None:
    queue = queue_of(2, 8)
    assert queue.add("runs", rows(1, 2), rank=(5,))
    for name, rank in (("low", 2.0), ("high", 1.0), ("second low", 2.0)):
        assert queue.add(name, rows(3, 4, vector=name), rank=(rank, 0.0))
    order: list[str] = []
    while queue.waiting:
        queue.remove((["runs", *order])[-1])
        order += queue.try_admit()
    assert order == ["high", "low", "second low"]
    assert queue.add("waits", rows(1, 2, vector="waits"), rank=(9,))
    queue.remove("second low")
    assert queue.add("before it", rows(1), rank=(8,))
    assert queue.is_admitted("before it")


class Counting(dict[Hashable, int]):
    """Counts how often it is looked into."""

    looks = 0

    def __contains__(self, key: object) -> bool:
        self.looks += 1
        return super().__contains__(key)

    def __missing__(self, key: Hashable) -> int:
        return 0


@pytest.mark.parametrize("alike", [True, False])
def test_a_pass_costs_nothing_for_those_who_wait(alike: bool) -> None:
    """CASES 4.12: a thousand that wait for 3,840 rows each, counted, not timed."""
    queue = queue_of(4096, 1000, step_entries=340)
    users = queue._users = Counting()  # type: ignore[assignment]
    rng = Random(0)
    assert queue.add("runs", rows(*range(30), vector="popular", steps=64))
    for n in range(1000):
        own = rng.randrange(60)
        wanted = rows(*range(60), vector="one", steps=64) - rows(own, vector="one", steps=64)
        wanted |= rows(own, vector="one" if alike else f"v{n}", steps=64)
        assert queue.add(f"r{n}", wanted)
    users.looks = 0
    assert queue.try_admit() == []
    assert users.looks <= 60  # Of the first of them.
    users.looks = 0
    for _ in range(1000):
        assert queue.try_admit() == []
    assert not users.looks
    queue.remove("runs")
    let_in = []
    for _ in range(1000):
        users.looks = 0
        let_in += queue.try_admit()
        assert users.looks <= 2 * (60 + admission.LOOK)
    assert len(let_in) == (1000 if alike else 4)


class Scheduling(RuleBasedStateMachine):
    """Requests come and go at random, and a scheduler lets in whom it may."""

    CAPACITY, WAITING, STEPS = 6, 3, 4

    def __init__(self) -> None:
        super().__init__()
        self.queue = queue_of(self.CAPACITY, self.WAITING, self.STEPS)
        self.wanted: dict[str, frozenset[VectorRows]] = {}
        self.steps: dict[str, int] = {}
        self.rank: dict[str, int] = {}
        self.running: list[str] = []
        self.names = 0

    def taken(self) -> frozenset[VectorRows]:
        return frozenset().union(*(self.wanted[name] for name in self.running))

    def fits(self, wanted: frozenset[VectorRows], steps: int) -> bool:
        room = self.STEPS - sum(self.steps[name] for name in self.running)
        return size(self.taken() | wanted) <= self.CAPACITY and steps <= room

    def line(self) -> list[str]:
        waiting = [name for name in self.wanted if name not in self.running]
        return sorted(waiting, key=lambda name: self.rank[name])  # Stable: as they came.

    @rule(
        layers=st.frozensets(st.integers(0, 11), min_size=1, max_size=CAPACITY),
        stepped=st.frozensets(st.integers(12, 14), max_size=1),
        steps=st.sampled_from([0, 0, 0, 1, 4]),
        rank=st.integers(0, 2),
    )
    def arrive(
        self, layers: frozenset[int], stepped: frozenset[int], steps: int, rank: int
    ) -> None:
        name = f"r{self.names}"
        self.names += 1
        wanted = rows(*sorted(layers)[: 3 if stepped else None]) | rows(*stepped, steps=3)
        ahead = all(rank < self.rank[other] for other in self.line())
        passes = wanted <= self.taken() and not steps
        here = (ahead and self.fits(wanted, steps)) or passes
        room = len(self.line()) < self.WAITING
        assert self.queue.add(name, wanted, steps, (rank,)) == (here or room)
        assert self.queue.is_admitted(name) == here
        if here or room:
            self.wanted[name], self.steps[name], self.rank[name] = wanted, steps, rank
        if here:
            self.running.append(name)

    @rule()
    def admit(self) -> None:
        let_in = self.queue.try_admit()
        for name in let_in:
            first = self.line()[0] == name
            assert (first and self.fits(self.wanted[name], self.steps[name])) or (
                self.wanted[name] <= self.taken() and not self.steps[name]
            )
            self.running.append(name)
        for place, name in enumerate(self.line()):
            assert place or not self.fits(self.wanted[name], self.steps[name])
            assert self.steps[name] or not self.wanted[name] <= self.taken()
        assert not self.wanted or self.running, "somebody can always run"

    @precondition(lambda self: self.wanted)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.wanted)))
        self.queue.remove(name)
        self.queue.remove(name)
        del self.wanted[name]
        if name in self.running:
            self.running.remove(name)

    @invariant()
    def books_balance(self) -> None:
        assert self.queue.taken == size(self.taken()) <= self.CAPACITY
        assert self.queue.waiting == len(self.line()) <= self.WAITING
        assert all(name in self.queue for name in self.wanted)
        assert [name for name in self.wanted if self.queue.is_admitted(name)] == [
            name for name in self.wanted if name in self.running
        ]

    @precondition(lambda self: self.wanted)
    @rule()
    def drain(self) -> None:
        """Whoever waits gets a turn once those before it are gone."""
        while self.wanted:
            self.admit()
            name = self.running.pop(0)
            self.queue.remove(name)
            del self.wanted[name]
        queue = self.queue
        assert queue.taken == queue.waiting == queue._steps_taken == 0
        assert queue.try_admit() == []
        for kept in (queue._users, queue._watchers, queue._doubtful, queue._line):
            assert not kept


Scheduling.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestScheduling = Scheduling.TestCase
