"""Seam: which requests wait in vLLM's scheduler (`v1/core/sched/scheduler.py: Scheduler`).

vLLM visits every waiting request in each of its passes. A steered request that waits for bank rows
is therefore kept outside vLLM's queue (`add_request`, `_enqueue_waiting_request`). When its rows
are reserved it enters the queue at the place of its arrival. So the cost of a pass depends only on
the requests that can start.
"""

import heapq
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.plan import Plan
from steersman.steering.scheduler.admission import Rank
from steersman.steering.vllm.core import connectors, portions
from steersman.steering.vllm.core.request import plan_of
from steersman.steering.vllm.seam import Function, wrap

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

    from steersman.steering.vllm.core.state import SteeredScheduler

STEP_ATTRIBUTE: Final = "steersman_step"
"""Attribute of SchedulerOutput: the number of the scheduler's step."""

_CAME = attrgetter("arrival_time")


def install() -> None:
    """Wrap the scheduler's methods. Idempotent. Assumption: `state.begin` has run."""
    from vllm.v1.core.sched.scheduler import Scheduler

    wrap(Scheduler, "add_request", _queueing)
    wrap(Scheduler, "_enqueue_waiting_request", _holding_back)
    wrap(Scheduler, "get_request_counts", _counting_all)
    wrap(Scheduler, "_handle_blocked_waiting_request", _in_turn)
    wrap(Scheduler, "_update_after_schedule", _numbering)


def let_in(scheduler: "SteeredScheduler") -> None:
    """Move the requests that have got their rows into vLLM's queue. Call before each scheduler
    pass."""
    held = scheduler.steering_held
    came = []
    for request_id in scheduler.steering_admission.try_admit():
        for request in scheduler.steering_companions.members_of(request_id) or (held[request_id],):
            del held[request.request_id]
            came.append(request)
            scheduler._enqueue_waiting_request(request)
    if came and scheduler.policy.value == "fcfs":
        _sort_in(scheduler.waiting, came)


def _sort_in(queue: Any, came: "list[Request]") -> None:
    """Move `came`, the last requests of the queue, to the places of their arrival, but behind
    preempted requests, which are at the front."""
    for _ in came:
        queue.pop()
    resumed = []
    while queue and queue[0].status.name == "PREEMPTED":
        resumed.append(queue.popleft())
    others = list(queue)
    queue.clear()
    queue.extend(resumed)
    queue.extend(heapq.merge(others, sorted(came, key=_CAME), key=_CAME))


def _queueing(original: Function) -> Function:
    def add_request(self: "SteeredScheduler", request: "Request") -> None:
        portions.track(self, request)
        connectors.keep_steered_blocks(self, request)
        try:
            plan = plan_of(request)
            step_entries = _entries_of_steps(plan, request.num_prompt_tokens) if plan else 0
        except PlanInvalid:
            plan = None  # The worker reports it, and the request ends.
        if plan is None:
            original(self, request)
            return
        name, rank = request.request_id, _rank(self, request)
        if not self.steering_admission.add(name, plan.row_sets, step_entries, rank):
            self.steering_refused.add(name)
        original(self, request)
        if plan.dynamic is not None and name not in self.steering_refused:
            for companion in self.steering_companions.add(request, plan):
                connectors.keep_steered_blocks(self, companion)
                original(self, companion)

    return add_request


def _rank(scheduler: "SteeredScheduler", request: "Request") -> Rank:
    """The rank by which vLLM serves: arrival order, or priority first."""
    if scheduler.policy.value == "fcfs":
        return ()
    return request.priority, request.arrival_time


def _entries_of_steps(plan: Plan, prompt_tokens: int) -> int:
    """Table entries that a request and its companions need if a vector has a tensor for each step;
    else 0."""
    plans = [plan]
    if plan.dynamic is not None:
        plans += filter(None, map(plan.alone, range(len(plan.vectors) + 1)))
    return sum(
        len(one.segments(prompt_tokens)) for one in plans if any(v.steps > 1 for v in one.vectors)
    )


def _holding_back(original: Function) -> Function:
    def _enqueue_waiting_request(self: "SteeredScheduler", request: "Request") -> None:
        if _has_rows(self, request):
            original(self, request)
        else:
            self.steering_held[request.request_id] = request

    return _enqueue_waiting_request


def _has_rows(scheduler: "SteeredScheduler", request: "Request") -> bool:
    """Whether a request has its bank rows, or needs none."""
    admission = scheduler.steering_admission
    name = scheduler.steering_companions.answer_of(request.request_id)
    if name in scheduler.steering_refused:
        return False
    return name not in admission or bool(admission.is_admitted(name))


def _counting_all(original: Function) -> Function:
    def get_request_counts(self: "SteeredScheduler") -> tuple[int, int]:
        running, waiting = original(self)
        return running, waiting + len(self.steering_held)

    return get_request_counts


def _in_turn(original: Function) -> Function:
    def _handle_blocked_waiting_request(self: "SteeredScheduler", request: "Request") -> bool:
        free = original(self, request) and _has_rows(self, request)
        return bool(free and self.steering_companions.is_admissible(request))

    return _handle_blocked_waiting_request


def _numbering(original: Function) -> Function:
    def _update_after_schedule(
        self: "SteeredScheduler", scheduler_output: "SchedulerOutput"
    ) -> None:
        setattr(scheduler_output, STEP_ATTRIBUTE, self.current_step)
        original(self, scheduler_output)

    return _update_after_schedule
