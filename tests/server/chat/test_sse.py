"""Dynamic streams: each chunk with the part of the trace that is its own, and with no more counts
than were asked for. The chunks are made by vLLM's own generators, out of outputs made here."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import pytest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.outputs import CompletionOutput, RequestOutput

from steersman.server.chat.requests import SteeredChatRequest, SteeredCompletionRequest
from steersman.server.chat.sse import Asked, Part, traced
from steersman.server.chat.trace import Answers, Trace
from steersman.steering.plan import RECEIPTS, Choice, WorkerNote

NOTHING, TOTAL, EACH = Asked(False, False), Asked(True, False), Asked(True, True)


class Step(NamedTuple):
    """What one output of the engine brings for a choice: so many tokens."""

    tokens: int
    choice: int = 0
    ends: bool = False
    text: str = "x"


@pytest.fixture
def trace() -> Iterator[Trace]:
    """The coefficient of token t of choice n is 100 n + t. All notes are there already, as when
    the client is slow."""
    RECEIPTS.open("s")
    for n in range(2):
        choices = tuple(Choice((100.0 * n + t,), (0.5,)) for t in range(20))
        RECEIPTS.deliver(f"{n}_chatcmpl-x-00000000", WorkerNote("s", (0,), -1, (), choices))
    yield Trace("s", ["a"], Answers(n=2))
    RECEIPTS.close("s")


def dynamic(trace: Trace) -> Part:
    return lambda choice, start, stop: {"dynamic": trace.part(choice, start, stop)}


async def outputs(*steps: Step) -> AsyncIterator[RequestOutput]:
    for step in steps:
        made = CompletionOutput(
            index=step.choice, text=step.text, token_ids=[7] * step.tokens, cumulative_logprob=None,
            logprobs=None, finish_reason="stop" if step.ends else None,
        )  # fmt: skip
        yield RequestOutput("x", "p", [1, 2], None, [made], finished=False)


def serving(kind: type, forced: bool) -> Any:
    """One of vLLM's serving classes, with just what its stream needs."""
    made: Any = object.__new__(kind)
    for name in ("parser_cls", "request_logger"):
        setattr(made, name, None)
    for name in (
        "enable_prompt_tokens_details",
        "enable_per_request_metrics",
        "enable_log_outputs",
        "_include_reasoning_tokens_details",
    ):
        setattr(made, name, False)  # fmt: skip
    made.enable_force_include_usage = forced
    made.system_fingerprint = "f1"
    made.response_role = "assistant"
    return made


class Metadata:
    final_usage_info: Any = None


def chat_chunks(request: Any, *steps: Step, forced: bool = False) -> AsyncIterator[str]:
    stream: AsyncIterator[str] = serving(
        OpenAIServingChat, forced
    ).chat_completion_stream_generator(
        request, outputs(*steps), "id", "m", [], object(), Metadata()
    )
    return stream


def chat(**fields: Any) -> SteeredChatRequest:
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, **fields}
    return SteeredChatRequest.model_validate(body)


async def read(stream: AsyncIterator[str]) -> list[Any]:
    """The chunks; what is no JSON as it is."""
    lines = [line async for line in stream]
    return [json.loads(x[6:]) if x.startswith("data: {") else x for x in lines]


def told(chunk: Any) -> list[float]:
    """A chunk without a token of its own says nothing."""
    part = chunk.get("steering", {"dynamic": {"a": {"coefficients": []}}})
    found: list[float] = part["dynamic"]["a"]["coefficients"]
    return found


async def test_each_chunk_has_its_own_tokens(trace: Trace) -> None:
    request = chat()
    assert request.count_tokens(forced=False) == NOTHING
    steps = [Step(1), Step(3), Step(1, text=""), Step(2, ends=True)]
    *chunks, done = await read(traced(chat_chunks(request, *steps), dynamic(trace), NOTHING))
    assert [told(c) for c in chunks] == [[], [0], [1, 2, 3], [4], [5, 6]]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert done == "data: [DONE]\n\n"
    # What adds chunks up, as `.stream()` of openai's Python, keeps what the first one says.
    assert "steering" not in chunks[0]
    parts = [(told(c), c["steering"]["dynamic"]["a"]["divergences"]) for c in chunks[1:]]
    assert all(len(coefficients) == len(divergences) for coefficients, divergences in parts)


