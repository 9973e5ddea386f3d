"""Stage two: vLLM with Steersman steers the model at every site and layer that it offers."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt

from steersman.steering.plan import PLAN_KEY, Plan, PlannedVector
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint
from tests.support.models.family import FIRST_STEERED, NEW_TOKENS, PROMPT, Family


def steer(family: Family, place: Path) -> None:
    """Writes answers.json: `sites` and `layers` of the engine, and for "" (nothing steered), each
    "<site>.<layer>" and "again" (nothing, at the end): its tokens and log-probabilities. The
    vectors go to vectors.pt."""
    llm = start(family, place)
    status = llm.collective_rpc("steering_status")[0]
    sites = [site for site in status["sites"] if site != "resid_mid" or family.mid]
    norms = json.loads((place / "norms.json").read_text())
    vectors = {
        HookPoint(site, layer): vector(10 * layer + n, status["hidden_size"], norms[layer + 1])
        for n, site in enumerate(sites)
        for layer in status["layers"]
    }
    # As plain tuples, which torch reads back without a list of allowed types.
    torch.save({tuple(key): one for key, one in vectors.items()}, place / "vectors.pt")
    steering = SteeringVector(vectors)
    Library(place / "library").add(write_vector(steering), "random")
    plans: list[Plan | None] = [None]
    for term in vectors:
        planned = PlannedVector(steering.digest, 1.0, (term,), (FIRST_STEERED, 99))
        plans.append(Plan((planned,)))
    names = ["", *(f"{site}.{layer}" for site, layer in vectors)]
    answers = dict(zip(names, ask(llm, plans), strict=True))
    answers["again"] = ask(llm, [None])[0]
    found = {"sites": sites, "layers": status["layers"], "answers": answers}
    (place / "answers.json").write_text(json.dumps(found))


def start(family: Family, place: Path) -> LLM:
    options: dict[str, Any] = {
        "block_size": 32,
        "max_model_len": 64,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 512,
        "kv_cache_memory_bytes": 2**26,
        "skip_tokenizer_init": True,
    }
    return LLM(
        str(place / "model"),
        dtype="float32",
        enforce_eager=True,
        seed=0,
        additional_config={"steersman": {"library": str(place / "library")}},
        **(options | family.engine),
    )


def vector(seed: int, hidden: int, norm: float) -> Tensor:
    """A random direction, as long as the stream where it is added."""
    v = torch.randn(hidden, generator=torch.Generator().manual_seed(seed))
    scaled: Tensor = v * (norm / v.norm())
    return scaled


def ask(llm: LLM, plans: list[Plan | None]) -> list[dict[str, Any]]:
    """One request a plan, in one batch. `logprobs[i]` is what was likeliest after token i."""
    parameters = [
        SamplingParams(
            temperature=0,
            max_tokens=NEW_TOKENS,
            min_tokens=NEW_TOKENS,
            ignore_eos=True,
            detokenize=False,
            logprobs=5,
            prompt_logprobs=5,
            extra_args=None if plan is None else {PLAN_KEY: plan.to_json()},
        )
        for plan in plans
    ]
    prompts = [TokensPrompt(prompt_token_ids=list(PROMPT)) for _ in plans]
    answers = []
    for output in llm.generate(prompts, parameters, use_tqdm=False):
        completion = output.outputs[0]
        assert output.prompt_logprobs is not None
        assert completion.logprobs is not None
        positions = [*output.prompt_logprobs[1:], *completion.logprobs]
        answers.append(
            {
                "tokens": [*PROMPT, *completion.token_ids],
                "logprobs": [{t: found.logprob for t, found in p.items()} for p in positions],
            }
        )
    return answers
