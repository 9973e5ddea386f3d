"""`vllm run-batch` with the plugin on: a line that means to be steered, other than by the field of
a chat, is an error. How the field steers: `tests/http/test_run_batch.py`."""

import inspect
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.launchers import run_batch

from steersman.server.run_batch import BatchLines
from steersman.steering.vllm import run_batch as run_batch_seam

# From vLLM 0.33 on a line is all that `run_request` takes.
_TAKES = inspect.signature(run_batch.run_request).parameters
REST: Any = (run_batch.BatchProgressTracker(),) if "tracker" in _TAKES else ()
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def line(**fields: Any) -> Any:
    made = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    return run_batch.BatchRequestInput.model_validate({**made, "body": {**BODY, **fields}})


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name in ("run_request", "build_endpoint_registry", "ChatCompletionRequest"):
        monkeypatch.setattr(run_batch, name, getattr(run_batch, name))
    run_batch_seam.install()
    run_batch_seam.install()
    return run_batch


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"steering": {"vectors": {"a": 1}}}, "body.steering"),
        ({"steer": 1}, "body.steer"),
        ({"extra_body": {"steering": 1}}, "body.extra_body.steering"),
        ({"vllm_xargs": {"steering": "a"}}, "body.vllm_xargs.steering"),
        ({"metadata": {"steering": "a"}}, "body.metadata.steering"),
    ],
)
async def test_a_line_that_means_it_is_an_error(
    wrapped: ModuleType, fields: dict[str, Any], param: str
) -> None:
    async def serve(_body: Any) -> Any:
        raise AssertionError("it is not to be served")

    said = await wrapped.run_request(serve, line(**fields), *REST)
    assert said.response.status_code == 400
    assert said.error.error.param == param
    assert "the field `steering`" in said.error.error.message


async def test_other_lines_are_served(wrapped: ModuleType) -> None:
    served = []

    async def serve(body: Any) -> Any:
        served.append(body)
        raise ValueError("no engine here")

    for fields in ({}, {"steering": None}, {"metadata": {"topic": "steering"}}):
        await wrapped.run_request(serve, line(**fields), *REST)
    assert len(served) == 3


async def test_the_field_is_not_for_lines_that_are_no_chats(wrapped: ModuleType) -> None:
    async def serve(_body: Any) -> Any:
        raise AssertionError("it is not to be served")

    body = {"model": "m", "input": "Hi", "steering": {"vectors": {"a": 1}}}
    made = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": body}
    request = run_batch.BatchRequestInput.model_validate(made)
    said = await wrapped.run_request(serve, request, *REST)
    assert said.error.error.param == "body.steering"


async def test_the_field_goes_to_what_steers(
    wrapped: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the registry is built, which opens nothing yet."""

    async def built(*_: Any) -> dict[str, Any]:
        return {}

    seen = []

    async def answer(_lines: BatchLines, serve: Any, body: Any) -> Any:
        seen.append(body.steering)
        return await serve(body)

    monkeypatch.setattr(BatchLines, "answer", answer)

    async def serve(_body: Any) -> Any:
        raise ValueError("no engine here")

    # A new pair of wrappers, as the command has.
    monkeypatch.setattr(run_batch, "run_request", wrapped.run_request.__wrapped__)
    monkeypatch.setattr(run_batch, "build_endpoint_registry", built)
    run_batch_seam.install()
    engine: Any = SimpleNamespace(vllm_config=SimpleNamespace(additional_config={}))
    await run_batch.build_endpoint_registry(engine, None)  # type: ignore[arg-type]
    for fields in ({}, {"steering": None}, {"steering": {"vectors": {"a": 1}}}, {"model": "m:a"}):
        await run_batch.run_request(serve, line(**fields), *REST)
    assert seen == [{"vectors": {"a": 1}}, None]
    engine.vllm_config.additional_config = {"steersman": {"default_preset": "house"}}
    await run_batch.run_request(serve, line(), *REST)
    assert seen[2:] == [None]
    spoken: Any = SimpleNamespace(url="/v1/audio/translations", body=None, custom_id="1")
    refused = await run_batch.run_request(serve, spoken, *REST)
    assert refused.error is not None
    assert refused.error.error.param == "url"
    said: Any = await run_batch.run_request(serve, line(steer=1), *REST)
    assert said.error.error.param == "body.steer"


async def test_a_line_of_more_than_is_looked_at_is_an_error(wrapped: ModuleType) -> None:
    async def serve(_body: Any) -> Any:
        raise AssertionError("it is not to be served")

    many = {f"k{n}": "a" for n in range(501)}
    said = await wrapped.run_request(serve, line(vllm_xargs=many), *REST)
    assert said.response.status_code == 400
    assert said.error.error.param == "vllm_xargs"
