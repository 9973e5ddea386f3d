"""The seams of both model runners, attached to stand-ins: what each forward pass finds marked."""

from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from steersman.steering.plan import PLAN_KEY, Plan, StepReport
from steersman.steering.plan.capture import CAPTURE_KEY, Capture
from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.vllm.unsupported import check_v2
from steersman.steering.vllm.worker import model_runner_v1, model_runner_v2
from steersman.steering.worker.batch import CLEAN_ATTRIBUTE, REPORT_ATTRIBUTE, Attached, Steps
from steersman.steering.worker.composition import Composer
from steersman.steering.worker.hooks import ActiveSlots
from steersman.steering.worker.listeners.capture import CaptureTracker
from steersman.vectors.tensors import HookPoint
from tests.steering.worker.test_requests import Worker
from tests.support.standin.runners import RunnerV1, RunnerV2
from tests.support.steering.loading import place
from tests.support.steering.make import plan_of, planned

PROMPT = 4
HEARD = HookPoint("resid_post", 0)
GRAPHS, NO_GRAPHS = (True, True), (False, False)
KINDS = {
    "v1": (RunnerV1, model_runner_v1, "_model_runner_output"),
    "v2": (RunnerV2, model_runner_v2, "model_runner_output"),
}


class Attachment:
    """A stand-in runner with a worker's steering attached, and a scheduler's part of the work."""

    def __init__(self, kind: str, **changes: object) -> None:
        runner, seam, self.holder = KINDS[kind]
        self.worker = Worker(**changes)  # type: ignore[arg-type]
        self.steered = self.worker.requests
        self.active = ActiveSlots(self.worker.tables.sizes.slots, always=False)
        self.runner: Any = runner(self.worker.tables)
        captures = CaptureTracker(self.active, (HEARD,), torch.device("cpu"))
        steps = Steps(self.steered, captures, Composer(), self.active)
        self.attached: Attached = seam.attach(self.runner, steps)
        self.v2 = kind == "v2"
        self.computed: dict[str, int] = {}
        self.new: dict[str, SimpleNamespace] = {}

    def step(
        self,
        scheduled: dict[str, int],
        *,
        new: dict[str, Plan | Capture | None] | None = None,
        finished: Collection[str] = (),
        preempted: Collection[str] = (),
        prompt: int = PROMPT,
        clean: Collection[int] = (),
    ) -> StepReport | None:
        """One engine step: so many tokens of each request, in this order."""
        arrivals = []
        for name, plan in (new or {}).items():
            key = CAPTURE_KEY if isinstance(plan, Capture) else PLAN_KEY
            args = None if plan is None else {key: plan.to_json()}
            if isinstance(plan, Plan):
                place(self.worker.bank, plan, self.worker.shelf)
            self.new[name] = SimpleNamespace(
                req_id=name,
                sampling_params=SimpleNamespace(extra_args=args),
                prompt_len=prompt,
                prompt_token_ids=list(range(prompt)),
            )
            self.computed[name] = 0
            arrivals.append(self.new[name])
        if self.v2:
            known = {*self.runner.req_states.req_id_to_index, *(new or {})} - set(preempted)
            arrivals += [self.new[name] for name in scheduled if name not in known]
        for name in preempted:
            self.computed[name] = 0
        output = self.runner.execute_model(
            SimpleNamespace(
                scheduled_new_reqs=arrivals,
                finished_req_ids=set(finished),
                preempted_req_ids=set(preempted),
                num_scheduled_tokens=scheduled,
                total_num_scheduled_tokens=sum(scheduled.values()),
                computed=dict(self.computed),
                **({CLEAN_ATTRIBUTE: list(clean)} if clean else {}),
            )
        )
        for name, count in scheduled.items():
            self.computed[name] += count
        self.steered.bank.check()
        assert not any(self.active.flags)
        inner = getattr(output, self.holder, output)
        if hasattr(output, "get_output"):  # vLLM waits for the device here.
            assert output.get_output() is inner
        found: StepReport | None = getattr(inner, REPORT_ATTRIBUTE, None)
        return found

    @property
    def marked(self) -> list[bool]:
        """Which tokens the last forward pass found steered."""
        return [row >= 0 for row in self.runner.seen[-1]]

    def assert_empty(self) -> None:
        assert not self.steered.live
        assert self.steered.bank.used == 0
        sizes = self.worker.tables.sizes
        assert self.steered.free_table_entries == sizes.table_entries


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def notes(report: StepReport | None) -> dict[str, int]:
    assert report is not None
    return {name: counts[0] for name, counts in report.counts.items()}


