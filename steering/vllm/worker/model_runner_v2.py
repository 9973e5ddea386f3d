"""Seam: vLLM's V2 model runner (`v1/worker/gpu/model_runner.py`, `v1/worker/cpu/model_runner.py`).

Its extension point is `model_states/interface.py: ModelState`. Used of it: `add_request` (requests
come) and `preprocess_state` (tokens of the step are marked: this is the last call on a real batch
before the forward pass, which a full CUDA graph may replay). Wrapped on the runner itself:
`finish_requests` (because `ModelState.remove_request` is called for ended and preempted requests
alike), `sample_tokens` (our report is put on its output), `update_requests` (tokens of companions),
`sample` (logits of companions; hidden states are checked), `execute_model`, and, in `dummy_run.py`,
`_dummy_run`. Read: `req_states`, `input_buffers`, `is_last_pp_rank`, `sampler`.

The runner chooses a step's graph before it has prepared the step. One that may be listened to is
therefore given to `execute_model` as a profile run, which on a real batch means one thing: it is
dispatched without a CUDA graph, on all data parallel ranks. The compiled model is passed over when
the forward pass begins.
"""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steersman.steering.plan.dynamic import LastToken
from steersman.steering.vllm.worker import cache_blocks, dummy_run
from steersman.steering.vllm.worker.model import run_without_graphs
from steersman.steering.worker.batch import CLEAN_ATTRIBUTE, TOKENS_ATTRIBUTE, Attached, Span, Steps
from steersman.steering.worker.composition import Guess
from steersman.steering.worker.gating.uses import StepTokens

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import GrammarOutput, NewRequestData, SchedulerOutput

HOLDER = "model_runner_output"
"""Attribute of an asynchronous output that has the ModelRunnerOutput."""


