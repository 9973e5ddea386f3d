"""Seam: vLLM's scheduler (`v1/core/sched/scheduler.py: Scheduler`).

Requests wait for bank rows before they wait for cache blocks (`seam_queue`), and give them back
however they end (`_free_request`). Each steered request's note leaves with its
output (`update_from_output`) in `EngineCoreOutput.kv_transfer_params`, the one free-form field that
reaches the front end; requests that cannot be steered end in error, with a refusal in that place.
"""

import logging
from collections.abc import Mapping, Set
from typing import Any

from steersman.steering.plan.capture import CAPTURE_KEY, STEP_KEY
from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.plan import PLAN_KEY
from steersman.steering.plan.receipt import (
    BANK_FULL,
    NOT_FINITE,
    UNAVAILABLE,
    Refusal,
    StepReport,
    WorkerNote,
)
from steersman.steering.plan.settings import Settings
from steersman.steering.scheduler.admission import AdmissionQueue
from steersman.steering.scheduler.companions import CompanionScheduler
from steersman.steering.vllm.config import step_entries
from steersman.steering.vllm.core import portions as seam_portions
from steersman.steering.vllm.core import waiting as seam_queue
from steersman.steering.vllm.core.request import companion_of, plan_of
from steersman.steering.vllm.core.waiting import STEP_ATTRIBUTE
from steersman.steering.vllm.patching import Function, wrap
from steersman.steering.worker.batch import CLEAN_ATTRIBUTE, REPORT_ATTRIBUTE, TOKENS_ATTRIBUTE

logger = logging.getLogger("vllm.steersman")

_FULL = (
    "the vector bank is full of vectors in use, and as many requests wait for it as may; try again "
    "soon, or start the server with a larger bank (--bank-rows)"
)
_TOO_LARGE = "its streams do not fit into the cache together"
_OVERFLOWED = (
    "the steered stream of this request is not finite any more: the model overflows on it; lower "
    "the coefficients"
)


def install() -> None:
    """Wrap the scheduler's methods. Idempotent."""
    from vllm.v1.core.sched.scheduler import Scheduler

    seam_queue.install()
    seam_portions.install()
    wrap(Scheduler, "__init__", _with_row_queue)
    wrap(Scheduler, "schedule", _in_lock_step)
    wrap(Scheduler, "_preempt_request", _suspecting)
    wrap(Scheduler, "finish_requests", _with_companions)
    wrap(Scheduler, "_free_request", _giving_back)
    wrap(Scheduler, "update_from_output", _with_notes)


def _with_row_queue(original: Function) -> Function:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is wrapped
        original(self, *args, **kwargs)
        settings = Settings.read(self.vllm_config.additional_config)
        self.steering_admission = AdmissionQueue(
            settings.bank_rows, settings.max_waiting, step_entries(self.vllm_config)
        )
        seam_portions.begin(self)
        self.steering_companions = CompanionScheduler(self, settings.max_dynamic, companion_of)
        self.steering_held = dict[str, Any]()
        """Requests that wait for bank rows, and those that end because too many do."""
        self.steering_refused = set[str]()
        self.steering_unseen_until = dict[str, int]()
        """The last step that may say of a request in `steering_unseen` that it failed."""
        self.steering_unseen = dict[str, set[int]]()
        self.steering_soiled = set[int]()
        """Blocks to fill with zeros before the next step: they may hold NaN."""

    return __init__


def _in_lock_step(original: Function) -> Function:
    def schedule(self: Any, *args: Any, **kwargs: Any) -> Any:
        seam_queue.let_in(self)
        companions = self.steering_companions
        if not len(companions):
            return _with_portions(self, original, *args, **kwargs)
        companions.before_step()
        output = _with_portions(self, original, *args, **kwargs)
        throttled = any((*args, *kwargs.values()))  # `throttle_prefills`, where there is that.
        setattr(output, TOKENS_ATTRIBUTE, companions.after_step(output, throttled=throttled))
        return output

    return schedule


def _with_portions(scheduler: Any, schedule: Function, *args: Any, **kwargs: Any) -> Any:
    """vLLM's SchedulerOutput, in which captured prompts have their portion."""
    seam_portions.before_step(scheduler)
    output = schedule(scheduler, *args, **kwargs)
    seam_portions.after_step(scheduler, output)
    return _to_clean(scheduler, output)


def _to_clean(scheduler: Any, output: Any) -> Any:
    """`output`, vLLM's SchedulerOutput, with the blocks to clean before its step."""
    if scheduler.steering_soiled:
        setattr(output, CLEAN_ATTRIBUTE, sorted(scheduler.steering_soiled))
        scheduler.steering_soiled = set()
    return output


