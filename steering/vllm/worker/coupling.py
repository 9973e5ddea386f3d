"""Drafts of sampled answers, with the noise that the answer itself is about to draw.

A dynamic answer's companions run ahead on a guess of its next token. Where the sampler draws noise
that is known in advance, the guess takes the same noise, so that it misses only where the guessed
logits do. Where it is not known, and for greedy answers, the guess is the likeliest token.

Nothing here changes a state: vLLM samples the answer as if no guess had been made. Penalties, logit
bias, grammars and, on V1, min-p are left out; they can make a guess miss.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from steersman.steering.plan.dynamic import LastToken
from steersman.steering.worker.composition import Guess


def v1(runner: Any) -> Guess:
    """For V1, whose noise is known for requests with a seed: each has a generator."""

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


def v2(runner: Any) -> Guess:
    """For V2, whose noise is a function of a request's seed, the position and the token; vLLM draws
    a seed for requests that have none."""
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
