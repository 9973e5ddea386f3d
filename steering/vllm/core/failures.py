"""Requests that were not steered, or are not finite: they end before their token is sent.

The blocks that they computed leave the prefix cache, and requests that share these blocks end too.
Blocks that may hold NaN are filled with zeros before the next step. Under asynchronous scheduling a
request may lose its blocks while a step still computes them; whether they are right is known only
when that step is over.
"""

import logging
import time
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING

from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.plan import PLAN_KEY
from steersman.steering.plan.receipt import (
    BANK_FULL,
    NOT_FINITE,
    SLOW,
    UNAVAILABLE,
    Refusal,
    StepReport,
)
from steersman.steering.plan.wire.loads import LoadReport
from steersman.steering.vllm.core.notes import Ended, put
from steersman.steering.vllm.core.request import plan_of
from steersman.steering.vllm.core.waiting import STEP_ATTRIBUTE

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request

    from steersman.steering.vllm.core.state import SteeredScheduler

logger = logging.getLogger("vllm.steersman")

_FULL = (
    "every row of the vector bank is in use, and the queue for rows is full (--max-waiting); try "
    "again soon, or start the server with a larger bank (--bank-rows)"
)
_TOO_LARGE = (
    "the answer and its companion sequences do not fit into the engine's cache together; shorten "
    "the prompt, or name fewer vectors"
)
_OVERFLOWED = (
    "the steered residual stream of this request is not finite, because the model overflowed; "
    "lower the coefficients"
)
_SLOW = (
    "the library did not deliver a vector of this request in {:g} s (--load-timeout): its disk is "
    "slow or hangs; try again later"
)
_MISLED = (
    "the request used cached blocks of another request, which could not be steered; send it again"
)


def end_failed(scheduler: "SteeredScheduler", report: StepReport | None) -> Ended:
    """End the requests that a step reports as failed, those that were refused because too many
    wait, and those that can never run. Returns their last outputs."""
    ended: Ended = []
    if report is not None and (report.failed or report.ill):
        ended += _end_reported(scheduler, report)
    if scheduler.steering_refused:
        ended += _end(scheduler, dict.fromkeys(scheduler.steering_refused, _FULL), BANK_FULL)
    infeasible = scheduler.steering_companions.infeasible
    if infeasible:
        ended += _end(scheduler, dict.fromkeys(infeasible, _TOO_LARGE), UNAVAILABLE)
    return ended


def end_unloaded(scheduler: "SteeredScheduler", report: LoadReport | None) -> Ended:
    """Record the loads that are over. End the requests that wait for one that failed, or that have
    waited too long; they have computed nothing. Returns their last outputs."""
    admission = scheduler.steering_admission
    ended: Ended = []
    if report is not None:
        ended += _end(scheduler, admission.loaded(report), UNAVAILABLE)
    if admission.loads.waiting:
        reason = _SLOW.format(admission.loads.timeout)
        ended += _end(scheduler, dict.fromkeys(admission.loads.expired(), reason), SLOW)
    return ended


def take_back_drafts(scheduler: "SteeredScheduler", report: StepReport) -> None:
    """Preempt the companions that are not finite on a draft, and remove them from `report.ill`: the
    answer may get another token, or end before it. If the draft is right they overflow again on the
    answer's own token, and fail then. Call before `end_failed`."""
    companions = scheduler.steering_companions
    for request_id in [name for name in report.ill if companions.is_ahead(name)]:
        report.ill.remove(request_id)
        companions.stop_drafting(request_id)
        request = scheduler.requests[request_id]
        last = (request.num_computed_tokens - 1) // scheduler.block_size
        scheduler.steering_soiled |= _blocks_of(scheduler, request_id, last)
        scheduler.running.remove(request)
        scheduler._preempt_request(request, time.monotonic())


def suspect(scheduler: "SteeredScheduler", request: "Request", *, aborted: bool = False) -> None:
    """Call before a request loses its blocks. Blocks that a step still computes leave the prefix
    cache, and are filled with zeros before another request gets them."""
    in_flight = bool(request.num_in_flight_tokens)
    if not (in_flight or aborted) or not _has_plan(request):
        return
    blocks = _in_flight_blocks(scheduler, request.request_id)
    shared = _shared(scheduler, blocks)
    scheduler.kv_cache_manager.evict_blocks(blocks)
    if in_flight:
        # A request that shares one is steered alike: it is reported as not finite as well.
        scheduler.steering_soiled |= blocks - shared
    if aborted:
        # The request is gone when its step is over. If it was not steered, requests that share its
        # blocks must end; its other blocks may belong to any request by then.
        scheduler.steering_unseen[request.request_id] = shared


def forget_seen(scheduler: "SteeredScheduler", output: "SchedulerOutput") -> None:
    """Call after a step. Forgets the aborted requests that no later step can report. A step that is
    still running may report that one of the others failed."""
    until = scheduler.steering_unseen_until
    for request_id in [*scheduler.steering_unseen]:
        if until.setdefault(request_id, scheduler.current_step) <= getattr(output, STEP_ATTRIBUTE):
            del scheduler.steering_unseen[request_id], until[request_id]