def _suspecting(original: Function) -> Function:
    def _preempt_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        _suspect(self, request)
        return original(self, request, *args, **kwargs)

    return _preempt_request


def _suspect(scheduler: Any, request: Any, *, aborted: bool = False) -> None:
    """Before a steered request loses its blocks while a step still computes some of them: whether
    that is steered and finite is not known yet, and when it is, somebody else may have them."""
    in_flight = bool(request.num_in_flight_tokens)
    if not (in_flight or aborted) or not _has_plan(request):
        return
    blocks = _in_flight_blocks(scheduler, request.request_id)
    shared = _shared(scheduler, blocks)
    scheduler.kv_cache_manager.evict_blocks(blocks)
    if in_flight:
        # Whoever shares one is steered alike, and will be found ill as well.
        scheduler.steering_soiled |= blocks - shared
    if aborted:
        # Nobody will be there to end when it is known. Who shares one of them is misled if it was
        # not steered. The others may be anybody's by then.
        scheduler.steering_unseen[request.request_id] = shared


def _has_plan(request: Any) -> bool:
    return PLAN_KEY in (getattr(request.sampling_params, "extra_args", None) or ())


def _with_companions(original: Function) -> Function:
    def finish_requests(self: Any, request_ids: Any, finished_status: Any) -> Any:
        companions = self.steering_companions
        if request_ids is not None and len(companions):
            request_ids = {request_ids} if isinstance(request_ids, str) else set(request_ids)
            request_ids = companions.with_companions(request_ids)
        ended = original(self, request_ids, finished_status)
        seen = [request for request in ended if not companions.is_companion(request.request_id)]
        companions.pop_orphaned_companions()
        return seen

    return finish_requests


def _giving_back(original: Function) -> Function:
    from vllm.v1.request import RequestStatus

    def _free_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        _suspect(self, request, aborted=request.status == RequestStatus.FINISHED_ABORTED)
        self.steering_admission.remove(request.request_id)
        self.steering_refused.discard(request.request_id)
        self.steering_held.pop(request.request_id, None)
        self.steering_captured.pop(request.request_id, None)
        return original(self, request, *args, **kwargs)

    return _free_request


def _with_notes(original: Function) -> Function:
    from vllm.v1.request import RequestStatus

    def update_from_output(self: Any, scheduler_output: Any, runner_output: Any) -> Any:
        report = getattr(runner_output, REPORT_ATTRIBUTE, None)
        ended: list[tuple[int, Any]] = []
        companions = self.steering_companions
        companions.drop_samples(runner_output)
        if report is not None and (report.failed or report.ill):
            ended += _end_failed(self, report)
        if self.steering_refused:
            ended += _end(self, dict.fromkeys(self.steering_refused, _FULL), BANK_FULL)
        if companions.infeasible:
            ended += _end(self, dict.fromkeys(companions.infeasible, _TOO_LARGE), UNAVAILABLE)
        # Those that end in this step are not there any more afterwards.
        noted = {name: self.requests.get(name) for name in report.notes} if report else {}
        _forget_seen(self, scheduler_output)
        outputs = original(self, scheduler_output, runner_output)
        if len(companions):
            # An answer that was stopped left its companions.
            if orphans := companions.pop_orphaned_companions():
                self.finish_requests(orphans, RequestStatus.FINISHED_STOPPED)
            companions.append_answer_tokens()
        if report is not None:
            for client in outputs.values():
                for output in client.outputs:
                    note = report.notes.get(output.request_id)
                    if note is not None:
                        request = noted[output.request_id]
                        note = _kept(note, report.reach[output.request_id], request)
                        _put(output, PLAN_KEY, note.to_wire())
                    if output.request_id in report.captured:
                        _put(output, CAPTURE_KEY, report.captured[output.request_id])
        captured = getattr(scheduler_output, seam_portions.CAPTURED_ATTRIBUTE, None)
        if captured is not None:
            for client in outputs.values():
                # A client's first says it for all of its outputs.
                for output in client.outputs[:1]:
                    _put(output, STEP_KEY, list(captured))
        for client_index, output in ended:
            _append(outputs, client_index, output)
        return outputs

    return update_from_output


def _forget_seen(scheduler: Any, output: Any) -> None:
    """After a step, vLLM's SchedulerOutput: forget those that went before it was queued. For others
    a step that is under way still, as under asynchronous scheduling, may say that they failed."""
    until = scheduler.steering_unseen_until
    for request_id in [*scheduler.steering_unseen]:
        if until.setdefault(request_id, scheduler.current_step) <= getattr(output, STEP_ATTRIBUTE):
            del scheduler.steering_unseen[request_id], until[request_id]