def test_a_request_comes_runs_and_goes(kind: str) -> None:
    a = Attachment(kind)
    assert a.step({"x": 2}, new={"x": None}) is None
    plan = plan_of(planned(positions="generation"))
    assert notes(a.step({"x": 1, "r": 3}, new={"r": plan})) == {"r": 0}
    assert a.marked == [False] * 4
    assert notes(a.step({"x": 1, "r": 1})) == {"r": 1}
    assert sorted(a.marked) == [False, True]
    assert notes(a.step({"x": 1, "r": 1})) == {"r": 2}
    assert a.step({"x": 1}, finished=["r"]) == StepReport()
    assert a.marked == [False]
    a.assert_empty()
    assert a.step({"x": 1}) is None


def test_the_gate_is_open_while_the_model_runs(kind: str) -> None:
    a = Attachment(kind)
    slots: list[list[bool]] = []
    forward = a.runner.forward

    def watched(tokens: Any) -> Any:
        slots.append(list(a.active.flags))
        return forward(tokens)

    a.runner.forward = watched
    a.step({"r": 4}, new={"r": plan_of(planned(layers=(1, 3), positions="all"))})
    assert [n for n, is_open in enumerate(slots[0]) if is_open] == [1, 3]


def test_who_is_preempted_gives_rows_back_and_is_counted_once(kind: str) -> None:
    a = Attachment(kind)
    plan = plan_of(planned(positions="all"))
    a.step({"r": 4, "x": 4}, new={"r": plan, "x": None})
    a.step({"r": 1, "x": 1})
    a.step({"x": 1}, preempted=["r"])
    assert a.marked == [False]
    assert "r" in a.steered.live
    assert a.steered.bank.used == 0
    assert notes(a.step({"r": 5, "x": 1})) == {"r": 5}
    assert sum(a.marked) == 5
    assert notes(a.step({"r": 1, "x": 1})) == {"r": 6}
    a.step({"x": 1}, finished=["r"])
    a.assert_empty()


def test_who_is_preempted_and_resumed_in_one_step_goes_on(kind: str) -> None:
    a = Attachment(kind)
    a.step({"r": 4}, new={"r": plan_of(planned(positions="all"))})
    assert notes(a.step({"r": 4}, preempted=["r"])) == {"r": 4}
    assert a.marked == [True] * 4
    a.step({}, finished=["r"])
    a.assert_empty()


def test_who_ends_while_preempted_leaves_nothing(kind: str) -> None:
    a = Attachment(kind)
    a.step({"r": 4, "x": 1}, new={"r": plan_of(planned()), "x": None})
    a.step({"x": 1}, preempted=["r"])
    a.step({"x": 1}, finished=["r"])
    a.assert_empty()


def test_a_client_that_adds_to_its_prompt_leaks_no_rows(kind: str) -> None:
    """Streaming input: the same request arrives again, with a longer prompt."""
    a = Attachment(kind)
    plan = plan_of(planned(positions="prompt"))
    a.step({"r": 4}, new={"r": plan})
    a.step({"r": 1})
    assert a.marked == [False]
    a.step({"r": 6}, new={"r": plan}, prompt=6)
    assert a.marked == [True] * 6
    a.step({}, finished=["r"])
    a.assert_empty()


def test_newcomers_take_the_table_entry_of_those_who_ended(kind: str) -> None:
    """There is one, handed on in one step."""
    a = Attachment(kind, requests=1, max_segments=1, bank_rows=2)
    for n in range(4):
        name, finished = f"r{n}", [f"r{n - 1}"] if n else []
        report = a.step(
            {name: 4}, new={name: plan_of(planned(n=n, positions="all"))}, finished=finished
        )
        assert notes(report) == {name: 4}
        assert not a.steered.failed


