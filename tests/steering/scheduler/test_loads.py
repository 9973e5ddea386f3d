"""Which vectors the workers hold, who waits for one, who gets an error."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from steersman.steering.plan.plan import VectorRows
from steersman.steering.plan.wire.loads import Load, LoadOrders, LoadReport
from steersman.steering.scheduler.admission import AdmissionQueue
from steersman.steering.scheduler.loads import LoadBook
from steersman.vectors.tensors import HookPoint


def rows(vector: str, *layers: int, steps: int = 1) -> frozenset[VectorRows]:
    return frozenset((vector, "resid_post", layer, steps) for layer in layers)


class Desk:
    """An admission queue with its loads, a clock, and the answers of workers."""

    def __init__(self, capacity: int = 4, timeout: float = 30.0) -> None:
        self.now = 100.0
        self.book = LoadBook(capacity, timeout, lambda: self.now)
        self.queue = AdmissionQueue(capacity, 8, self.book)

    def orders(self) -> LoadOrders:
        orders = self.book.orders()
        assert orders is not None
        return orders

    def ready(self, *numbers: int) -> None:
        assert self.queue.loaded(LoadReport(dict.fromkeys(numbers, 0.5), {})) == {}


def points(*layers: int) -> tuple[HookPoint, ...]:
    return tuple(HookPoint("resid_post", layer) for layer in layers)


def test_a_request_begins_when_its_vectors_are_there() -> None:
    desk = Desk()
    assert desk.book.orders() is None
    assert desk.queue.add("r", rows("a", 1, 2) | rows("b", 1))
    assert not desk.queue.is_admitted("r")
    orders = desk.orders()
    assert orders == LoadOrders((), (Load(0, "a", points(1, 2), 1), Load(1, "b", points(1), 1)))
    assert desk.orders() == LoadOrders((), ()), "a report is wanted until they are over"
    desk.ready(1)
    assert desk.queue.try_admit() == []
    desk.ready(0)
    assert not desk.queue.is_admitted("r"), "its turn comes with a pass"
    assert desk.queue.try_admit() == ["r"]
    assert desk.queue.is_admitted("r")
    assert desk.book.orders() is None
    assert desk.book.seconds_of(["r", "other"]) == {"r": (0.5, 0.5)}
    assert desk.book.vectors == 2


def test_a_vector_that_is_there_keeps_nobody_waiting() -> None:
    desk = Desk()
    desk.queue.add("first", rows("a", 1, 2))
    desk.ready(desk.orders().load[0].number)
    desk.queue.try_admit()
    assert desk.queue.add("beside it", rows("a", 1))
    assert desk.queue.is_admitted("beside it")
    for name in ("first", "beside it"):
        desk.queue.remove(name)
    assert desk.queue.taken == 0
    assert desk.queue.add("after it", rows("a", 2))
    assert desk.queue.is_admitted("after it")
    assert desk.book.seconds_of(["after it"]) == {}
    assert desk.book.orders() is None


def test_those_who_need_one_vector_wait_for_one_load() -> None:
    desk = Desk()
    for n in range(100):
        assert desk.queue.add(f"r{n}", rows("a", 1))
    assert desk.book.waiting == 100
    (load,) = desk.orders().load
    desk.ready(load.number)
    assert len(desk.queue.try_admit()) == 100
    assert desk.book.waiting == 0


def test_what_is_least_recently_used_makes_room() -> None:
    desk = Desk(capacity=3)
    for name in "abc":
        desk.queue.add(name, rows(name, 1))
        desk.ready(desk.orders().load[0].number)
        desk.queue.remove(name)
    desk.queue.add("again", rows("a", 1))
    desk.queue.remove("again")
    desk.queue.add("d", rows("d", 1, 2))
    orders = desk.orders()
    assert orders.evict == (*rows("b", 1), *rows("c", 1))
    assert [load.digest for load in orders.load] == ["d"]


def test_a_load_that_fails_ends_those_who_need_it() -> None:
    desk = Desk()
    desk.queue.add("both", rows("a", 1) | rows("b", 1))
    desk.queue.add("good", rows("b", 1))
    gone, there = desk.orders().load
    report = LoadReport({there.number: 0.5}, {gone.number: "its file is gone"})
    assert desk.queue.loaded(report) == {"both": "its file is gone"}
    desk.queue.remove("both")
    assert desk.queue.try_admit() == ["good"]
    assert desk.queue.taken == 1
    desk.queue.add("later", rows("a", 1))
    assert desk.orders().load == (Load(2, "a", points(1), 1),), "it is tried again"


def test_nobody_waits_longer_than_the_timeout() -> None:
    desk = Desk(timeout=30.0)
    desk.queue.add("r", rows("a", 1))
    (load,) = desk.orders().load
    desk.now += 20
    desk.queue.add("later", rows("a", 1))
    assert desk.book.expired() == []
    desk.now += 10.1
    assert desk.book.expired() == ["r"]
    desk.queue.remove("r")
    desk.now += 15
    desk.ready(load.number)
    assert desk.book.expired() == [], "in the end it was in time"
    assert desk.queue.try_admit() == ["later"]


def test_whoever_leaves_takes_its_load_along() -> None:
    desk = Desk()
    desk.queue.add("unsent", rows("a", 1))
    desk.queue.remove("unsent")
    assert desk.book.orders() is None
    desk.queue.add("sent", rows("a", 1, 2))
    number = desk.orders().load[0].number
    desk.queue.add("beside it", rows("a", 2))
    desk.queue.remove("sent")
    assert desk.orders() == LoadOrders((), ()), "another waits for it"
    desk.queue.remove("beside it")
    orders = desk.orders()
    assert not orders.load
    assert {*orders.evict} == rows("a", 1, 2)
    desk.ready(number)  # The report was under way.
    assert desk.book.orders() is None
    assert (desk.queue.taken, desk.book.vectors, desk.book._room) == (0, 0, 4)


def test_a_load_goes_on_without_rows_that_others_need() -> None:
    desk = Desk(capacity=2)
    desk.queue.add("large", rows("a", 1, 2))
    desk.queue.add("small", rows("a", 2))
    number = desk.orders().load[0].number
    desk.queue.remove("large")
    desk.queue.add("other", rows("b", 1))
    orders = desk.orders()
    assert orders.evict == (*rows("a", 1),)
    assert [load.digest for load in orders.load] == ["b"]
    desk.ready(number)
    assert desk.queue.try_admit() == ["small"]


class Workers(RuleBasedStateMachine):
    """Requests come and go, loads end as they like, reports are late: nobody begins without its
    vectors, and what workers hold never exceeds their bank."""

    CAPACITY = 5

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(self.CAPACITY)
        self.wanted: dict[str, frozenset[VectorRows]] = {}
        self.holds: set[VectorRows] = set()
        self.loads: dict[int, set[VectorRows]] = {}
        self.reports: list[LoadReport] = []
        self.names = 0

    @rule(
        vectors=st.dictionaries(
            st.sampled_from("abcd"), st.sets(st.integers(0, 2), min_size=1), min_size=1, max_size=2
        ),
        steps=st.sampled_from([1, 1, 2]),
    )
    def arrive(self, vectors: dict[str, set[int]], steps: int) -> None:
        wanted = frozenset[VectorRows]()
        for vector, layers in vectors.items():
            wanted |= rows(vector, *layers, steps=2 if vector == "d" else 1)
        if sum(one[-1] for one in wanted) <= self.CAPACITY:
            name = f"r{self.names}"
            self.names += 1
            if self.desk.queue.add(name, wanted):
                self.wanted[name] = wanted

    @precondition(lambda self: self.wanted)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.wanted)))
        self.desk.queue.remove(name)
        del self.wanted[name]

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """One step is scheduled and run; its report arrives later."""
        for name in self.desk.queue.try_admit():
            assert self.desk.queue.is_admitted(name)
        orders = self.desk.book.orders()
        if orders is None:
            assert not self.loads
            return
        self.holds.difference_update(orders.evict)
        for number in [*self.loads]:
            self.loads[number].difference_update(orders.evict)
            if not self.loads[number]:
                del self.loads[number]
        for load in orders.load:
            self.loads[load.number] = {(load.digest, *p, load.steps) for p in load.points}
        over = data.draw(st.sets(st.sampled_from(sorted(self.loads)))) if self.loads else set()
        failed = data.draw(st.sets(st.sampled_from(sorted(over)))) if over else set()
        for number in over:
            done = self.loads.pop(number)
            if number not in failed:
                self.holds |= done
        assert sum(one[-1] for one in self.holds) <= self.CAPACITY
        self.reports.append(
            LoadReport(dict.fromkeys(over - failed, 0.0), dict.fromkeys(failed, "gone"))
        )

    @precondition(lambda self: self.reports)
    @rule()
    def report(self) -> None:
        for name in self.desk.queue.loaded(self.reports.pop(0)):
            self.desk.queue.remove(name)
            del self.wanted[name]

    @invariant()
    def whoever_begins_has_its_vectors(self) -> None:
        evict = set(self.desk.book._evict)
        for name, wanted in self.wanted.items():
            if self.desk.queue.is_admitted(name):
                assert wanted <= self.holds - evict
        used = sum(one[-1] for one in self.desk.book._held)
        assert used + self.desk.book._room == self.CAPACITY
        assert self.desk.book._room >= 0

    @rule()
    def drain(self) -> None:
        for name in [*self.wanted]:
            self.desk.queue.remove(name)
        self.wanted.clear()
        book = self.desk.book
        assert (book.waiting, book.loading, self.desk.queue.taken) == (0, 0, 0)
        assert book._unused.keys() == book._held.keys()


Workers.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestWorkers = Workers.TestCase