def _end_failed(scheduler: Any, report: StepReport) -> list[tuple[int, Any]]:
    """End requests that were not steered, or are not finite, before their token is seen; the
    outputs that say so, by client."""
    failed = {**report.failed, **dict.fromkeys(report.ill, _OVERFLOWED)}
    spoiled = set[int]()
    for request_id in failed:
        spoiled |= scheduler.steering_unseen.get(request_id, set())
        spoiled |= _in_flight_blocks(scheduler, request_id)
    # A request of the same step may have found these blocks in the cache already. What it computes
    # behind them is as wrong.
    misled = dict[str, str]()
    behind = set[int]()
    for other in scheduler.running:
        if other.request_id not in failed and spoiled & _blocks_of(scheduler, other.request_id):
            misled[other.request_id] = "it shares the prompt of a request that could not be steered"
            behind |= _blocks_of(scheduler, other.request_id, after=spoiled)
    scheduler.kv_cache_manager.evict_blocks(spoiled | behind)
    if report.ill:
        # Not those that somebody has got since: they were cleaned when they were given back.
        held = (_blocks_of(scheduler, n) for n in (*failed, *misled) if n in scheduler.requests)
        scheduler.steering_soiled |= (spoiled | behind) & set[int]().union(*held)
    # What fails a companion fails its answer, of which alone a client knows.
    answer_of = scheduler.steering_companions.answer_of
    reasons = {answer_of(name): why for name, why in {**failed, **misled}.items()}
    # Who shares blocks with a request that is not finite, is steered there as that is.
    ill = {answer_of(name) for name in report.ill} | ({*misled} if report.ill else set())
    return [
        *_end(scheduler, {n: why for n, why in reasons.items() if n not in ill}, UNAVAILABLE),
        *_end(scheduler, {n: why for n, why in reasons.items() if n in ill}, NOT_FINITE),
    ]


def _end(scheduler: Any, reasons: Mapping[str, str], code: str) -> list[tuple[int, Any]]:
    """End requests in error; their last outputs, each with a refusal, by client."""
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.request import RequestStatus

    outputs = []
    for request in scheduler.finish_requests(set(reasons), RequestStatus.FINISHED_ERROR):
        reason = reasons[request.request_id]
        if code == UNAVAILABLE:
            logger.error("Request %s could not be steered: %s", request.request_id, reason)
        elif code == NOT_FINITE:
            logger.warning("Request %s is ended: %s", request.request_id, reason)
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
            _put(output, PLAN_KEY, Refusal(plan.receipt, code, reason).to_wire())
        outputs.append((request.client_index, output))
    return outputs


def _kept(note: WorkerNote, reach: int, request: Any) -> WorkerNote:
    """`note` without the drafts that were rejected, or that lie behind the answer's end: the last
    token that a request has is always sampled, not computed."""
    last = request.num_tokens - 1
    plan = plan_of(request) if reach > last else None
    if plan is None:
        return note
    return note.without(plan.steered_within(last, reach, request.num_prompt_tokens))


def _put(output: Any, key: str, wire: Any) -> None:
    output.kv_transfer_params = {**(output.kv_transfer_params or {}), key: wire}


def _in_flight_blocks(scheduler: Any, request_id: str) -> set[int]:
    """Steered blocks that this step, and those already under way behind it, compute for a request:
    where it was not steered, or is not finite, what they hold is not what their key says."""
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
    scheduler: Any, request_id: str, first: int = 0, after: Set[int] = frozenset()
) -> set[int]:
    """Blocks that hold a request's tokens, from the `first` on, or of each group from the first on
    that is one of `after`. Without the block that stands for none: many requests have that."""
    groups = scheduler.kv_cache_manager.get_block_ids(request_id)
    null = scheduler.kv_cache_manager.block_pool.null_block.block_id
    found = set[int]()
    for ids in groups:
        begin = next((n for n, one in enumerate(ids) if one in after), len(ids)) if after else first
        found.update(ids[begin:])
    return found - {null}


def _shared(scheduler: Any, blocks: Set[int]) -> set[int]:
    """Those of a request's blocks that others have as well."""
    pool = scheduler.kv_cache_manager.block_pool.blocks
    return {block for block in blocks if pool[block].ref_cnt > 1}


def _append(outputs: dict[int, Any], client_index: int, output: Any) -> None:
    from vllm.v1.engine import EngineCoreOutputs

    outputs.setdefault(client_index, EngineCoreOutputs()).outputs.append(output)
