"""From the field to the answer, with a handler in the place of vLLM's."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from vllm.entrypoints.serve.utils.api_utils import with_cancellation

from steersman.server.auth.permissions import OPEN
from steersman.server.chat import routes
from steersman.server.chat.requests import SteeredChatRequest
from steersman.server.chat.routes import _kept, _steered
from steersman.server.middleware.refuse_ignored import FROM_HEADER
from steersman.server.presets.view import PresetView
from steersman.steering.plan import PLAN_KEY, RECEIPTS, Choice, Plan, PlanInvalid, WorkerNote
from tests.support.server.make import steersman

DYNAMIC = {"vectors": [{"id": "plain"}], "dynamic": {}}


async def forever() -> Any:
    await asyncio.Event().wait()


@pytest.fixture
def door(tmp_path: Path) -> Any:
    """A request's surroundings, of a client that stays."""
    args = SimpleNamespace(enable_force_include_usage=False)
    models = SimpleNamespace(base_model_paths=[SimpleNamespace(name="m")], lora_requests={})
    models.model_name = lambda _adapter=None: "m"
    state = SimpleNamespace(steersman=steersman(tmp_path), args=args, openai_serving_models=models)
    return Request({"type": "http", "path": "/v1/x", "app": SimpleNamespace(state=state)}, forever)


def presets_of(door: Any) -> PresetView:
    """What the route gets of FastAPI."""
    view: PresetView = door.app.state.steersman.presets_for(OPEN)
    return view


def request(steering: Any, **fields: Any) -> SteeredChatRequest:
    body = {"messages": [{"role": "user", "content": "Hello"}], "steering": steering, **fields}
    return SteeredChatRequest.model_validate(body)


def steer(asked: SteeredChatRequest, token: int) -> None:
    """What the engine does for one token of a request."""
    plan = Plan.of(asked.to_sampling_params(9, {}).extra_args)
    assert plan is not None
    choices = (Choice((float(token),), (0.5,)),) if plan.dynamic else ()
    RECEIPTS.deliver("x", WorkerNote(plan.receipt, (token + 1,), -1, (), choices))


def chunk(asked: SteeredChatRequest, tokens: int, finish: str | None = None) -> str:
    data: dict[str, Any] = {
        "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": finish}]
    }
    if asked.stream_options is not None and asked.stream_options.continuous_usage_stats:
        data["usage"] = {"prompt_tokens": 3, "completion_tokens": tokens}
    return f"data: {json.dumps(data, separators=(',', ':'))}\n\n"


async def streaming(asked: SteeredChatRequest, _door: Any) -> Response:
    async def chunks() -> AsyncIterator[str]:
        yield chunk(asked, 0)
        for token in range(3):
            steer(asked, token)
            yield chunk(asked, token + 1, "stop" if token == 2 else None)
        if asked.stream_options is not None:
            yield 'data: {"choices":[],"usage":{"completion_tokens":3}}\n\n'
        yield "data: [DONE]\n\n"

    return StreamingResponse(chunks())


async def answered(asked: SteeredChatRequest, door: Any) -> list[Any]:
    response = await _steered(asked, door, presets_of(door), streaming)
    assert isinstance(response, StreamingResponse)
    lines = [str(line) async for line in response.body_iterator]
    assert lines.pop() == "data: [DONE]\n\n"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def parts(chunks: list[Any]) -> list[Any]:
    said = [c["steering"]["dynamic"]["plain"] if "steering" in c else None for c in chunks]
    return [part and part["coefficients"] for part in said]


async def test_a_dynamic_stream(door: Any) -> None:
    chunks = await answered(request(DYNAMIC, stream=True), door)
    # The last has the receipt of the whole answer.
    assert parts(chunks) == [None, [0.0], [1.0], [0.0, 1.0, 2.0]]
    assert ["vectors" in c.get("steering", {}) for c in chunks] == [False, False, False, True]
    assert chunks[-1]["steering"]["vectors"][0]["steered_tokens"] == 3
    assert not any("usage" in c for c in chunks)
    assert REGISTRY.get_sample_value("steering_companion_streams") == 0


async def test_a_dynamic_stream_with_the_counts_that_were_asked_for(door: Any) -> None:
    options = {"include_usage": True}
    chunks = await answered(request(DYNAMIC, stream=True, stream_options=options), door)
    assert ["usage" in c for c in chunks] == [False] * 4 + [True]
    whole = [0.0, 1.0, 2.0]
    assert parts(chunks) == [None, [0.0], [1.0], whole, whole]


async def test_a_static_stream_is_as_ever(door: Any) -> None:
    asked = request({"vectors": {"plain": 1.0}}, stream=True)
    chunks = await answered(asked, door)
    assert asked.stream_options is None
    assert ["steering" in c for c in chunks] == [False, False, False, True]
    assert chunks[-1]["steering"]["dynamic"] is None
    for one in chunks:
        one.pop("steering", None)
        one["choices"][0]["delta"].pop("steering", None)
    assert chunks == [json.loads(chunk(asked, 0, f)[6:]) for f in (None, None, None, "stop")]