async def test_several_choices_each_by_itself(trace: Trace) -> None:
    request = chat(n=2)
    request.count_tokens(forced=False)
    steps = [Step(2, 1), Step(1, 0), Step(1, 0, True), Step(1, 1), Step(2, 1, True)]
    *chunks, _ = await read(traced(chat_chunks(request, *steps), dynamic(trace), NOTHING))
    assert [(c["choices"][0]["index"], told(c)) for c in chunks] == [
        (0, []), (1, []), (1, [100, 101]), (0, [0]), (0, [1]), (1, [102]), (1, [103, 104]),
    ]  # fmt: skip


async def test_completions(trace: Trace) -> None:
    body = {"prompt": "Hello", "stream": True, "n": 2, "max_tokens": 9}
    request = SteeredCompletionRequest.model_validate(body)
    assert request.count_tokens(forced=False) == NOTHING

    async def numbered() -> AsyncIterator[tuple[int, RequestOutput]]:
        async for output in outputs(Step(2, 1), Step(1, 0), Step(1, 1, True), Step(2, 0, True)):
            yield 0, output

    stream = serving(OpenAIServingCompletion, False).completion_stream_generator(
        request, [{}], numbered(), "id", 0, "m", 1, object(), Metadata()
    )
    *chunks, _ = await read(traced(stream, dynamic(trace), NOTHING))
    assert [(c["choices"][0]["index"], told(c)) for c in chunks] == [
        (1, [100, 101]), (0, [0]), (1, [102]), (0, [1, 2]),
    ]  # fmt: skip
    assert not any("usage" in c for c in chunks)


@pytest.mark.parametrize(
    ("options", "forced", "asked"),
    [
        (None, False, NOTHING),
        ({"include_usage": False, "continuous_usage_stats": True}, False, NOTHING),
        ({"include_usage": True}, False, TOTAL),
        ({"include_usage": True, "continuous_usage_stats": True}, False, EACH),
        (None, True, EACH),
    ],
)
async def test_but_for_the_trace_it_is_the_stream_that_was_asked_for(
    trace: Trace, options: Any, forced: bool, asked: Asked
) -> None:
    steps = [Step(1), Step(2), Step(1, ends=True)]
    stock = await read(chat_chunks(chat(stream_options=options), *steps, forced=forced))
    request = chat(stream_options=options)
    assert request.count_tokens(forced=forced) == asked
    chunks = await read(traced(chat_chunks(request, *steps, forced=forced), dynamic(trace), asked))
    parts = [c.pop("steering") for c in chunks if "steering" in c]
    for chunk in (*stock, *chunks):
        if isinstance(chunk, dict):
            del chunk["created"]
    assert chunks == stock
    assert len(parts) == 3
    assert ("usage" in chunks[0]) == asked.each


async def test_one_choice_is_not_held_back_for_another(trace: Trace) -> None:
    request = chat(n=2)
    request.count_tokens(forced=False)

    async def endless() -> AsyncIterator[str]:
        steps = [Step(1, 0), Step(1, 1), Step(1, 0, True)]
        stream = chat_chunks(request, *steps)
        for _ in range(5):
            yield await anext(stream)
        raise AssertionError("the fifth chunk should have come before this one was asked for")

    stream = traced(endless(), dynamic(trace), NOTHING)
    assert [told(json.loads((await anext(stream))[6:])) for _ in range(5)][-1] == [1]


async def test_comments_errors_and_texts_pass(trace: Trace) -> None:
    error = 'data: {"error":{"message":"no","usage":1}}\n\n'
    sent = [": keep-alive\n\n", error, "data: [DONE]\n\n"]

    async def source() -> AsyncIterator[str]:
        for chunk in sent:
            yield chunk

    assert [c async for c in traced(source(), dynamic(trace), NOTHING)] == sent
    request = chat()
    request.count_tokens(forced=False)
    text = 'Ünï "choices":[{"index":9,\n"finish_reason":null'
    stream = traced(chat_chunks(request, Step(1, text=text, ends=True)), dynamic(trace), NOTHING)
    *_, chunk, _ = await read(stream)
    assert chunk["choices"][0]["delta"]["content"] == text


async def test_nothing_is_lost_without_an_end(trace: Trace) -> None:
    request = chat()
    request.count_tokens(forced=False)

    async def cut() -> AsyncIterator[str]:
        stream = chat_chunks(request, Step(1), Step(1, ends=True))
        for _ in range(3):
            yield await anext(stream)

    assert [told(c) for c in await read(traced(cut(), dynamic(trace), NOTHING))] == [[], [0], [1]]