def _has_plan(request: "Request") -> bool:
    return PLAN_KEY in (getattr(request.sampling_params, "extra_args", None) or ())


def _only_reads(scheduler: "SteeredScheduler", request_id: str) -> bool:
    """Whether a request has a plan that steers nothing."""
    request = scheduler.requests.get(request_id)
    try:
        plan = None if request is None else plan_of(request)
    except PlanInvalid:
        return False
    return plan is not None and not plan.vectors


def _end_reported(scheduler: "SteeredScheduler", report: StepReport) -> Ended:
    """End requests that were not steered, or are not finite, and those that share their blocks."""
    failed = {**report.failed, **dict.fromkeys(report.ill, _OVERFLOWED)}
    spoiled = set[int]()
    for request_id in failed:
        if request_id not in report.ill and _only_reads(scheduler, request_id):
            continue  # Its blocks are everybody's, and right.
        spoiled |= scheduler.steering_unseen.get(request_id, set())
        spoiled |= _in_flight_blocks(scheduler, request_id)
    # A request of the same step may use these blocks from the cache already. What it computes
    # behind them is wrong too.
    misled = dict[str, str]()
    behind = set[int]()
    for other in scheduler.running:
        if other.request_id not in failed and spoiled & _blocks_of(scheduler, other.request_id):
            misled[other.request_id] = _MISLED
            behind |= _blocks_of(scheduler, other.request_id, after=spoiled)
    scheduler.kv_cache_manager.evict_blocks(spoiled | behind)
    if report.ill:
        # Not those that another request has by now: they were cleaned when they were given back.
        held = (_blocks_of(scheduler, n) for n in (*failed, *misled) if n in scheduler.requests)
        scheduler.steering_soiled |= (spoiled | behind) & set[int]().union(*held)
    # A companion that fails ends its answer, which is what the client sees.
    answer_of = scheduler.steering_companions.answer_of
    reasons = {answer_of(name): why for name, why in {**failed, **misled}.items()}
    # A request that shares steered blocks with one that is not finite is steered the same there.
    ill = {answer_of(name) for name in report.ill} | ({*misled} if report.ill else set())
    return [
        *_end(scheduler, {n: why for n, why in reasons.items() if n not in ill}, UNAVAILABLE),
        *_end(scheduler, {n: why for n, why in reasons.items() if n in ill}, NOT_FINITE),
    ]


def _end(scheduler: "SteeredScheduler", reasons: Mapping[str, str], code: str) -> Ended:
    """End requests in error. Returns their last outputs, each with a refusal."""
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.request import RequestStatus

    outputs: Ended = []
    for request in scheduler.finish_requests(set(reasons), RequestStatus.FINISHED_ERROR):
        reason = reasons[request.request_id]
        if code == UNAVAILABLE:
            logger.error("Request %s could not be steered: %s", request.request_id, reason)
        elif code in (NOT_FINITE, SLOW):
            logger.warning("Request %s was ended: %s", request.request_id, reason)
        output = EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=[],
            finish_reason=request.get_finished_reason(),
            events=request.take_events(),
            trace_headers=request.trace_headers,
        )
        try:
            plan = plan_of(request)
        except PlanInvalid:
            plan = None
        if plan is not None:
            put(output, PLAN_KEY, Refusal(plan.receipt, code, reason).to_wire())
        outputs.append((request.client_index, output))
    return outputs


def _in_flight_blocks(scheduler: "SteeredScheduler", request_id: str) -> set[int]:
    """Ids of a request's steered blocks that this step, and the steps already running behind it,
    compute. If the request was not steered, or is not finite, their content does not match their
    cache keys."""
    request = scheduler.requests.get(request_id)
    if request is None:
        return set()
    try:
        plan = plan_of(request)
        segments = plan.segments(request.num_prompt_tokens) if plan else ()
    except PlanInvalid:
        segments = ()
    first = segments[0].start if segments else 0
    before = request.num_computed_tokens - request.num_in_flight_tokens
    return _blocks_of(scheduler, request_id, max(first, before) // scheduler.block_size)


def _blocks_of(
    scheduler: "SteeredScheduler", request_id: str, first: int = 0, after: Set[int] = frozenset()
) -> set[int]:
    """Ids of a request's blocks from index `first` on. With `after`: in each cache group, from the
    first block that is in `after` on. The null block, which many requests have, is left out."""
    groups = scheduler.kv_cache_manager.get_block_ids(request_id)
    null = scheduler.kv_cache_manager.block_pool.null_block.block_id
    found = set[int]()
    for ids in groups:
        begin = next((n for n, one in enumerate(ids) if one in after), len(ids)) if after else first
        found.update(ids[begin:])
    return found - {null}


def _shared(scheduler: "SteeredScheduler", blocks: Set[int]) -> set[int]:
    """Those of `blocks` that other requests hold as well."""
    pool = scheduler.kv_cache_manager.block_pool.blocks
    return {block for block in blocks if pool[block].ref_cnt > 1}
