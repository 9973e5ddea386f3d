"""Exams of single ways of running. As in `exams.py`, they run where the engine is."""

from typing import Any

import torch
from vllm.exceptions import VLLMValidationError
from vllm.lora.request import LoRARequest
from vllm.sampling_params import StructuredOutputsParams

from tests.engine.engine import Ask, Engine, parameters
from tests.matrix.exams import ask, plain, status
from tests.matrix.tiny import HIDDEN

LETTERS = "abcd"


def scheduling(engine: Engine, asks: list[Ask]) -> dict[str, Any]:
    """Whether the engine schedules asynchronously."""
    config = engine.llm.llm_engine.vllm_config.scheduler_config
    return {"async": config.async_scheduling}


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
    """A prompt of embeddings instead of tokens: how many tokens an unsteered answer to it has, and
    what a steered one is told."""
    prompt = {"prompt_embeds": torch.randn(9, HIDDEN, generator=torch.Generator().manual_seed(0))}
    steered = next(one for one in asks if one.plan)
    (output,) = engine.llm.generate([prompt], parameters(Ask((), tokens=2)), use_tqdm=False)
    try:
        engine.llm.generate([prompt], parameters(steered), use_tqdm=False)
    except VLLMValidationError as error:
        return {"unsteered": len(output.outputs[0].token_ids), "steered": str(error)}
    return {"unsteered": len(output.outputs[0].token_ids), "steered": "was answered"}


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


def is_v2(engine: Engine, _asks: list[Ask]) -> bool:
    """Whether the engine runs vLLM's V2 model runner."""
    return bool(engine.llm.llm_engine.vllm_config.use_v2_model_runner)
