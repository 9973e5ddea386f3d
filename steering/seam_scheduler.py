"""Seam: vLLM's scheduler (`v1/core/sched/scheduler.py: Scheduler.update_from_output`).

Each steered request's note leaves with its output in `EngineCoreOutput.kv_transfer_params`, the
one free-form field that reaches the front end; requests that could not be steered end in error.
"""

import logging
from typing import Any

from steering.patching import Function, wrap
from steering.plan.plan import PLAN_KEY
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
        failures = _end_failed(self, report.failed) if report.failed else []
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


def _end_failed(scheduler: Any, failed: dict[str, str]) -> list[tuple[int, Any]]:
    """End requests before their unsteered token is seen; the outputs that say so, by client."""
    from vllm.v1.engine import EngineCoreOutput
    from vllm.v1.request import RequestStatus

    for request_id in failed:
        if request_id in scheduler.requests:
            # What the step computed was not steered, but is cached under the steered key already.
            groups = scheduler.kv_cache_manager.get_block_ids(request_id)
            scheduler.kv_cache_manager.evict_blocks({block for ids in groups for block in ids})
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


def _append(outputs: dict[int, Any], client_index: int, output: Any) -> None:
    from vllm.v1.engine import EngineCoreOutputs

    outputs.setdefault(client_index, EngineCoreOutputs()).outputs.append(output)
