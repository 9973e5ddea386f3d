"""`vllm run-batch` with the plugin on: a line that means to be steered is an error there."""

from types import ModuleType
from typing import Any

import pytest
from vllm.entrypoints.launchers import run_batch

from steersman.steering.vllm import run_batch as run_batch_seam

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def line(**fields: Any) -> Any:
    made = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions"}
    return run_batch.BatchRequestInput.model_validate({**made, "body": {**BODY, **fields}})


@pytest.fixture
def wrapped(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(run_batch, "run_request", run_batch.run_request)
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

    said = await wrapped.run_request(serve, line(**fields), run_batch.BatchProgressTracker())
    assert said.response.status_code == 400
    assert said.error.error.param == param
    assert "steersman serve" in said.error.error.message


async def test_other_lines_are_served(wrapped: ModuleType) -> None:
    served = []

    async def serve(body: Any) -> Any:
        served.append(body)
        raise ValueError("no engine here")

    for fields in ({}, {"steering": None}, {"metadata": {"topic": "steering"}}):
        await wrapped.run_request(serve, line(**fields), run_batch.BatchProgressTracker())
    assert len(served) == 3


async def test_a_line_of_more_than_is_looked_at_is_an_error(wrapped: ModuleType) -> None:
    async def serve(_body: Any) -> Any:
        raise AssertionError("it is not to be served")

    many = {f"k{n}": "a" for n in range(501)}
    said = await wrapped.run_request(serve, line(vllm_xargs=many), run_batch.BatchProgressTracker())
    assert said.response.status_code == 400
    assert said.error.error.param == "vllm_xargs"