def test_a_vector_that_cannot_be_loaded_is_reported_until_the_request_ends(kind: str) -> None:
    a = Attachment(kind)
    plan = plan_of(planned(n=7, positions="all"))
    a.worker.shelf.gone.add(plan.vectors[0].digest)
    for scheduled in (4, 1):
        report = a.step({"r": scheduled}, new={"r": plan} if scheduled == 4 else None)
        assert report is not None
        assert list(report.failed) == ["r"]
        assert a.marked == [False] * scheduled
    report = a.step({"x": 1}, new={"x": None}, finished=["r"])
    assert report is None or report == StepReport()
    a.assert_empty()


@pytest.mark.parametrize("bad", ["token", "row"])
def test_whose_numbers_are_not_finite_is_reported(kind: str, bad: str) -> None:
    """A hidden state of any of its tokens, or a logit; nobody's who is not steered."""
    a = Attachment(kind)
    plan = plan_of(planned(positions="prompt"))
    report = a.step({"x": 1, "r": 4}, new={"x": None, "r": plan})
    assert report is not None
    assert report.ill == []
    place = "bad_token" if bad == "token" else "bad_row"
    setattr(a.runner, place, 1)
    report = a.step({"x": 1, "r": 1})
    assert report is not None
    assert report.ill == ["r"]
    setattr(a.runner, place, 0)
    report = a.step({"x": 1, "r": 1})
    assert report is not None
    assert report.ill == []
    setattr(a.runner, place, 0)
    a.step({"x": 1}, finished=["r"])
    assert a.step({"x": 1}) is None


def test_blocks_are_cleaned_before_the_step(kind: str) -> None:
    """Of three, each of which is two of the kernel's."""
    a = Attachment(kind)
    cache = a.runner.compilation_config.static_forward_context["layer"].kv_cache
    a.step({"x": 1}, new={"x": None})
    assert bool((cache == 1).all())
    a.step({"x": 1}, clean=[1])
    assert cache.sum((1, 2)).tolist() == [8, 8, 0, 0, 8, 8]


def test_dummy_runs_find_no_token_marked(kind: str) -> None:
    a = Attachment(kind)
    a.step({"r": 4}, new={"r": plan_of(planned(positions="all"))})
    assert a.marked == [True] * 4
    a.runner._dummy_run(6)
    assert a.marked == [False] * 6
    assert notes(a.step({"r": 1})) == {"r": 5}
    assert a.marked == [True]


def test_a_step_that_is_listened_to_runs_without_graphs(kind: str) -> None:
    """A capture's, and whatever runs while norms are measured; other steps have their graphs."""
    a = Attachment(kind)
    a.step({"x": 2}, new={"x": None})
    a.step({"x": 1, "c": 2}, new={"c": Capture("c", (HEARD,), 1, 4)})
    a.step({"x": 1})
    a.step({"x": 1, "c": 2})
    a.step({"x": 1}, finished=["c"])
    heard = [GRAPHS, NO_GRAPHS, GRAPHS, NO_GRAPHS, GRAPHS]
    assert a.runner.graphs == heard
    a.active.listeners.append(lambda *_: None)
    a.step({"x": 1})
    a.active.listeners.clear()
    a.step({"x": 1})
    assert a.runner.graphs == [*heard, NO_GRAPHS, GRAPHS]


def test_the_probe_finds_what_is_marked(kind: str) -> None:
    a = Attachment(kind)
    a.worker.tables.begin_step()
    a.worker.tables.mark(1, 2, 0)
    a.worker.tables.commit(3)
    assert a.attached.probe(3) is not None
    assert a.marked == [False, True, False]


def v2_config(**changes: Any) -> Any:
    speculative = SimpleNamespace(**{"enable_adaptive_verification": False} | changes)
    return SimpleNamespace(speculative_config=speculative)


def test_v2_refuses_steps_that_the_host_does_not_know() -> None:
    runner = RunnerV2(Worker().tables)
    check_v2(runner, v2_config())
    with pytest.raises(NotInstrumentable, match="adaptive verification"):
        check_v2(runner, v2_config(enable_adaptive_verification=True))
    runner.model_state.num_new_sampled_tokens_per_step = 0
    with pytest.raises(NotInstrumentable, match="0 tokens a step"):
        check_v2(runner, v2_config())
