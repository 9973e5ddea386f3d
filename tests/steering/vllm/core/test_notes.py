"""Notes: few of them, and the counts between them are those of a worker that sends one each step.

Drafts of speculative decoding are steered as the rest, and counted where the answer keeps them.
"""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from steersman.steering.plan import PLAN_KEY, RECEIPTS, Plan
from steersman.steering.plan.receipt import GateCount, GateStep, StepReport
from steersman.steering.plan.wire.readouts import Readout
from steersman.steering.vllm.core.notes import attach, note_of
from steersman.steering.vllm.frontend import _collecting
from steersman.vectors.tensors import HookPoint
from tests.steering.worker.test_requests import PROMPT, Worker
from tests.support.steering.make import digest, planned

PLAN = Plan(
    (planned(1, positions="generation"), planned(2, positions="all"), planned(3, positions=(2, 9))),
    receipt="r",
)


class Output(SimpleNamespace):
    """vLLM's, as far as notes use it."""

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None


class Bench:
    """A worker, what leaves of its steps, and the front end."""

    def __init__(self, plan: Plan = PLAN) -> None:
        self.worker = Worker()
        self.worker.start("r", plan)
        self.request: Any = SimpleNamespace(
            request_id="r",
            num_tokens=PROMPT,
            num_prompt_tokens=PROMPT,
            sampling_params=SimpleNamespace(extra_args={PLAN_KEY: plan.to_json()}),
        )
        self.front: Any = SimpleNamespace(request_states={"r": None})
        self.process = _collecting(lambda *_: None)
        self.sent = 0
        self.read: list[list[Any]] = []
        """What each step reads."""

    def step(self, first: int, stop: int, new: int, *, last: bool = False) -> tuple[int, ...]:
        """Compute tokens [first, stop), then so many new ones are known. Returns what a note at
        this step would have: what used to be sent each time."""
        self.worker.step({"r": (first, stop)})
        report = self.worker.requests.take_report()
        assert report is not None
        self.request.num_tokens += new
        report.read = {"r": self.read} if self.read else {}
        if not new:
            attach({}, report, {"r": self.request}, {}, {})
        if new:
            output: Any = Output(
                request_id="r",
                new_token_ids=[0] * new,
                finish_reason=1 if last else None,
                kv_transfer_params=None,
            )
            outputs: Any = {0: SimpleNamespace(outputs=[output])}
            attach(outputs, report, {"r": self.request}, {}, {})
            self.sent += output.kv_transfer_params is not None
            self.process(self.front, [output])
            assert output.kv_transfer_params is None
        note = note_of(report, self.request)
        assert note is not None
        return note.steered_tokens


steps = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8)


@given(steps, st.integers(1, 30), st.integers(0, PROMPT - 1), st.integers(0, 8), st.booleans())
def test_counts_between_notes_are_those_of_a_note_at_each_step(
    steps: list[tuple[int, int]], longest: int, cached: int, preempted: int, chunked: bool
) -> None:
    """Each step has so many drafts, of which so many (at most) are right; the answer ends somewhere
    within a step's tokens when it is `longest`. The prompt's first tokens are `cached`, it comes in
    one piece or in two, and before one step the request is `preempted`."""
    bench, known = Bench(), PROMPT
    RECEIPTS.open("r")
    try:
        if chunked and cached + 1 < PROMPT:
            bench.step(cached, PROMPT - 1, 0)
            assert not RECEIPTS.read("r")
            computed = PROMPT - 1
        else:
            computed = cached
        for n, (drafts, right) in enumerate([(0, 0), *steps]):
            if n == preempted:
                bench.worker.requests.sync_batch({})
                computed = min(cached, computed)
            before, stop = known, known + drafts
            known = min(known + 1 + min(right, drafts), PROMPT + longest)
            last = known == PROMPT + longest
            wanted = bench.step(computed, stop, known - before, last=last)
            (note,) = RECEIPTS.read("r")
            assert note.steered_tokens == wanted
            assert wanted == PLAN.steered_within(cached, known - 1, PROMPT)
            computed = known - 1
            if last:
                break
        reloaded = 0 < preempted <= n
        assert bench.sent <= 1 + last + reloaded
    finally:
        RECEIPTS.close("r")


def test_a_note_leaves_with_the_first_output_and_the_last() -> None:
    bench = Bench()
    RECEIPTS.open("r")
    try:
        bench.step(0, PROMPT, 1)
        for n in range(20):
            bench.step(PROMPT + n, PROMPT + n + 1, 1)
        assert bench.sent == 1
        assert RECEIPTS.read("r")[0].steered_tokens == (21, PROMPT + 20, 7)
        bench.step(PROMPT + 20, PROMPT + 21, 1, last=True)
        assert bench.sent == 2
        assert RECEIPTS.read("r")[0].steered_tokens == (22, PROMPT + 21, 7)
    finally:
        RECEIPTS.close("r")


def test_what_vllm_ignores_behind_a_stop_string_is_not_counted() -> None:
    bench = Bench()
    RECEIPTS.open("r")
    try:
        bench.step(0, PROMPT, 1)
        counts = bench.step(PROMPT, PROMPT + 1, 1)
        bench.front.request_states.clear()
        bench.step(PROMPT + 1, PROMPT + 2, 1)
        bench.step(PROMPT + 2, PROMPT + 3, 1, last=True)
        assert RECEIPTS.read("r")[0].steered_tokens == counts
    finally:
        RECEIPTS.close("r")


def test_what_is_read_waits_for_the_next_output() -> None:
    """A step of the prompt has none; afterwards each output has its own."""
    point = HookPoint("resid_post", 1)
    bench = Bench(Plan((), "r", readouts=(Readout(digest(1), (point,), "cosine", "prompt"),)))
    RECEIPTS.open("r")
    try:
        for first, stop, new in ((0, 2, 0), (2, 5, 0), (5, PROMPT, 1), (PROMPT, PROMPT + 1, 1)):
            bench.read = [[0, first, bytes(4 * (stop - first))]] if first < PROMPT else []
            bench.step(first, stop, new)
        (note,) = RECEIPTS.read("r")
    finally:
        RECEIPTS.close("r")
    assert [(chunk.first, len(chunk.values)) for chunk in note.reads] == [(0, 8), (2, 12), (5, 4)]
    assert bench.sent == 1


def test_of_what_gates_pass_rejected_drafts_are_taken_off() -> None:
    """Three drafts behind index 20, of which one was right: 22 is not computed yet."""
    plan = replace(PLAN, vectors=(*PLAN.vectors, planned(4, positions="after:7")))
    bench = Bench(plan)
    bench.request.num_tokens = 23
    found = GateStep(GateCount(9, 6), 20, bytes([1, 1, 1, 1]), bytes([1, 0, 1, 1]))
    report = StepReport({"r": (24, 24, 7, 24)}, {"r": 24}, gates={"r": (found,)})
    note = note_of(report, bench.request)
    assert note is not None
    assert note.gates == (GateCount(7, 4),)
    assert note.steered_tokens == (22, 22, 7, 4)
