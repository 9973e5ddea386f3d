"""Seam: vLLM's scheduler (`v1/core/sched/scheduler.py: Scheduler`), its methods wrapped.

A request waits for filled bank rows before it waits for cache blocks (`waiting`), and gives them
back however it ends (`_free_request`). A step takes along what the workers are to load
(`schedule`). What a step reports leaves with its outputs (`update_from_output`): the notes of
steered requests (`notes`), and the refusals of those that could not be steered (`failures`).
"""

from typing import TYPE_CHECKING, Any

from steersman.steering.plan.wire.loads import LOADS_ATTRIBUTE, ORDERS_ATTRIBUTE
from steersman.steering.vllm.core import failures, notes, portions, state, waiting
from steersman.steering.vllm.seam import Function, wrap
from steersman.steering.worker.batch import CLEAN_ATTRIBUTE, REPORT_ATTRIBUTE, TOKENS_ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.engine import EngineCoreOutputs
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request, RequestStatus

    from steersman.steering.vllm.core.state import SteeredScheduler


def install() -> None:
    """Wrap the scheduler's methods. Idempotent."""
    from vllm.v1.core.sched.scheduler import Scheduler

    waiting.install()
    portions.install()
    wrap(Scheduler, "__init__", _beginning)
    wrap(Scheduler, "schedule", _in_lock_step)
    wrap(Scheduler, "_preempt_request", _suspecting)
    wrap(Scheduler, "finish_requests", _with_companions)
    wrap(Scheduler, "_free_request", _giving_back)
    wrap(Scheduler, "update_from_output", _reporting)


def _beginning(original: Function) -> Function:
    def __init__(self: "SteeredScheduler", *args: Any, **kwargs: Any) -> None:  # noqa: N807
        original(self, *args, **kwargs)
        state.begin(self)

    return __init__


def _in_lock_step(original: Function) -> Function:
    def schedule(self: "SteeredScheduler", *args: Any, **kwargs: Any) -> "SchedulerOutput":
        waiting.let_in(self)
        companions = self.steering_companions
        if not len(companions):
            return _scheduled(self, original, *args, **kwargs)
        companions.before_step()
        output = _scheduled(self, original, *args, **kwargs)
        throttled = any((*args, *kwargs.values()))  # `throttle_prefills`, where there is that.
        setattr(output, TOKENS_ATTRIBUTE, companions.after_step(output, throttled=throttled))
        return output

    return schedule


def _scheduled(
    scheduler: "SteeredScheduler", schedule: Function, *args: Any, **kwargs: Any
) -> "SchedulerOutput":
    """Run vLLM's `schedule` with portions of captured prompts, and add the blocks to clean and the
    vectors to load to its output."""
    portions.before_step(scheduler)
    output: SchedulerOutput = schedule(scheduler, *args, **kwargs)
    portions.after_step(scheduler, output)
    if scheduler.steering_soiled:
        setattr(output, CLEAN_ATTRIBUTE, sorted(scheduler.steering_soiled))
        scheduler.steering_soiled = set()
    orders = scheduler.steering_admission.loads.orders()
    if orders is not None:
        setattr(output, ORDERS_ATTRIBUTE, orders)
    return output


def _suspecting(original: Function) -> Function:
    def _preempt_request(
        self: "SteeredScheduler", request: "Request", *args: Any, **kwargs: Any
    ) -> Any:
        failures.suspect(self, request)
        return original(self, request, *args, **kwargs)

    return _preempt_request


def _with_companions(original: Function) -> Function:
    def finish_requests(
        self: "SteeredScheduler",
        request_ids: "str | Iterable[str] | None",
        finished_status: "RequestStatus",
    ) -> "list[Request]":
        companions = self.steering_companions
        if request_ids is not None and len(companions):
            request_ids = {request_ids} if isinstance(request_ids, str) else set(request_ids)
            request_ids = companions.with_companions(request_ids)
        ended: list[Request] = original(self, request_ids, finished_status)
        known = [request for request in ended if not companions.is_companion(request.request_id)]
        companions.pop_orphaned_companions()
        return known

    return finish_requests


def _giving_back(original: Function) -> Function:
    from vllm.v1.request import RequestStatus

    def _free_request(
        self: "SteeredScheduler", request: "Request", *args: Any, **kwargs: Any
    ) -> Any:
        aborted = request.status == RequestStatus.FINISHED_ABORTED
        failures.suspect(self, request, aborted=aborted)
        self.steering_admission.remove(request.request_id)
        self.steering_refused.discard(request.request_id)
        self.steering_held.pop(request.request_id, None)
        self.steering_captured.pop(request.request_id, None)
        return original(self, request, *args, **kwargs)

    return _free_request


def _reporting(original: Function) -> Function:
    from vllm.v1.request import RequestStatus

    def update_from_output(
        self: "SteeredScheduler",
        scheduler_output: "SchedulerOutput",
        runner_output: "ModelRunnerOutput",
    ) -> "dict[int, EngineCoreOutputs]":
        report = getattr(runner_output, REPORT_ATTRIBUTE, None)
        companions = self.steering_companions
        companions.drop_samples(runner_output)
        if report is not None and report.ill:
            failures.take_back_drafts(self, report)
        ended = failures.end_unloaded(self, getattr(runner_output, LOADS_ATTRIBUTE, None))
        ended += failures.end_failed(self, report)
        # Those that end in this step are not there any more afterwards.
        requests = {name: self.requests.get(name) for name in report.counts} if report else {}
        loads = notes.loads_of(self.steering_admission.loads, requests)
        failures.forget_seen(self, scheduler_output)
        outputs: dict[int, EngineCoreOutputs] = original(self, scheduler_output, runner_output)
        paces = companions.append_answer_tokens(report.drafts if report else {})
        # An answer that was stopped left its companions.
        if orphaned := companions.pop_orphaned_companions():
            self.finish_requests(orphaned, RequestStatus.FINISHED_STOPPED)
        if report is not None:
            notes.attach(outputs, report, requests, paces, loads)
        captured = getattr(scheduler_output, portions.CAPTURED_ATTRIBUTE, None)
        if captured is not None:
            notes.attach_captured(outputs, captured)
        notes.append(outputs, ended)
        waiting = state.waiting_of(self)
        notes.attach_waiting(outputs, waiting, self.steering_waiting)
        self.steering_waiting = waiting
        return outputs

    return update_from_output
