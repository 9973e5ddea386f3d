"""Seam: vLLM's V1 model runner (`v1/worker/gpu_model_runner.py`, `cpu_model_runner.py`).

Wrapped: `_update_states` (requests come and go), `_prepare_inputs` (tokens of the step are marked),
`_model_forward` (slots are active only in it), `sample_tokens` (hidden states and logits are
checked; our report is put on its output), and, in `dummy_run.py`, `_dummy_run`. Read: `requests`,
`input_batch`, `query_start_loc`, `input_ids`, `positions`, `sampler`.

Both methods that prepare a step run inside `synchronize_input_prep`, on the stream of the forward
pass.
"""

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steersman.steering.plan.dynamic import LastToken
from steersman.steering.vllm.worker import cache_blocks, dummy_run
from steersman.steering.vllm.worker.model import run_without_graphs
from steersman.steering.worker.batch import CLEAN_ATTRIBUTE, TOKENS_ATTRIBUTE, Attached, Span, Steps
from steersman.steering.worker.composition import Guess
from steersman.steering.worker.gating.uses import StepTokens

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllm.v1.core.sched.output import CachedRequestData, GrammarOutput, SchedulerOutput

HOLDER = "_model_runner_output"
"""Attribute of an asynchronous output that has the ModelRunnerOutput."""


