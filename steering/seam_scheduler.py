"""Seam: vLLM's scheduler (`v1/core/sched/scheduler.py: Scheduler.update_from_output`).

Each steered request's note leaves with its output in `EngineCoreOutput.kv_transfer_params`, the
one free-form field that reaches the front end; requests that could not be steered end in error.
"""

import logging
from typing import Any

from steering.patching import Function, wrap
from steering.plan.errors import PlanInvalid
from steering.plan.plan import PLAN_KEY, Plan
from steering.seam_runner_v1 import REPORT_ATTRIBUTE

logger = logging.getLogger("vllm.steersman")


def install() -> None:
    """Wrap `Scheduler.update_from_output`. Idempotent."""
    from vllm.v1.core.sched.scheduler import Scheduler

    wrap(Scheduler, "update_from_output", _with_notes)


def _with_notes(original: Function) -> Function:
    def update_from_output(self: Any, scheduler_output: Any, runner_output: Any) -> Any:
        report = getattr(runner_output, REPORT_ATTRIBUTE, None)
        if report is None:
            return original(self, scheduler_output, runner_output)
        scheduled = scheduler_output.num_scheduled_tokens
        failures = _end_failed(self, scheduled, report.failed) if report.failed else []
        outputs = original(self, scheduler_output, runner_output)
        for client in outputs.values():
            for output in client.outputs:
                note = report.notes.get(output.request_id)
                if note is not None:
                    theirs = output.kv_transfer_params or {}
                    output.kv_transfer_params = {**theirs, PLAN_KEY: note.to_wire()}
        for client_index, output in failures:
            _append(outputs, client_index, output)
        return outputs

    return update_from_output


def _end_failed(
    scheduler: Any, scheduled: dict[str, int], failed: dict[str, str]
) -> list[tuple[int, Any]]:
    """End requests before their unsteered token is seen; the outputs that say so, by client."""
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.request import RequestStatus

    spoiled = set[int]()
    for request_id in failed:
        spoiled |= _computed_now(scheduler, scheduled, request_id)
    # A request of the same step may have found these blocks in the cache already.
    misled = {
        other.request_id: "it shares the prompt of a request that could not be steered"
        for other in scheduler.running
        if other.request_id not in failed and spoiled & _blocks_of(scheduler, other.request_id)
    }
    failed = {**failed, **misled}
    scheduler.kv_cache_manager.evict_blocks(spoiled)
    ended = scheduler.finish_requests(set(failed), RequestStatus.FINISHED_ERROR)
    outputs = []
    for request in ended:
        logger.error(
            "Steering failed for request %s, which is ended: %s",
            request.request_id,
            failed.get(request.request_id),
        )
        output = EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=[],
            finish_reason=request.get_finished_reason(),
            events=request.take_events(),
            trace_headers=request.trace_headers,
        )
        outputs.append((request.client_index, output))
    return outputs


def _computed_now(scheduler: Any, scheduled: dict[str, int], request_id: str) -> set[int]:
    """Steered blocks that this step computed for a request, which could not be steered: what they
    hold is not what their key says."""
    request = scheduler.requests.get(request_id)
    if request is None:
        return set()
    try:
        plan = Plan.of(request.sampling_params.extra_args)
        segments = plan.segments(request.num_prompt_tokens) if plan else ()
    except PlanInvalid:
        segments = ()
    first = segments[0].start if segments else 0
    before = request.num_computed_tokens - scheduled.get(request_id, 0)
    block = max(first, before) // scheduler.block_size
    groups = scheduler.kv_cache_manager.get_block_ids(request_id)
    return {found for ids in groups for found in ids[block:]}


def _blocks_of(scheduler: Any, request_id: str) -> set[int]:
    groups = scheduler.kv_cache_manager.get_block_ids(request_id)
    return {found for ids in groups for found in ids}


def _append(outputs: dict[int, Any], client_index: int, output: Any) -> None:
    from vllm.v1.engine import EngineCoreOutputs

    outputs.setdefault(client_index, EngineCoreOutputs()).outputs.append(output)
