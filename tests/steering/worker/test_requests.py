"""Steered requests in a worker: rows come and go, and nobody runs unsteered by mistake."""

import functools
import gc
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steersman.steering.ops.addition import add_marked
from steersman.steering.plan import PLAN_KEY, Limits, Plan, PlannedVector, VectorUnavailable
from steersman.steering.worker.loads.vector_bank import VectorBank
from steersman.steering.worker.requests import SteeredRequests
from steersman.steering.worker.tables import Tables, TableSizes
from steersman.vectors.tensors import HookPoint
from tests.support.steering.loading import place
from tests.support.steering.make import (
    LAYERS,
    SITES,
    STEPPED,
    STEPS,
    added_by,
    digest,
    limits,
    plan_of,
    planned,
)

HIDDEN = 4
STEPPED_DIGEST = digest(STEPPED)
PROMPT = 6


class Shelf:
    """Loads vectors made up on the spot; `gone` are those whose file has vanished."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.loaded: list[tuple[str, list[HookPoint]]] = []

    def __call__(self, digest: str, keys: list[HookPoint]) -> Mapping[HookPoint, Tensor]:
        if digest in self.gone:
            raise VectorUnavailable(f"{digest[-4:]} is gone")
        self.loaded.append((digest, keys))
        return {key: content(digest, *key) for key in keys}


@functools.cache
def content(digest: str, site: str, layer: int) -> Tensor:
    generator = torch.Generator().manual_seed(int(digest[-8:], 16) * 1000 + layer)
    shape = (STEPS, HIDDEN) if digest == STEPPED_DIGEST else (HIDDEN,)
    return torch.randn(shape, generator=generator) + SITES.index(site)


def moved(
    batch: dict[str, tuple[int, int]], early: Mapping[str, int] | None
) -> dict[str, tuple[int, int]]:
    """The batch with the requests of `early` so many tokens nearer to their start."""
    by = {name: (early or {}).get(name, 0) for name in batch}
    return {name: (first - by[name], stop - by[name]) for name, (first, stop) in batch.items()}


class Worker:
    """What `model_runner_v1` does with a batch, without vLLM."""

    def __init__(self, requests: int = 4, **changes: object) -> None:
        bounds: Limits = limits(**changes)
        sizes = TableSizes(
            slots=len(SITES) * LAYERS,
            table_entries=requests * bounds.most_segments,
            terms=bounds.max_terms,
            bank_rows=bounds.bank_rows,
            hidden=HIDDEN,
            tokens=64,
        )
        slots = {
            HookPoint(s, n): (0 if s in bounds.aliases else i) * LAYERS + n
            for i, s in enumerate(SITES)
            for n in range(LAYERS)
        }
        self.shelf = Shelf()
        self.tables = Tables(sizes, torch.device("cpu"))
        self.bank = VectorBank(self.tables)
        self.requests = SteeredRequests(self.tables, bounds, slots, self.bank)
        self.steered: dict[str, tuple[Plan, int]] = {}

    @property
    def guesses(self) -> bool:
        """Whether the host may not know which tokens a step computes."""
        return self.requests.guessed > 0

    def start(self, name: str, plan: Plan | str | None, prompt: int = PROMPT) -> None:
        text = plan.to_json() if isinstance(plan, Plan) else plan
        self.requests.start(name, None if text is None else {PLAN_KEY: text}, prompt)
        if isinstance(plan, Plan):
            self.steered[name] = plan, prompt
            if name in self.requests.live:
                place(self.bank, plan, self.shelf)

    def step(
        self, batch: dict[str, tuple[int, int]], early: Mapping[str, int] | None = None
    ) -> None:
        """One step; `batch` says which tokens [first, stop) of each request it computes. They are
        `early`, if named there, by so many tokens: the device knows, the host does not."""
        requests, early = self.requests, early or {}
        positions = [
            n
            for name, span in batch.items()
            for n in range(*(x - early.get(name, 0) for x in span))
        ]
        self.tables.guessed.positions = torch.tensor(positions)
        requests.sync_batch({name: row for row, name in enumerate(batch)})
        spans, offset = [], 0
        for name, (first, stop) in batch.items():
            if name in requests.live:
                spans.append((name, offset, stop - first, first))
            offset += stop - first
        requests.step(spans, offset)
        requests.bank.check()

    def added(self, batch: dict[str, tuple[int, int]], site: str, layer: int) -> Tensor:
        """What the operation adds to each token of the step, at one site and layer."""
        total = sum(stop - first for first, stop in batch.values())
        hidden = torch.zeros(total, HIDDEN)
        slot = self.requests.slots[HookPoint(site, layer)]
        tables, marked = self.tables, self.tables.marked
        index, coefficient = tables.index[slot], tables.coefficient[slot]
        rows, gains = tables.token_entry, tables.token_gain
        torch.ops.steersman.add(hidden, tables.bank, index, coefficient, rows, gains)
        # The same by way of host indices, and of sums for many slots at once.
        if marked is not None or not self.guesses:
            eager = torch.zeros(total, HIDDEN)
            if marked is not None:
                add_marked(eager, tables.added(slot), marked)
            torch.testing.assert_close(eager, hidden)
        return hidden

    def wanted(self, batch: dict[str, tuple[int, int]], site: str, layer: int) -> Tensor:
        """The same, from the plans alone."""
        rows = []
        for name, (first, stop) in batch.items():
            for token in range(first, stop):
                row = torch.zeros(HIDDEN)
                if name in self.steered:
                    plan, prompt = self.steered[name]
                    for vector in plan.vectors:
                        added = added_by(vector, token, prompt)
                        if added is not None and HookPoint(site, layer) in vector.terms:
                            step, coefficient = added
                            tensor = content(vector.digest, site, layer)
                            row += coefficient * (tensor if step < 0 else tensor[step])
                rows.append(row)
        return torch.stack(rows)

    def check_step(
        self, batch: dict[str, tuple[int, int]], early: Mapping[str, int] | None = None
    ) -> None:
        self.step(batch, early)
        batch = moved(batch, early)
        slots = self.requests.slots
        for site, layer in slots:
            # Of an alias and what it is one of, the sum is added at one place.
            together = [point for point in slots if slots[point] == slots[HookPoint(site, layer)]]
            wanted = sum(self.wanted(batch, *point) for point in together)
            torch.testing.assert_close(self.added(batch, site, layer), wanted)


MIXED = plan_of(
    planned(1, 0.5, (0, 2), "all"),
    planned(2, -1.5, (2,), "generation", "mlp_out"),
    planned(3, 2.0, (2,), (1, 3)),
    planned(1, 4.0, (2,), "after_prompt"),
)


def test_every_token_of_a_batch_gets_its_own_addition() -> None:
    worker = Worker(max_segments=8)
    worker.start("a", MIXED)
    worker.start("plain", None)
    worker.start("b", plan_of(planned(1, -3.0, (2, 5), "prompt")), prompt=3)
    worker.check_step({"a": (0, 4), "plain": (0, 5), "b": (0, 2)})
    worker.check_step({"b": (2, 3), "a": (4, 6), "plain": (5, 6)})
    worker.check_step({"plain": (6, 7), "a": (6, 7), "b": (3, 4)})
    worker.check_step({"plain": (7, 8)})


def both_sites(n: int, schedule: tuple[float, ...] = ()) -> PlannedVector:
    """A vector with terms at an alias and at what it is one of, in one block and in others."""
    points = [("resid_post", 0), ("resid_post", 2), ("mlp_out", 2), ("attn_out", 2), ("mlp_out", 3)]
    terms = tuple(HookPoint(site, layer) for site, layer in sorted(points))
    return replace(planned(n, 0.5, (0,)), terms=terms, schedule=schedule)


@pytest.mark.parametrize("aliases", [(), ("mlp_out",), ("attn_out", "mlp_out")])
@pytest.mark.parametrize("schedule", [(), (0.25, 0.5, -1.0)], ids=["constant", "scheduled"])
def test_terms_at_an_alias_are_added_with_those_of_its_place(
    aliases: tuple[str, ...], schedule: tuple[float, ...]
) -> None:
    worker = Worker(max_segments=8, aliases=aliases)
    between = planned(2, -1.5, (2, 3), "all", "mlp_out")
    worker.start("a", plan_of(both_sites(1, schedule), between, both_sites(3)))
    worker.check_step({"a": (0, 6)})
    for token in range(6, 10):
        worker.check_step({"a": (token, token + 1)})


def test_only_slots_that_a_step_steers_are_active() -> None:
    worker = Worker()
    worker.start("a", plan_of(planned(1, 1.0, (2,), "prompt"), planned(2, 1.0, (4,))))
    worker.step({"a": (0, 3)})
    assert worker.requests.active_slots == {2}
    worker.step({"a": (3, 6)})
    assert worker.requests.active_slots == {2, 4}
    worker.step({"a": (6, 7)})
    assert worker.requests.active_slots == {4}
    worker.step({})
    assert worker.requests.active_slots == set()


def counts(worker: Worker, name: str = "a") -> tuple[int, ...]:
    report = worker.requests.take_report()
    assert report is not None
    return report.counts[name]


def test_counts_are_the_tokens_of_each_rule() -> None:
    worker = Worker(max_segments=8)
    worker.start("a", MIXED)
    worker.step({"a": (0, 2)})
    assert counts(worker) == (2, 0, 1, 0)
    worker.step({"a": (2, 6)})
    assert counts(worker) == (6, 1, 2, 0)
    worker.step({"a": (6, 7)})
    assert counts(worker) == (7, 2, 2, 1)
    assert worker.requests.take_report() is None


def test_preemption_releases_rows_and_resumption_regains_them() -> None:
    worker = Worker(max_segments=8)
    before = worker.requests.free_table_entries
    worker.start("a", MIXED)
    worker.start("b", plan_of(planned(9)))
    worker.check_step({"a": (0, 6), "b": (0, 6)})
    used = worker.requests.bank.used
    worker.check_step({"b": (6, 7)})
    assert worker.requests.bank.used == 1
    assert worker.requests.free_table_entries == before - 1
    worker.check_step({"b": (7, 8), "a": (0, 5)})
    assert worker.requests.bank.used == used
    worker.check_step({"b": (8, 9), "a": (5, 9)})
    worker.requests.finish(["a", "b"])
    assert worker.requests.free_table_entries == before
    assert worker.requests.bank.used == 0


def test_tokens_computed_again_are_not_counted_again() -> None:
    worker = Worker(max_segments=8)
    worker.start("a", MIXED)
    worker.step({"a": (0, 6)})
    worker.step({"a": (6, 7)})
    worker.step({"a": (7, 8)})
    once = counts(worker)
    worker.step({})
    worker.step({"a": (0, 4)})
    assert counts(worker) == once
    worker.step({"a": (4, 9)})
    assert counts(worker) == (once[0] + 1, once[1] + 1, once[2], once[3] + 1)


def test_a_cached_prefix_is_not_counted() -> None:
    worker = Worker()
    worker.start("a", plan_of(planned(positions="all")))
    worker.step({"a": (4, 6)})
    assert counts(worker) == (2,)


def test_a_vector_that_is_not_there_fails_its_request_and_no_other() -> None:
    worker = Worker()
    worker.shelf.gone.add(digest(2))
    worker.start("good", plan_of(planned(1)))
    worker.start("bad", plan_of(planned(1), planned(2)))
    batch = {"bad": (0, 6), "good": (0, 6)}
    worker.step(batch)
    report = worker.requests.take_report()
    assert report is not None
    assert set(report.failed) == {"bad"}
    assert report.failed["bad"] == "1 of the request's 2 bank rows are not there"
    assert set(report.counts) == {"good"}
    del worker.steered["bad"]
    torch.testing.assert_close(
        worker.added(batch, "resid_post", 2), worker.wanted(batch, "resid_post", 2)
    )
    assert worker.requests.bank.used == 1
    worker.requests.finish(["bad"])
    worker.step({"good": (6, 7)})
    report = worker.requests.take_report()
    assert report is not None
    assert not report.failed


def test_a_failure_is_reported_until_the_request_is_ended() -> None:
    worker = Worker()
    worker.shelf.gone.add(digest(1))
    worker.start("a", plan_of(planned(1)))
    for first in range(3):
        worker.step({"a": (first, first + 1)})
        report = worker.requests.take_report()
        assert report is not None
        assert set(report.failed) == {"a"}
    worker.requests.finish(["a"])
    assert worker.requests.failed == {}


@pytest.mark.parametrize(
    "plan",
    [
        "no plan", plan_of(), plan_of(planned(1, float("nan"))), plan_of(planned(1, 1e30)),
        plan_of(planned(1, layers=(LAYERS,))), plan_of(planned(1, positions=(6, 9))),
        plan_of(*(planned(n) for n in range(9))), plan_of(planned(1, site="resid_pre")),
    ],
)  # fmt: skip
def test_a_plan_that_got_past_the_front_end_fails_here(plan: Plan | str) -> None:
    worker = Worker()
    worker.start("a", plan)
    worker.step({"a": (0, 6)})
    report = worker.requests.take_report()
    assert report is not None
    assert set(report.failed) == {"a"}
    assert not worker.requests.live
    assert worker.requests.bank.used == 0


def test_a_request_is_not_steered_with_rows_that_are_filled_anew() -> None:
    """Evicted and needed still, which the scheduler does not do: the request keeps its rows, and
    another that comes too late for them fails."""
    worker = Worker(bank_rows=2)
    worker.start("first", plan_of(planned(1, layers=(0, 1))))
    worker.check_step({"first": (0, 6)})
    worker.bank.evict([*worker.bank.rows.resident_keys()])
    worker.check_step({"first": (6, 7)})
    worker.start("second", plan_of(planned(2)))
    worker.step({"first": (7, 8), "second": (0, 6)})
    assert "not there" in worker.requests.failed["second"]
    worker.requests.finish(["first", "second"])
    assert worker.requests.bank.resident == 0
    worker.steered.clear()
    worker.start("third", plan_of(planned(2)))
    worker.check_step({"third": (0, 6)})
    assert not worker.requests.failed


@pytest.mark.parametrize(
    "total", [3_000, pytest.param(100_000, marks=pytest.mark.engine, id="invariant-7")]
)
def test_requests_with_ten_coefficients_of_their_own_leave_no_trace(total: int) -> None:
    """The larger run is the design's: 100,000 requests, 1,000,000 coefficients, a minute."""
    worker = Worker(requests=8, max_terms=2, bank_rows=12, max_segments=2)
    requests = worker.requests
    free = requests.free_table_entries
    sizes = {k: v.shape for k, v in vars(worker.tables).items() if isinstance(v, Tensor)}

    def serve(first: int, stop: int) -> None:
        for n in range(first, stop):
            name = f"r{n}"
            # Ten coefficients a request, none used before or after; four vectors in turn.
            vectors = [
                planned(n % 4, 1e-3 * (10 * n + k), (k % 5,), "all" if k < 5 else "prompt")
                for k in range(10)
            ]
            worker.start(name, plan_of(*vectors))
            del worker.steered[name]
            requests.sync_batch({name: 0})
            requests.step([(name, 0, PROMPT + 1, 0)], PROMPT + 1)
            requests.finish([name])
            worker.shelf.loaded.clear()
        assert not requests.failed

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    serve(0, 1000)
    before = objects()
    serve(1000, total)
    assert abs(objects() - before) < 100
    requests.bank.check()
    assert (requests.live, requests.failed, requests.bank.used) == ({}, {}, 0)
    assert requests.bank.resident <= 12
    assert requests.free_table_entries == free
    assert {k: v.shape for k, v in vars(worker.tables).items() if isinstance(v, Tensor)} == sizes
