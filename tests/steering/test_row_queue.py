"""Who gets bank rows, who waits, who is turned away."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from steering.plan.plan import Row
from steering.row_queue import RowQueue


def rows(*layers: int, vector: str = "a") -> frozenset[Row]:
    return frozenset((vector, "resid_post", layer) for layer in layers)


def test_rows_of_one_vector_are_shared() -> None:
    queue = RowQueue(2, 0)
    for n in range(1000):
        assert queue.arrive(f"r{n}", rows(1, 2))
        assert queue.may_run(f"r{n}", 1)
    assert queue.taken == 2
    for n in range(1000):
        queue.leave(f"r{n}")
    assert queue.taken == 0


def test_what_does_not_fit_waits_until_rows_are_given_back() -> None:
    queue = RowQueue(3, 8)
    assert queue.arrive("first", rows(1, 2))
    assert queue.may_run("first", 1)
    assert queue.arrive("second", rows(3, 4))
    assert queue.waiting == 1
    assert not queue.may_run("second", 2)
    queue.leave("first")
    assert queue.may_run("second", 3)
    assert queue.waiting == 0


def test_past_the_limit_newcomers_are_turned_away_and_leave_no_trace() -> None:
    queue = RowQueue(2, 1)
    assert queue.arrive("runs", rows(1, 2))
    assert queue.may_run("runs", 1)
    assert queue.arrive("waits", rows(3))
    assert not queue.arrive("too many", rows(4))
    assert "too many" not in queue
    assert queue.arrive("needs nothing new", rows(1, 3))
    queue.leave("waits")
    queue.leave("needs nothing new")
    assert queue.arrive("now", rows(4))


def test_small_requests_do_not_overtake_a_large_one_for_ever() -> None:
    queue = RowQueue(4, 8)
    for name, wanted in (("runs", rows(1, 2)), ("large", rows(3, 4, 5, 6)), ("small", rows(7))):
        assert queue.arrive(name, wanted)
    assert queue.may_run("runs", 1)
    assert not queue.may_run("large", 1)
    assert not queue.may_run("small", 1)
    queue.leave("runs")
    assert queue.may_run("large", 2)
    assert not queue.may_run("small", 2)


def test_a_request_whose_rows_are_there_passes_one_that_waits() -> None:
    queue = RowQueue(4, 8)
    for name, wanted in (("runs", rows(1, 2)), ("large", rows(3, 4, 5)), ("same", rows(2))):
        assert queue.arrive(name, wanted)
    assert queue.may_run("runs", 1)
    assert not queue.may_run("large", 1)
    assert queue.may_run("same", 1)


class Scheduling(RuleBasedStateMachine):
    """Requests come and go at random, and a scheduler goes through them in order of arrival."""

    CAPACITY, WAITING = 6, 3

    def __init__(self) -> None:
        super().__init__()
        self.queue = RowQueue(self.CAPACITY, self.WAITING)
        self.wanted: dict[str, frozenset[Row]] = {}
        self.running: list[str] = []
        self.turn = 0
        self.names = 0

    @rule(layers=st.frozensets(st.integers(0, 11), min_size=1, max_size=CAPACITY))
    def arrive(self, layers: frozenset[int]) -> None:
        name = f"r{self.names}"
        self.names += 1
        everything = frozenset().union(*self.wanted.values()) | rows(*layers)
        if self.queue.arrive(name, rows(*layers)):
            self.wanted[name] = rows(*layers)
        else:
            assert self.queue.waiting == self.WAITING
            assert len(everything) > self.CAPACITY

    @rule()
    def schedule(self) -> None:
        self.turn += 1
        for name in self.wanted:
            if self.queue.may_run(name, self.turn) and name not in self.running:
                self.running.append(name)
        assert not self.wanted or self.running, "somebody can always run"

    @precondition(lambda self: self.wanted)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.wanted)))
        self.queue.leave(name)
        self.queue.leave(name)
        del self.wanted[name]
        if name in self.running:
            self.running.remove(name)

    @invariant()
    def books_balance(self) -> None:
        taken = frozenset().union(*(self.wanted[name] for name in self.running))
        assert self.queue.taken == len(taken) <= self.CAPACITY
        assert self.queue.waiting <= self.WAITING
        assert set(self.wanted) == {name for name in self.wanted if name in self.queue}

    @precondition(lambda self: self.wanted)
    @rule()
    def drain(self) -> None:
        """Whoever waits gets a turn once those before it are gone."""
        while self.wanted:
            self.schedule()
            name = self.running.pop(0)
            self.queue.leave(name)
            del self.wanted[name]
        assert self.queue.taken == self.queue.waiting == 0


Scheduling.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestScheduling = Scheduling.TestCase
