"""What is asked of an engine, inside the process that runs it. Each exam returns plain data.

`start.py` names them; they get the engine and the questions, and the options of their own that the
test gave.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vllm import SamplingParams
from vllm.inputs import TokensPrompt

from steersman.steering.plan import RECEIPTS
from tests.support.engine.engine import Ask, Engine, answer, parameters


def ask(
    engine: Engine,
    asks: Sequence[Ask],
    others: dict[str, Any] | None = None,
    prompts: Sequence[Any] | None = None,
    **generate: Any,
) -> list[dict[str, Any]]:
    """Ask all at once. `others` are more sampling parameters, `prompts` replace those of the asks;
    `generate` goes to `LLM.generate`.

    Each answer: tokens, log-probabilities, what came from the cache, the finish reason, and for
    each of its sequences the steered tokens of each vector, and the counts of its gates.
    """
    params: list[SamplingParams] = []
    for n, one in enumerate(asks):
        RECEIPTS.open(f"r{n}")
        named = replace(one, plan=replace(one.plan, receipt=f"r{n}")) if one.plan else one
        given = parameters(named)
        for key, value in (others or {}).items():
            setattr(given, key, value)
        params.append(given)
    prompts = prompts or [TokensPrompt(prompt_token_ids=list(one.prompt)) for one in asks]
    try:
        outputs = engine.llm.generate(prompts, params, use_tqdm=False, **generate)
        notes = [RECEIPTS.read(f"r{n}") for n in range(len(asks))]
    finally:
        for n in range(len(asks)):
            RECEIPTS.close(f"r{n}")
    found = []
    for output, noted in zip(outputs, notes, strict=True):
        a = answer(output)
        found.append(
            {
                "tokens": a.tokens,
                "logprobs": a.logprobs,
                "prompt_logprobs": a.prompt_logprobs,
                "cached": a.cached,
                "reason": a.finish_reason,
                "counted": [list(one.steered_tokens) for one in noted],
                "gates": [list(one.gates) for one in noted],
                "all_tokens": [list(o.token_ids) for o in output.outputs],
                "text": output.outputs[0].text,
            }
        )
    return found


def plain(asks: Sequence[Ask]) -> list[Ask]:
    """The same requests with nobody steered."""
    return [replace(one, plan=None) for one in asks]


def status(engine: Engine) -> list[dict[str, Any]]:
    """What each worker says when the last request has gone: vLLM tells them with the next step."""
    engine.ask(Ask((1,), tokens=1))
    found: list[dict[str, Any]] = engine.llm.collective_rpc("steering_status")
    return found


def load(engine: Engine, asks: Sequence[Ask]) -> None:
    """Have the workers read every vector. While a request waits for one, others go on: in batches
    of another size, in which kernels round otherwise, steered or not."""
    engine.ask(*(replace(one, tokens=1) for one in asks if one.plan is not None))


def standard(engine: Engine, asks: list[Ask], *, last_first: bool = False) -> dict[str, Any]:
    """All requests in one batch, the same with nobody steered, and the steered batch twice again,
    the second time with what the cache has."""
    before = status(engine)
    options: dict[str, Any] = {"priority": list(range(len(asks), 0, -1))} if last_first else {}
    engine.llm.reset_prefix_cache()
    mixed = ask(engine, asks, **options)
    engine.llm.reset_prefix_cache()
    unsteered = ask(engine, plain(asks), **options)
    engine.llm.reset_prefix_cache()
    again = ask(engine, asks, **options)
    once_more = ask(engine, asks, **options)
    return {
        "mixed": mixed,
        "unsteered": unsteered,
        "again": again,
        "once_more": once_more,
        "before": before,
        "after": status(engine),
        "metrics": {
            metric.name: value
            for metric in engine.llm.get_metrics()
            if isinstance(value := getattr(metric, "value", None), int | float)
        },
    }


def prompt_logprobs(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """Log-probabilities of the prompts' own tokens."""
    wanted = [replace(one, prompt_logprobs=True) for one in asks]
    return {"mixed": ask(engine, wanted), "unsteered": ask(engine, plain(wanted))}


def alone(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """Each request by itself."""
    return {"mixed": [ask(engine, [one])[0] for one in asks]}


def several(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """n = 3 sampled answers to each request, and three requests with the seeds of those answers."""
    sampled = {"temperature": 1.0, "seed": 7, "n": 3, "logprobs": None}
    together = ask(engine, asks, sampled)
    single = [ask(engine, asks, {**sampled, "n": 1, "seed": 7 + k}) for k in range(3)]
    return {"together": together, "single": single, "after": status(engine)}