def attach(runner: Any, steps: Steps) -> Attached:
    """Wrap the methods of `runner` so that they call those of `steps`."""
    update_states = runner._update_states
    prepare_inputs = runner._prepare_inputs
    model_forward = runner._model_forward
    sample_tokens = runner.sample_tokens
    guess = _guessing(runner)

    @functools.wraps(update_states)
    def update(scheduler_output: "SchedulerOutput") -> Any:
        if blocks := getattr(scheduler_output, CLEAN_ATTRIBUTE, None):
            cache_blocks.clean(runner, blocks)
        steps.finish_requests(scheduler_output.finished_req_ids)
        if steps.companions:
            _give_tokens(runner, steps, scheduler_output.scheduled_cached_reqs)
        result = update_states(scheduler_output)
        for new in scheduler_output.scheduled_new_reqs:
            if new.sampling_params is not None:
                prompt_tokens = runner.requests[new.req_id].num_prompt_tokens
                extra_args, ids = new.sampling_params.extra_args, new.prompt_token_ids
                steps.add_request(new.req_id, extra_args, prompt_tokens, ids)
        steps.sync_batch(runner.input_batch.req_id_to_index)
        if steps.companions:
            tokens = getattr(scheduler_output, TOKENS_ATTRIBUTE, {})
            _write_tokens(runner, steps.compose(tokens, guess))
        return result

    @functools.wraps(prepare_inputs)
    def prepare(scheduler_output: "SchedulerOutput", num_scheduled_tokens: Any) -> Any:
        result = prepare_inputs(scheduler_output, num_scheduled_tokens)
        if not steps.idle:
            spans = _spans(runner, steps, num_scheduled_tokens)
            inputs = StepTokens(runner.input_ids.gpu, runner.positions)
            steps.begin_step(spans, scheduler_output.total_num_scheduled_tokens, inputs)
        return result

    @functools.wraps(model_forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            if steps.has_listeners:
                run_without_graphs()
            return model_forward(*args, **kwargs)
        finally:
            steps.end_forward()

    @functools.wraps(sample_tokens)
    def sample(grammar_output: "GrammarOutput | None") -> Any:
        state = runner.execute_model_state
        if state is not None:
            index_of = runner.input_batch.req_id_to_index
            # Drafts have logits of their own; then a request has several rows.
            drafts = state.spec_decode_metadata
            steps.check_finite(
                state.hidden_states, index_of, state.logits if drafts is None else None
            )
            if steps.companions:
                steps.record_logits(state.logits, _rows(runner, steps, drafts))
        output = sample_tokens(grammar_output)
        if state is not None:  # A stage that is not the last returns an output that others share.
            steps.attach_report(output, HOLDER)
        return output

    runner._update_states = update
    runner._prepare_inputs = prepare
    runner._model_forward = forward
    runner.sample_tokens = sample
    # Attention has no metadata in such a run, and mixes nothing.
    return Attached(runner.positions, dummy_run.attach(runner, steps), runner.max_num_tokens)


def _give_tokens(runner: Any, steps: Steps, cached: "CachedRequestData") -> None:
    """Give companions their answer's tokens in place of those that were sampled for them. This is
    for companions that were not in the previous step: the scheduler sends all their tokens."""
    for request_id in cached.req_ids:
        tokens = cached.all_token_ids.get(request_id)
        if tokens is not None and request_id in steps.companions:
            state = runner.requests[request_id]
            state.output_token_ids = tokens[state.num_prompt_tokens :]


def _write_tokens(runner: Any, tokens: "Mapping[str, LastToken]") -> None:
    """Overwrite the token that was sampled for each companion with the one that it must compute."""
    batch = runner.input_batch
    for request_id, (position, token) in tokens.items():
        state, index = runner.requests[request_id], batch.req_id_to_index[request_id]
        output = position - state.num_prompt_tokens
        # It has the tokens of its prompt, and those that it computes again after a preemption.
        if output >= 0 and len(state.output_token_ids) <= output + 1:
            state.output_token_ids[output:] = [token]
            batch.token_ids_cpu[index, position] = token
            batch.is_token_ids[index, position] = True
            batch.num_tokens_no_spec[index] = position + 1


def _rows(runner: Any, steps: Steps, drafts: Any) -> dict[str, int]:
    """The row of each companion in a step's logits. `drafts`: vLLM's SpecDecodeMetadata, if any
    request of the step has drafts; a request then has a row for each, and its own comes last."""
    index_of = runner.input_batch.req_id_to_index
    found = {name: index_of[name] for name in steps.companions if name in index_of}
    if drafts is None:
        return found
    last = drafts.bonus_logits_indices.tolist()
    return {name: last[index] for name, index in found.items()}


def _spans(runner: Any, steps: Steps, num_scheduled_tokens: Any) -> list[Span]:
    batch = runner.input_batch
    offsets = runner.query_start_loc.np
    spans = []
    for request_id in steps.tracked_request_ids:
        index = batch.req_id_to_index.get(request_id)
        if index is not None:
            count, first = num_scheduled_tokens[index], batch.num_computed_tokens_cpu[index]
            spans.append(Span(request_id, int(offsets[index]), int(count), int(first)))
    return spans


def _guessing(runner: Any) -> Guess:
    """Guesses at a dynamic answer's next token: the one that vLLM's sampler would take, with the
    noise that the answer is about to draw, so that a guess misses only where its logits do.

    The noise is known for requests with a seed: each has a generator. For others, and for greedy
    ones, the guess is the likeliest token. No state changes: the answer is sampled as if no guess
    had been made. Penalties, logit bias, grammars and min-p are left out; they can make it miss.
    """

    def guess(answer: str, _last: LastToken, logits: Tensor) -> int:
        batch = runner.input_batch
        index = batch.req_id_to_index[answer]
        generator = batch.generators.get(index)
        if generator is None or answer in batch.greedy_reqs:
            return int(logits.argmax())
        twin = torch.Generator(device=generator.device)
        twin.set_state(generator.get_state())
        top_k = batch.top_k_cpu_tensor[index : index + 1].to(logits.device)
        top_p = batch.top_p_cpu_tensor[index : index + 1].to(logits.device)
        sampled, _ = runner.sampler.topk_topp_sampler(
            (logits / float(batch.temperature_cpu[index]))[None],
            {0: twin},
            top_k if answer in batch.top_k_reqs else None,
            top_p if answer in batch.top_p_reqs else None,
        )
        return int(sampled[0])

    return guess
