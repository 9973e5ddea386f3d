"""What the served model cannot be steered with is refused at the upload; what differs from what a
client may expect is marked where it looks."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import save

from steersman.vectors.file.format import BaseModel, SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.http.conftest import HIDDEN, NORM
from tests.support.http.client import Client

URL = "/v1/steering/vectors"
ROW = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(5))
ROW = ROW * (NORM / ROW.norm())
Keep = Callable[..., Any]


@pytest.fixture
def keep(client: Client) -> Iterator[Keep]:
    """Uploads a vector for the length of a test."""
    names = []

    def upload(name: str, tensors: dict[str, torch.Tensor] | None = None, **fields: Any) -> Any:
        if tensors is None:
            data = write_vector(SteeringVector({HookPoint("resid_post", 12): ROW}, **fields))
        else:
            data = save(tensors)
        answer = client.upload(data, name)
        assert answer.status_code == 201, answer.text
        names.append(name)
        return answer.json()

    yield upload
    for name in names:
        client.http.delete(f"{URL}/{name}")


def receipt(client: Client, steering: Any, **more: Any) -> Any:
    answer = client.chat(steering=steering, ignore_eos=True, **more)
    assert answer.status_code == 200, answer.text
    (vector,) = answer.json()["steering"]["vectors"]
    return vector


@pytest.mark.parametrize(
    ("tensors", "param", "code", "said"),
    [
        ({"resid_post.3": ROW, "resid_pre.0": 2 * ROW}, "resid_pre.0", "layer_out_of_range",
         "leave"),
        ({"resid_post.12": torch.zeros(320, HIDDEN)}, "resid_post.12", "too_many_steps",
         "--max-steps"),
        ({"resid_post.12": ROW[:320]}, "file", "wrong_hidden_size", "576"),
        ({"resid_post.30": ROW}, "file", "layer_out_of_range", "0..29"),
        ({"resid_post.12": 0 * ROW}, "resid_post.12", "all_zero", "coefficient 0"),
        ({"resid_post.12": 1e36 * ROW}, "resid_post.12", "addition_too_large", "divide"),
        ({"resid_post.12": ROW.half()}, "resid_post.12", "wrong_dtype", "to(torch.float32)"),
        ({"resid_post.12": ROW.bfloat16()}, "resid_post.12", "wrong_dtype", "to(torch.float32)"),
        ({"resid_post.12": ROW.double()}, "resid_post.12", "wrong_dtype", "to(torch.float32)"),
        ({"resid_post.12": ROW.to(torch.int8)}, "resid_post.12", "wrong_dtype", "scale"),
    ],
)  # fmt: skip
def test_refused_at_the_upload(
    client: Client, tensors: dict[str, torch.Tensor], param: str, code: str, said: str
) -> None:
    answer = client.upload(save(tensors), "unfit")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert said in error["message"]
    assert client.http.get(f"{URL}/unfit").status_code == 404


def test_a_file_that_says_another_operation_is_refused_at_the_upload(client: Client) -> None:
    refused = "operation_not_served"
    for key, value, code in (
        ("operation", "project", refused), ("mode", "clamp", refused),
        # It is imported as `direction.N`, and not known of tensors that are named as ours.
        ("GLP.mode", "project", "bad_glp"),
    ):  # fmt: skip
        answer = client.upload(save({"resid_post.12": ROW}, {key: value}), "unfit")
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"].lower(), error["code"]) == (key.lower(), code)


def test_a_patch_to_what_the_dtype_does_not_bear_is_refused(client: Client, keep: Keep) -> None:
    keep("bearable", {"resid_post.12": ROW})
    answer = client.http.patch(f"{URL}/bearable", json={"coefficient": 3e38})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("coefficient", "addition_too_large")
    assert client.http.get(f"{URL}/bearable").json()["coefficient"] == 1.0


def test_the_input_of_a_block_is_the_output_of_the_one_before(client: Client, keep: Keep) -> None:
    moved = keep("moved", {"resid_pre.13": ROW})
    named = keep("named", {"resid_post.12": ROW})
    assert [t["name"] for t in moved["tensors"]] == ["resid_post.12"]
    assert moved["digest"] == named["digest"]
    steered = [client.chat_text(steering={"vectors": {name: 2}}) for name in ("moved", "named")]
    assert steered[0] == steered[1] != client.chat_text()


def test_one_step_steers_one_token(client: Client, keep: Keep) -> None:
    keep("one-step", {"resid_post.12": ROW[None]})
    keep("every-step", {"resid_post.12": ROW})

    def used(name: str, **keys: Any) -> tuple[Any, str]:
        steering = {"vectors": [{"id": name, "coefficient": 2, **keys}]}
        answer = client.chat(steering=steering, ignore_eos=True).json()
        (vector,) = answer["steering"]["vectors"]
        return vector, answer["choices"][0]["message"]["content"]

    once, first = used("one-step")
    assert (once["steered_tokens"], once["steps"], once["after"]) == (1, 1, "stop")
    assert first == used("every-step", schedule="start")[1]
    held, all_of_it = used("one-step", after="hold")
    assert (held["steered_tokens"], held["steps"], held["after"]) == (12, 1, "hold")
    every, plain = used("every-step")
    assert (every["steered_tokens"], "steps" in every) == (12, False)
    assert all_of_it == plain != first


def test_another_models_vector_is_marked(client: Client, keep: Keep) -> None:
    own = client.http.get("/v1/steering/capabilities").json()["fingerprint"]
    for made_on, matches in ((own, True), ("deadbeef", False), (None, None)):
        base = None if made_on is None else BaseModel(fingerprint=made_on)
        name = f"made-on-{made_on}"
        seen = [
            keep(name, base_model=base),
            client.http.get(f"{URL}/{name}").json(),
            *[v for v in client.http.get(f"{URL}?limit=1000").json()["data"] if v["id"] == name],
            receipt(client, {"vectors": {name: 0.5}}),
        ]
        assert [one["base_model_matches"] for one in seen] == [matches] * 4


def test_what_lies_outside_the_safe_range_is_marked(client: Client, keep: Keep) -> None:
    keep("ranged", safe_range=(-1.0, 1.5))
    for coefficient, outside in ((1.5, False), (2.0, True), (-1.25, True)):
        used = receipt(client, {"vectors": {"ranged": coefficient}}, max_tokens=2)
        assert used["outside_safe_range"] is outside
        assert used["total_dose"] == pytest.approx(sum(used["relative_dose"].values()), abs=1e-3)


def test_tokens_at_a_coefficient_of_0_are_counted(client: Client, rnd: str) -> None:
    """Though nothing is added there: the first four are what they are unsteered."""
    schedule = [0, 0, 0, 0, 1, 1, 1, 1, 1]
    used = receipt(client, {"vectors": [{"id": rnd, "schedule": schedule}]})
    assert used["steered_tokens"] == 9
    use = {"id": rnd, "schedule": [0] * 12, "positions": "all"}
    assert client.chat_text(steering={"vectors": [use]}) == client.chat_text()


def test_a_range_that_is_not_said_to_be_of_the_answer_is_refused_with_the_remedy(
    client: Client, rnd: str
) -> None:
    prompt = client.chat(max_tokens=1).json()["usage"]["prompt_tokens"]
    rule = {"start": prompt + 4, "stop": prompt + 8}
    answer = client.chat(steering={"vectors": [{"id": rnd, "positions": rule}]})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    remedy = {"start": 4, "stop": 8, "of": "answer"}
    assert json.dumps({"positions": remedy})[1:-1] in message
    used = receipt(client, {"vectors": [{"id": rnd, "positions": remedy}]})
    assert used["steered_tokens"] == 4


@pytest.mark.parametrize("start", [9999, 100])
def test_a_dose_binds_what_a_dynamic_request_starts_at(
    client: Client, rnd: str, start: float
) -> None:
    field = {"vectors": [{"id": rnd}], "dynamic": {"start": start, "max": 0.1}}
    answer = client.chat(steering=field)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("steering.dynamic.start", "dose_over_limit")
    assert "--max-relative-dose" in error["message"]