async def test_companions_are_in_flight_while_it_runs(door: Any) -> None:
    async def handler(asked: SteeredChatRequest, _door: Any) -> Response:
        assert REGISTRY.get_sample_value("steering_companion_streams") == 2 * 3
        assert PLAN_KEY in (asked.to_sampling_params(9, {}).extra_args or {})
        steer(asked, 0)
        return JSONResponse({"id": "x"})

    response = await _steered(request(DYNAMIC, n=3), door, presets_of(door), handler)
    assert response is not None
    assert len(json.loads(bytes(response.body))["steering"]["dynamic"]) == 3
    assert REGISTRY.get_sample_value("steering_companion_streams") == 0


async def test_companions_go_with_a_request_that_fails(door: Any) -> None:
    async def handler(_asked: Any, _door: Any) -> Response:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        await _steered(request(DYNAMIC), door, presets_of(door), handler)
    assert REGISTRY.get_sample_value("steering_companion_streams") == 0


def outcomes() -> dict[str, float]:
    return {
        outcome: REGISTRY.get_sample_value(
            "steering_requests_total", {"outcome": outcome, "source": "request"}
        )
        or 0
        for outcome in ("completed", "failed", "aborted")
    }


@pytest.mark.parametrize("left", [None, Response()], ids=["until vLLM 0.32", "from vLLM 0.33 on"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_is_no_failure(
    door: Any, monkeypatch: pytest.MonkeyPatch, left: Any, stream: bool
) -> None:
    """Before the answer is there, or before it has begun; whatever vLLM's decorator returns then,
    here the installed one's and, in its place, each version's."""
    leaves = asyncio.Event()

    async def receive() -> Any:
        await leaves.wait()
        return {"type": "http.disconnect"}

    def decorated(work: Any) -> Any:
        async def run(asked: Any, raw_request: Any) -> Any:
            found = await with_cancellation(work)(asked, raw_request)
            return found if isinstance(found, StreamingResponse) else left

        return run

    async def chunks() -> AsyncIterator[str]:
        leaves.set()
        await forever()
        yield ""

    async def handler(_asked: Any, _door: Any) -> Response:
        if stream:
            return StreamingResponse(chunks())
        leaves.set()
        await forever()
        return JSONResponse({})

    monkeypatch.setattr(routes, "_look", decorated(routes._look.__wrapped__))
    client = Request(door.scope, receive)
    before = outcomes()
    asked = request({"vectors": {"plain": 1.0}}, stream=stream)
    answer = await _steered(asked, client, presets_of(door), decorated(handler))
    assert isinstance(answer, Response)
    assert (answer.status_code, bytes(answer.body)) == (200, b"")
    assert outcomes() == {**before, "aborted": before["aborted"] + 1}


async def test_an_empty_answer_to_a_client_that_stays_is_a_failure(door: Any) -> None:
    async def handler(_asked: Any, _door: Any) -> Response:
        return Response()

    before = outcomes()
    asked = request({"vectors": {"plain": 1.0}})
    answer = await _steered(asked, door, presets_of(door), handler)
    assert answer is not None
    assert answer.status_code == 500
    assert outcomes() == {**before, "failed": before["failed"] + 1}


async def test_a_stored_response_keeps_its_receipt(door: Any) -> None:
    stored = SimpleNamespace()
    door.app.state.openai_serving_responses = SimpleNamespace(response_store={"r": stored})
    keep = _kept(door)
    keep("r", {"vectors": []})
    keep("gone", {"vectors": []})
    assert stored.steering == {"vectors": []}


async def test_an_error_of_the_front_end_keeps_its_code(door: Any) -> None:
    async def handler(asked: SteeredChatRequest, _door: Any) -> Response:
        plan = Plan.of(asked.to_sampling_params(9, {}).extra_args)
        assert plan is not None
        RECEIPTS.reject(plan.receipt, PlanInvalid("no", param="steering.vectors", code="too_many"))
        said = 'data: {"error":{"message":"no","param":"steering.vectors","code":400}}\n\n'

        async def chunks() -> AsyncIterator[str]:
            yield said

        return StreamingResponse(chunks()) if asked.stream else JSONResponse({}, 400)

    for stream in (False, True):
        with pytest.raises(PlanInvalid) as refused:
            await _steered(
                request({"vectors": {"plain": 1.0}}, stream=stream),
                door,
                presets_of(door),
                handler,
            )
        assert refused.value.code == "too_many"


async def test_an_unknown_vector_names_the_key_or_the_header(door: Any) -> None:
    for from_header, param in ((False, "steering.vectors[0].id"), (True, "X-Steering")):
        door.scope[FROM_HEADER] = from_header
        with pytest.raises(PlanInvalid) as refused:
            await _steered(request({"vectors": {"nobody": 1.0}}), door, presets_of(door), streaming)
        assert (refused.value.param, refused.value.code) == (param, "vector_not_found")
