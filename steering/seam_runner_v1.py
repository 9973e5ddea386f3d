"""Seam: vLLM's V1 model runner (`v1/worker/gpu_model_runner.py`, `cpu_model_runner.py`).

Touched: `_update_states` (requests come and go), `_prepare_inputs` (this step's tokens),
`_model_forward` (the gate is open for it alone), `sample_tokens` (the step's output takes our
report along), `requests`, `input_batch`.
"""

import functools
from typing import Any

from steering.instrument import Gate
from steering.plan.plan import PLAN_KEY
from steering.plan.receipt import StepReport
from steering.requests import SteeredRequests

REPORT_ATTRIBUTE = "steersman"
"""Attribute of ModelRunnerOutput that carries the StepReport to the scheduler's process."""


def attach(runner: Any, steered: SteeredRequests, gate: Gate) -> None:
    """Make `runner` tell `steered` about its requests and steps."""
    update_states = runner._update_states
    prepare_inputs = runner._prepare_inputs
    model_forward = runner._model_forward
    sample_tokens = runner.sample_tokens

    @functools.wraps(update_states)
    def update(scheduler_output: Any) -> Any:
        if steered.live or steered.failed:
            steered.finish(scheduler_output.finished_req_ids)
        result = update_states(scheduler_output)
        for new in scheduler_output.scheduled_new_reqs:
            params = new.sampling_params
            if params is not None and params.extra_args and PLAN_KEY in params.extra_args:
                prompt_tokens = runner.requests[new.req_id].num_prompt_tokens
                steered.start(new.req_id, params.extra_args, prompt_tokens)
        if steered.live:
            steered.settle(runner.input_batch.req_id_to_index)
        return result

    @functools.wraps(prepare_inputs)
    def prepare(scheduler_output: Any, num_scheduled_tokens: Any) -> Any:
        result = prepare_inputs(scheduler_output, num_scheduled_tokens)
        if steered.live or steered.failed or steered.active_slots:
            batch = runner.input_batch
            offsets = runner.query_start_loc.np
            spans = []
            for request_id in steered.live:
                row = batch.req_id_to_index.get(request_id)
                if row is not None:
                    spans.append(
                        (
                            request_id,
                            int(offsets[row]),
                            int(num_scheduled_tokens[row]),
                            int(batch.num_computed_tokens_cpu[row]),
                        )
                    )
            steered.step(spans, scheduler_output.total_num_scheduled_tokens)
            gate.set(steered.active_slots)
        return result

    @functools.wraps(model_forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            return model_forward(*args, **kwargs)
        finally:
            # Dummy batches of data parallelism run between steps and must find the gate shut.
            gate.set(frozenset())

    @functools.wraps(sample_tokens)
    def sample(grammar_output: Any) -> Any:
        output = sample_tokens(grammar_output)
        report = steered.take_report()
        if report is not None and output is not None:
            attach_report(output, report)
        return output

    runner._update_states = update
    runner._prepare_inputs = prepare
    runner._model_forward = forward
    runner.sample_tokens = sample


def attach_report(output: Any, report: StepReport) -> None:
    """Put `report` on a ModelRunnerOutput, or on the one inside an asynchronous output."""
    target = getattr(output, "_model_runner_output", output)
    setattr(target, REPORT_ATTRIBUTE, report)
