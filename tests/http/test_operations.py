"""Operations over HTTP: what a vector does by itself, what a request says, what is refused."""

from typing import Any

import pytest
import torch

from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.operation import OPERATIONS, Operation
from steersman.vectors.tensors import HookPoint
from tests.support.http.client import Client

HIDDEN = 576
POINT = HookPoint("resid_post", 14)


@pytest.fixture(scope="module")
def held(client: Client) -> str:
    """A vector that is clamped where a request says nothing."""
    generator = torch.Generator().manual_seed(5)
    vector = SteeringVector(
        {POINT: torch.randn(HIDDEN, generator=generator)},
        operation=Operation("clamp", min=0.5, unit="median_norm"),
    )
    assert client.upload(write_vector(vector), "held").status_code == 201
    return "held"


def test_the_server_says_what_it_does(client: Client) -> None:
    found = client.http.get("/v1/steering/capabilities").json()
    assert found["operations"] == list(OPERATIONS)
    assert found["reading_sites"] == ["resid_post", "attn_out", "mlp_out", "resid_mid"]


def test_a_vector_does_what_its_file_says(client: Client, held: str) -> None:
    listed = client.http.get(f"/v1/steering/vectors/{held}").json()
    assert listed["operation"] == "clamp"
    assert listed["operation_settings"] == {"min": 0.5, "unit": "median_norm"}
    answer = client.chat(steering={"vectors": [{"id": held}]}).json()
    (used,) = answer["steering"]["vectors"]
    assert used["operation"] == "clamp"
    assert (used["min"], used["unit"]) == (0.5, "median_norm")
    assert used["relative_dose"] is None
    assert used["steered_tokens"] == answer["usage"]["completion_tokens"]
    assert answer["choices"][0]["message"]["content"] != client.chat_text()


def test_a_request_says_another_operation(client: Client, rnd: str) -> None:
    use = {"id": rnd, "operation": "project", "positions": "all", "coefficient": 2}
    field = {"vectors": [use], "keep_norm": True}
    answer = client.chat(steering=field).json()
    assert answer["steering"]["keep_norm"] is True
    (used,) = answer["steering"]["vectors"]
    assert (used["operation"], used["coefficient"]) == ("project", 2.0)
    added = client.chat(steering={"vectors": {rnd: 2.0}}).json()
    assert "operation" not in added["steering"]["vectors"][0]
    assert "keep_norm" not in added["steering"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("use", "field", "param"),
    [
        ({"operation": "erase"}, {}, "steering.vectors[0].operation"),
        ({"operation": "rotate", "angle": 3}, {}, "steering.vectors[0].operation"),
        ({"operation": "clamp"}, {}, "steering.vectors[0].min"),
        ({"operation": "clamp", "min": 3, "max": 2}, {}, "steering.vectors[0].min"),
        ({"operation": "project", "value": 3}, {}, "steering.vectors[0].value"),
        ({"operation": "replace"}, {}, "steering.vectors[0].positions"),
        ({"operation": "project"}, {"dynamic": {}}, "steering.vectors[0].operation"),
        ({}, {"dynamic": {"start": 0.1, "max": 0.1}, "keep_norm": True}, "steering.keep_norm"),
        ({}, {"keep_norm": "yes"}, "steering.keep_norm"),
        ({}, {"keep_norms": True}, "steering.keep_norms"),
    ],
)
def test_what_cannot_be_done_is_refused_by_its_key(
    client: Client, rnd: str, use: dict[str, Any], field: dict[str, Any], param: str, stream: bool
) -> None:
    answer = client.chat(steering={"vectors": [{"id": rnd} | use]} | field, stream=stream)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("operation", "tensor", "code"),
    [
        (Operation("project"), torch.eye(HIDDEN)[:2], None),
        (Operation("project"), torch.ones(2, HIDDEN), "not_orthonormal"),
        (Operation("project"), torch.zeros(HIDDEN), "zero_direction"),
    ],
)
def test_an_upload_is_checked(
    client: Client, operation: Operation, tensor: torch.Tensor, code: str | None
) -> None:
    """The vector is made without its check, as another program may make it."""
    sound = SteeringVector({POINT: torch.eye(HIDDEN)[:2]}, operation=operation)
    object.__setattr__(sound, "tensors", {POINT: tensor})
    answer = client.upload(write_vector(sound), f"checked-{code}")
    if code is None:
        assert answer.status_code == 201
    else:
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == code
        assert answer.json()["error"]["param"] == "resid_post.14"
