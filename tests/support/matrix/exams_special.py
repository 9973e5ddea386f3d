"""Exams of single ways of running. As in `exams.py`, they run where the engine is."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from vllm.exceptions import VLLMValidationError
from vllm.inputs import EmbedsPrompt, TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import StructuredOutputsParams

from steersman.steering.plan import PLAN_KEY, Dynamic, Plan
from steersman.steering.plan.capture import CAPTURE_KEY, Capture
from steersman.steering.plan.inbox import CAPTURES
from steersman.steering.plan.wire.readouts import Readout
from steersman.vectors.tensors import HookPoint
from tests.support.engine.engine import Ask, Engine, parameters
from tests.support.matrix.exams import ask, plain, status
from tests.support.matrix.questions import one as planned
from tests.support.matrix.tiny import LAYERS

LETTERS = "abcd"


def scheduling(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """Whether the engine schedules asynchronously."""
    config = engine.llm.llm_engine.vllm_config.scheduler_config
    return {"async": config.async_scheduling}


def refused(engine: Engine, asks: list[Ask]) -> dict[str, str]:
    """What a dynamic request, a capture and a read are refused for."""
    steered = next(one for one in asks if one.plan)
    assert steered.plan is not None
    read = replace(steered.plan, readouts=_readouts(steered.plan))
    found = {}
    for name, extra in (
        ("dynamic", composition(steered).plan),
        ("captured", Capture("c", (HookPoint("resid_post", 0),), 0, 1)),
        ("read", read),
    ):
        assert extra is not None
        if isinstance(extra, Capture):
            CAPTURES.open(extra)
        params = parameters(replace(steered, plan=None))
        params.extra_args = {CAPTURE_KEY if name == "captured" else PLAN_KEY: extra.to_json()}
        prompt = TokensPrompt(prompt_token_ids=list(steered.prompt))
        try:
            engine.llm.generate(prompt, params, use_tqdm=False)
        except VLLMValidationError as error:
            found[name] = str(error)
        finally:
            CAPTURES.close("c")
    return found


def decided(engine: Engine, asks: list[Ask]) -> list[str]:
    """What the gates of the requests decide, as each worker has it: a digest of all its steps."""
    engine.llm.collective_rpc(_keep_decisions)
    ask(engine, asks)
    found: list[str] = engine.llm.collective_rpc(_kept_decisions)
    return found


def _keep_decisions(worker: Any) -> None:
    gates, kept = worker.steering.tables.gates, hashlib.sha256()
    take = gates.take

    def taken() -> Any:
        kept.update(gates.register.numpy().tobytes())
        return take()

    gates.take, worker.kept_decisions = taken, kept


def _kept_decisions(worker: Any) -> str:
    del worker.steering.tables.gates.take
    return str(worker.kept_decisions.hexdigest())


def offloaded(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """The requests, with the opposite steering, unsteered, and as they were. Before each, vLLM's
    own cache forgets: what comes from a cache comes from elsewhere."""
    opposite = [replace(one, plan=one.plan and _opposite(one.plan)) for one in asks]
    found: dict[str, Any] = {"before": status(engine)}
    rounds = {"mixed": asks, "opposite": opposite, "unsteered": plain(asks), "again": asks}
    for name, asked in rounds.items():
        engine.forget()
        found[name] = ask(engine, asked)
    return {**found, "after": status(engine)}


def _opposite(plan: Plan) -> Plan:
    return Plan(tuple(replace(v, coefficient=-v.coefficient) for v in plan.vectors))


def overflowing(engine: Engine, asks: list[Ask], huge: str) -> dict[str, Any]:
    """How requests end that overflow, and others beside them; twice, with vLLM's own cache
    forgetting between. `huge`: digest of a vector that leaves nothing finite."""
    engine.llm.collective_rpc(_bound_additions, args=(float("inf"),))
    attacks = [
        replace(one, plan=Plan((planned(huge, 1.0, (0, 1), positions),)))
        for one, positions in zip(
            asks[:4], ("all", "prompt", "generation", "after_prompt"), strict=True
        )
    ]
    found = {}
    for name in ("first", "again"):
        engine.forget()
        found[name] = ask(engine, [*attacks, *plain(asks)])
    return found


def _bound_additions(worker: Any, most: float) -> None:
    worker.steering.steered.most_added = most


def structured(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """Answers of twelve letters by a grammar, steered and not; and by a list of allowed tokens."""
    ids = [engine.llm.get_tokenizer().convert_tokens_to_ids(letter) for letter in LETTERS]
    grammar = StructuredOutputsParams(regex="[abcd]{12}")
    options = {"structured_outputs": grammar, "min_tokens": 0, "logprobs": len(ids)}
    return {
        "ids": ids,
        "listed": ask(engine, asks, {"allowed_token_ids": ids, "logprobs": len(ids)}),
        "grammar": ask(engine, asks, options),
        "unsteered": ask(engine, plain(asks), options),
    }


def embeddings(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """The answers to the prompts' tokens, and to the embeddings of these tokens, with an empty
    prefix cache and with a full one; what a dynamic request is refused for."""
    asks = [replace(one, prompt_logprobs=False) for one in asks]
    config = engine.llm.llm_engine.vllm_config.model_config
    weights = load_file(Path(config.model) / "model.safetensors")["model.embed_tokens.weight"]
    prompts = [EmbedsPrompt(prompt_embeds=weights[list(one.prompt)]) for one in asks]
    engine.forget()
    found: dict[str, Any] = {"tokens": ask(engine, asks)}
    engine.forget()
    found |= {name: ask(engine, asks, prompts=prompts) for name in ("first", "again")}
    found["unsteered"] = ask(engine, plain(asks), prompts=prompts)
    steered = next(one for one in asks if one.plan)
    assert steered.plan is not None
    plan = replace(steered.plan, dynamic=Dynamic(1.0, 0.9, mean=True))
    try:
        engine.llm.generate(prompts[:1], parameters(Ask((), plan)), use_tqdm=False)
    except VLLMValidationError as error:
        found["dynamic"] = str(error)
    return found


def asleep(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """Answers after a sleep of each level, with vectors in the bank and blocks in the cache."""
    before = status(engine)
    ask(engine, asks)
    found: dict[str, Any] = {"before": before}
    for level in (1, 2):
        engine.llm.sleep(level=level)
        engine.llm.wake_up()
        found[str(level)] = ask(engine, asks)
    return {**found, "after": status(engine)}


def adapted(engine: Engine, asks: list[Ask], adapter: str) -> dict[str, Any]:
    """Every second request with the adapter; all of them with it; nobody steered."""
    lora = LoRARequest("matrix", 1, adapter)
    every_second = [lora if n % 2 else None for n in range(len(asks))]
    return {
        "before": status(engine),
        "half": ask(engine, asks, lora_request=every_second),
        "half_unsteered": ask(engine, plain(asks), lora_request=every_second),
        "all": ask(engine, asks, lora_request=[lora] * len(asks)),
        "none": ask(engine, asks, lora_request=[None] * len(asks)),
        "after": status(engine),
    }


def lens(
    engine: Engine, asks: list[Ask], rows: list[list[float]], count: int
) -> list[dict[str, Any] | None]:
    """What each worker says of directions of the stream, [n][hidden], through the unembedding."""
    sent = [torch.tensor(row).numpy().tobytes() for row in rows]
    found: list[dict[str, Any] | None] = engine.llm.collective_rpc(
        "steering_lens", args=(sent, count)
    )
    return found


def captured(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """The mean of the stream over each prompt but its first token, [layers][hidden], captured in
    one batch; at how many places one hears something who listens to all; and the usual answers."""
    before = ask(engine, asks)
    engine.llm.collective_rpc("steering_start_norms")
    wanted = [one for one in plain(asks) if len(one.prompt) > 1]
    streams = _streams(engine, wanted, LAYERS, 1)
    (medians,) = engine.llm.collective_rpc("steering_take_norms")
    return {
        "prompts": [list(one.prompt) for one in wanted],
        "streams": streams,
        "places": len(medians),
        "before": before,
        "after": ask(engine, asks),
    }


def reads(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """What each steered request reads along its first vector, and unsteered, in one batch with the
    others; and the usual answers before and after."""
    before = ask(engine, asks)
    steered = [one for one in asks if one.plan]
    asked = [
        replace(one, plan=Plan(vectors, readouts=_readouts(one.plan)))
        for one in steered
        if one.plan
        for vectors in (one.plan.vectors, ())
    ]
    found = engine.noted(*asked, *plain(asks))[: len(asked)]
    return {
        "asks": [[one.prompt, one.plan.to_json(), one.tokens] for one in asked if one.plan],
        "tokens": [answer.tokens for answer, _ in found],
        "reads": [
            [[chunk.readout, chunk.first, chunk.values.hex()] for chunk in notes[0].reads]
            for _, notes in found
        ],
        "before": before,
        "after": ask(engine, asks),
    }


def _readouts(plan: Plan) -> tuple[Readout, ...]:
    digest = plan.vectors[0].digest
    behind = tuple(HookPoint("resid_post", layer) for layer in range(LAYERS))
    return (
        Readout(digest, (HookPoint("attn_out", 1), *behind), "projection", "prompt"),
        Readout(digest, behind, "cosine", "answer"),
    )


def moved(engine: Engine, asks: list[Ask], layers: int) -> list[Any]:
    """How far each request's steering moves the stream behind each block at the prompt's last
    token, [layers][hidden]."""
    last = len(asks[0].prompt) - 1
    steered = torch.tensor(_streams(engine, asks, layers, last))
    found: list[Any] = (
        steered - torch.tensor(_streams(engine, plain(asks), layers, last))
    ).tolist()
    return found


def _streams(engine: Engine, asks: list[Ask], layers: int, first: int) -> list[Any]:
    """Means of the stream over prompt tokens from `first` on, [layers][hidden], one batch."""
    params, captures = [], []
    for n, one in enumerate(asks):
        terms = tuple(HookPoint("resid_post", layer) for layer in range(layers))
        captures.append(Capture(f"c{n}", terms, first, len(one.prompt)))
        CAPTURES.open(captures[-1])
        given = parameters(one)
        given.extra_args = {**(given.extra_args or {}), CAPTURE_KEY: captures[-1].to_json()}
        given.skip_reading_prefix_cache = True
        params.append(given)
    prompts = [TokensPrompt(prompt_token_ids=list(one.prompt)) for one in asks]
    engine.llm.generate(prompts, params, use_tqdm=False)
    found = [CAPTURES.close(capture.receipt) for capture in captures]
    return [None if one is None else one.values.tolist() for one in found]


def is_v2(engine: Engine, _asks: list[Ask]) -> bool:
    """Whether the engine runs vLLM's V2 model runner."""
    return bool(engine.llm.llm_engine.vllm_config.use_v2_model_runner)


def dynamic(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """Answers to the first few steered requests, their vectors composed dynamically, and what was
    found for each token; what every worker has left afterwards."""
    composed = [composition(one) for one in asks if one.plan][:3]
    found = engine.noted(*composed, *plain(asks)[:3])[: len(composed)]
    return {
        "asks": [[one.prompt, one.plan.to_json(), one.tokens] for one in composed if one.plan],
        "tokens": [answer.tokens for answer, _ in found],
        "choices": [notes[0].choices for _, notes in found],
        "after": status(engine),
    }


def composition(ask: Ask) -> Ask:
    """The same request with its vectors as properties."""
    assert ask.plan is not None
    vectors = (replace(v, coefficient=0.5, positions="generation") for v in ask.plan.vectors)
    return replace(ask, plan=Plan(tuple(vectors), "", Dynamic(0.5, 0.95, False)))