def attach(runner: Any, steps: Steps) -> Attached:
    """Wrap the methods of `runner` so that they call those of `steps`."""
    state = runner.model_state
    add_request = state.add_request
    preprocess_state = state.preprocess_state
    finish_requests = runner.finish_requests
    update_requests = runner.update_requests
    sample_rows = runner.sample
    sample_tokens = runner.sample_tokens
    execute_model = runner.execute_model
    compute_logits = runner.model.compute_logits
    passed_on: list[Any] = []
    """What the last dummy run passes to the next stage of a pipeline."""
    guess = _guessing(runner)
    unseen: list[tuple[Any, dict[str, int]]] = []
    """Hidden states of the step whose logits are computed next, and the index of each request. The
    runner does not return the logits that it samples from, and its sampler overwrites them."""

    @functools.wraps(execute_model)
    def execute(scheduler_output: "SchedulerOutput", *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("dummy_run"):
            new = [one.sampling_params for one in scheduler_output.scheduled_new_reqs]
            arriving = [one.extra_args for one in new if one is not None]
            if steps.may_listen(scheduler_output.num_scheduled_tokens, arriving):
                kwargs["is_profile"] = True
        output = execute_model(scheduler_output, *args, **kwargs)
        passed_on[:] = [output] if kwargs.get("dummy_run") else []
        return output

    def begin_forward(_model: Any, _args: Any) -> None:
        if steps.has_listeners:
            run_without_graphs()

    @functools.wraps(finish_requests)
    def finish(scheduler_output: "SchedulerOutput") -> None:
        if blocks := getattr(scheduler_output, CLEAN_ATTRIBUTE, None):
            cache_blocks.clean(runner, blocks)
        steps.finish_requests(scheduler_output.finished_req_ids)
        finish_requests(scheduler_output)

    @functools.wraps(add_request)
    def add(req_index: int, new: "NewRequestData") -> None:
        add_request(req_index, new)
        if new.sampling_params is not None:
            extra_args, ids = new.sampling_params.extra_args, new.prompt_token_ids
            steps.add_request(new.req_id, extra_args, new.prompt_len, ids)

    @functools.wraps(preprocess_state)
    def preprocess(input_batch: Any, *args: Any, **kwargs: Any) -> None:
        preprocess_state(input_batch, *args, **kwargs)
        if not steps.idle:
            steps.sync_batch(runner.req_states.req_id_to_index)
            inputs = StepTokens(input_batch.input_ids, input_batch.positions)
            steps.begin_step(_spans(input_batch, steps), input_batch.num_tokens, inputs)

    @functools.wraps(update_requests)
    def update(scheduler_output: "SchedulerOutput") -> None:
        update_requests(scheduler_output)
        if steps.companions:
            steps.sync_batch(runner.req_states.req_id_to_index)
            tokens = steps.compose(getattr(scheduler_output, TOKENS_ATTRIBUTE, {}), guess)
            _write_tokens(runner.req_states, tokens)

    @functools.wraps(sample_rows)
    def sample_with(
        hidden_states: Any, input_batch: Any, grammar_output: "GrammarOutput | None"
    ) -> Any:
        if steps.companions:
            _record_logits(runner, steps, hidden_states, input_batch)
        unseen[:] = [(hidden_states, {name: n for n, name in enumerate(input_batch.req_ids)})]
        try:
            return sample_rows(hidden_states, input_batch, grammar_output)
        finally:
            if unseen:  # Ranks that divide the requests among them compute logits another way.
                steps.check_finite(*unseen.pop(), None)

    @functools.wraps(compute_logits)
    def compute(*args: Any, **kwargs: Any) -> Any:
        logits = compute_logits(*args, **kwargs)
        if unseen and logits is not None:
            hidden, index_of = unseen.pop()
            # Drafts have logits of their own; then a request has several rows.
            steps.check_finite(hidden, index_of, logits if len(logits) == len(index_of) else None)
        return logits

    @functools.wraps(sample_tokens)
    def sample(grammar_output: "GrammarOutput | None") -> Any:
        steps.end_forward()
        output = sample_tokens(grammar_output)
        if runner.is_last_pp_rank:  # A stage that is not returns an output that others share.
            steps.attach_report(output, HOLDER)
        return output

    state.add_request = add
    state.preprocess_state = preprocess
    runner.execute_model = execute
    runner.model.register_forward_pre_hook(begin_forward)
    runner.finish_requests = finish
    runner.update_requests = update
    runner.sample = sample_with
    runner.model.compute_logits = compute
    runner.sample_tokens = sample
    # Attention does run here. Up to this many tokens, each is a request of its own.
    return Attached(
        runner.input_buffers.positions,
        dummy_run.attach(runner, steps, passed_on),
        runner.max_num_reqs,
    )


def _write_tokens(states: Any, tokens: "Mapping[str, LastToken]") -> None:
    """Overwrite the token that was sampled for each companion with the one that it must compute.
    The state on the device of a companion that computed a wrong draft is set back by one token."""
    for request_id, (position, token) in tokens.items():
        index = states.req_id_to_index[request_id]
        if position >= states.prefill_len.np[index]:
            states.last_sampled_tokens[index] = token
            states.num_computed_tokens.gpu[index] = position
            states.total_len.gpu[index] = position + 1


def _record_logits(runner: Any, steps: Steps, hidden_states: Any, batch: Any) -> None:
    """Compute the logits of the step's companions once more, because the runner does not return
    those that it samples from."""
    index_of = {name: n for n, name in enumerate(batch.req_ids) if name in steps.companions}
    if index_of:
        # The last row of each: a request with drafts has several.
        rows = batch.cu_num_logits_np[[index + 1 for index in index_of.values()]] - 1
        chosen = batch.logits_indices[rows.tolist()]
        logits = runner.model.compute_logits(hidden_states[chosen])
        steps.record_logits(logits, {name: n for n, name in enumerate(index_of)})


def _spans(batch: Any, steps: Steps) -> list[Span]:
    tracked = steps.tracked_request_ids
    return [
        Span(
            request_id,
            int(batch.query_start_loc_np[index]),
            int(batch.num_scheduled_tokens[index]),
            int(batch.num_computed_tokens_np[index]),
        )
        for index, request_id in enumerate(batch.req_ids)
        if request_id in tracked
    ]


def _guessing(runner: Any) -> Guess:
    """Guesses at a dynamic answer's next token, as in `model_runner_v1`. Here the noise is a
    function of a request's seed, the position and the token, and vLLM draws a seed for requests
    that have none. Penalties, logit bias and grammars are left out."""
    from vllm.v1.worker.gpu.sample.gumbel import gumbel_sample

    def guess(answer: str, last: LastToken, logits: Tensor) -> int:
        sampler = runner.sampler
        states = sampler.sampling_states
        index = np.array([runner.req_states.req_id_to_index[answer]], dtype=np.int32)
        # A fused kernel draws from the device's generator.
        fused = (sampler.use_flashinfer or sampler.use_xpu_sampler) and not (
            states.any_explicit_seed(index)
        )
        if fused or states.any_greedy(index):
            return int(logits.argmax())
        row = logits[None]
        mapping = torch.from_numpy(index).to(logits.device)
        states.apply_temperature(row, mapping, index)
        states.apply_min_p(row, mapping, index)
        row = states.apply_top_k_top_p(row, mapping, index)
        sampled = gumbel_sample(
            row,
            mapping,
            states.temperature.gpu,
            states.seeds.gpu,
            torch.tensor([last.position], device=logits.device),
            apply_temperature=False,
            is_drafting=False,
            use_fp64=sampler.use_fp64_gumbel,
        )
        return int(sampled[0])

    return guess
