"""Receipts on streams: nothing is held back but what may be last."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.responses import JSONResponse, StreamingResponse

from steersman.server.chat.receipt import with_receipt

RECEIPT: dict[str, Any] = {"vectors": [], "dynamic": None}


class FakeSession:
    """Stands for a Session, which needs a library and an engine."""

    def __init__(self, steered: bool = True) -> None:
        self.steered = steered
        self.outcomes: list[str] = []
        self.refused: Exception | None = None

    def receipt(self) -> dict[str, Any]:
        return RECEIPT

    def promise(self) -> dict[str, Any]:
        return RECEIPT

    def was_steered(self) -> bool:
        return self.steered

    def refusal(self) -> Exception | None:
        return self.refused

    def close(self, outcome: str) -> None:
        self.outcomes.append(outcome)


def chunk(text: str, finish: str | None = None, index: int = 0) -> str:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


async def relay(chunks: list[str], steered: FakeSession) -> list[str]:
    async def source() -> AsyncIterator[str]:
        for c in chunks:
            yield c

    response = with_receipt(StreamingResponse(source()), steered)  # type: ignore[arg-type]
    assert isinstance(response, StreamingResponse)
    return [str(c) async for c in response.body_iterator]


def text_of(chunk: str) -> str | None:
    """What a choice says in a chunk; the chunk itself where there is none."""
    if not chunk.startswith('data: {"choices"'):
        return chunk
    choices = json.loads(chunk[6:])["choices"]
    return choices[0]["delta"]["content"] if choices else None


def receipts(chunks: list[str]) -> list[bool]:
    return ["steering" in json.loads(c[6:]) for c in chunks if c.startswith("data: {")]


async def test_the_last_chunk_has_it() -> None:
    steered = FakeSession()
    got = await relay([chunk("a"), chunk("b", "stop"), "data: [DONE]\n\n"], steered)
    assert receipts(got) == [False, True]
    assert got[-1] == "data: [DONE]\n\n"
    assert steered.outcomes == ["completed"]


async def test_usage_comes_last_and_choices_end_apart() -> None:
    usage = 'data: {"choices": [], "usage": {}}\n\n'
    sent = [
        chunk("a", "stop"),
        ": keep-alive\n\n",
        chunk("b", None, 1),
        chunk("c", "stop", 1),
        usage,
    ]
    got = await relay([*sent, "data: [DONE]\n\n"], FakeSession())
    # Each chunk in which a choice ends has it too.
    assert receipts(got) == [True, False, True, True]
    assert [text_of(c) for c in got if c.startswith("data: {")] == ["a", "b", "c", None]
    assert got[0] == ": keep-alive\n\n"


async def test_the_delta_has_it_for_those_who_add_deltas_up() -> None:
    got = await relay([chunk("a", "stop"), "data: [DONE]\n\n"], FakeSession())
    assert json.loads(got[0][6:])["choices"][0]["delta"] == {"content": "a", "steering": RECEIPT}


async def test_no_chunk_is_lost_where_another_choice_errs() -> None:
    error = 'data: {"error": {}}\n\n'
    for sent in (
        [chunk("a", "stop"), error, "data: [DONE]\n\n"],
        [chunk("a", None, 1), chunk("b", "stop"), chunk("c", "stop", 1), error],
        [error, chunk("a", "stop"), "data: [DONE]\n\n"],
    ):
        steered = FakeSession()
        got = await relay(sent, steered)
        assert [text_of(c) for c in got] == [text_of(c) for c in sent]
        assert steered.outcomes == ["failed"]


async def test_an_error_in_the_stream_gets_no_receipt() -> None:
    steered = FakeSession()
    sent = ['data: {"error": {}}\n\n', "data: [DONE]\n\n"]
    assert await relay(sent, steered) == sent
    assert steered.outcomes == ["failed"]


async def test_one_choice_is_not_held_back_for_another() -> None:
    sent = [chunk("a"), chunk("b", None, 1), chunk("c", "stop"), chunk("d", None, 1)]

    async def source() -> AsyncIterator[str]:
        for c in sent:
            yield c
        raise AssertionError("the fourth chunk should have come before this one was asked for")

    response = with_receipt(StreamingResponse(source()), FakeSession())  # type: ignore[arg-type]
    assert isinstance(response, StreamingResponse)
    stream = aiter(response.body_iterator)
    assert [text_of(str(await anext(stream))) for _ in sent] == ["a", "b", "c", "d"]


async def test_an_answer_that_nobody_steered_is_withheld() -> None:
    steered = FakeSession(steered=False)
    got = with_receipt(JSONResponse({"id": "x"}), steered)  # type: ignore[arg-type]
    assert got is not None
    assert got.status_code == 500
    assert json.loads(bytes(got.body))["error"]["code"] == "not_steered"
    chunks = await relay([chunk("a", "stop"), "data: [DONE]\n\n"], FakeSession(steered=False))
    assert json.loads(chunks[0][6:])["error"]["code"] == "not_steered"


async def test_nothing_is_lost_without_an_end() -> None:
    steered = FakeSession()
    got = await relay([chunk("a"), chunk("b", "stop")], steered)
    assert [text_of(c) for c in got] == ["a", "b"]
    assert steered.outcomes == ["aborted"]


async def test_the_end_of_a_response_carries_it_inside() -> None:
    delta = 'event: response.output_text.delta\ndata: {"delta": "a"}\n\n'
    end = 'event: response.completed\ndata: {"response": {"id": "r"}}\n\n'
    got = await relay([delta, end], FakeSession())
    assert got[0] == delta
    assert json.loads(got[1].split("\ndata: ")[1])["response"] == {"id": "r", "steering": RECEIPT}


async def test_a_response_that_nobody_steered_ends_in_an_error() -> None:
    steered = FakeSession(steered=False)
    end = 'event: response.completed\ndata: {"response": {"id": "r"}}\n\n'
    (got,) = await relay([end], steered)
    assert got.startswith("event: error\ndata: ")
    assert json.loads(got.partition("\ndata: ")[2])["code"] == "not_steered"
    assert steered.outcomes == ["failed"]


async def test_a_client_that_goes_closes_the_session() -> None:
    steered = FakeSession()

    async def endless() -> AsyncIterator[str]:
        while True:
            yield chunk("a")

    response = with_receipt(StreamingResponse(endless()), steered)  # type: ignore[arg-type]
    assert isinstance(response, StreamingResponse)
    stream: Any = response.body_iterator
    await anext(stream)
    await stream.aclose()
    assert steered.outcomes == ["aborted"]


@pytest.mark.parametrize(("status", "outcome"), [(200, "completed"), (500, "failed")])
def test_a_whole_answer(status: int, outcome: str) -> None:
    steered = FakeSession()
    sent = JSONResponse({"id": "x"}, status_code=status, headers={"X-Trace": "7"})
    got = with_receipt(sent, steered)  # type: ignore[arg-type]
    assert got is not None
    assert got.headers["X-Trace"] == "7"
    assert ("steering" in json.loads(bytes(got.body))) == (status == 200)
    assert int(got.headers["content-length"]) == len(got.body)
    assert steered.outcomes == [outcome]
    assert ("Steering-Receipt" in got.headers) == (status == 200)


def test_a_stream_says_in_a_header_what_is_known_before_it() -> None:
    async def nothing() -> AsyncIterator[str]:
        yield "data: [DONE]\n\n"

    got = with_receipt(StreamingResponse(nothing()), FakeSession())  # type: ignore[arg-type]
    assert got is not None
    assert json.loads(got.headers["Steering-Receipt"]) == RECEIPT
    assert got.headers["Access-Control-Expose-Headers"] == "Steering-Receipt"


def test_a_response_that_is_kept_is_kept_with_it() -> None:
    kept: dict[str, Any] = {}
    with_receipt(JSONResponse({"id": "r"}), FakeSession(), kept.__setitem__)  # type: ignore[arg-type]
    assert kept == {"r": RECEIPT}
