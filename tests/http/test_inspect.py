"""GET /v1/steering/vectors/{id}/inspect, compared with Hugging Face on the same weights."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from tests.reference.lens import assert_tokens
from tests.support.http.client import Client

URL = "/v1/steering/vectors"


@pytest.fixture
def other(client: Client, make_vector: Callable[..., bytes]) -> Iterator[str]:
    """Shares layer 14 with `own`, and no other layer."""
    name = "inspected-other"
    assert client.upload(make_vector(77, layers=(14, 20)), name).status_code == 201
    yield name
    client.http.delete(f"{URL}/{name}")


def tensors_of(client: Client, name: str) -> dict[str, torch.Tensor]:
    return load(client.http.get(f"{URL}/{name}/content").content)


def inspected(client: Client, name: str, **query: Any) -> Any:
    answer = client.http.get(f"{URL}/{name}/inspect", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_tokens_are_those_of_the_checkpoints_weights(client: Client, model: Path, own: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    found = inspected(client, own, count=20)
    assert found["final_norm"] == "model.norm"
    assert [t["name"] for t in found["tensors"]] == ["resid_post.10", "resid_post.14"]
    for tensor in found["tensors"]:
        vector = tensors_of(client, own)[tensor["name"]]
        top, bottom = (
            [(t["id"], t["logit"]) for t in tensor[key]] for key in ("top_tokens", "bottom_tokens")
        )
        assert len(top) == len(bottom) == 20
        assert_tokens(model, vector, top, bottom)
        assert tensor["top_tokens"][0]["text"] == tokenizer.decode([top[0][0]])


def test_norms_and_cosines(client: Client, own: str, other: str) -> None:
    medians = client.http.get("/v1/steering/capabilities").json()["median_norms"]
    mine, theirs = tensors_of(client, own), tensors_of(client, other)
    # The library is all HTTP tests': with ten, `other` may not be among the nearest.
    found = inspected(client, own, count=50)
    assert found["not_compared"] == 0
    at_10, at_14 = found["tensors"]
    for tensor in (at_10, at_14):
        assert tensor["default"]
        assert tensor["norm"] == pytest.approx(60)
        assert tensor["relative_norm"] == pytest.approx(60 / medians[tensor["name"]])
    cosine = torch.cosine_similarity(mine["resid_post.14"], theirs["resid_post.14"], dim=0)
    (shown,) = [s for s in at_14["similar"] if s["id"] == other]
    assert shown["cosine"] == pytest.approx(float(cosine), abs=1e-5)
    assert other not in [s["id"] for s in at_10["similar"]]
    matrix = found["similarity"]
    assert own not in matrix["vectors"]
    column = matrix["vectors"].index(other)
    assert [row[column] for row in matrix["cosines"]] == [
        None,
        pytest.approx(float(cosine), abs=1e-5),
    ]


def test_the_same_content_under_another_name_has_cosine_1(client: Client, own: str) -> None:
    content = client.http.get(f"{URL}/{own}/content").content
    assert client.upload(content, "inspected-twin").status_code == 201
    try:
        nearest = [tensor["similar"][0] for tensor in inspected(client, own)["tensors"]]
        assert nearest == [{"id": "inspected-twin", "cosine": pytest.approx(1)}] * 2
    finally:
        client.http.delete(f"{URL}/inspected-twin")


@pytest.mark.parametrize(
    ("path", "status", "param"),
    [
        ("nobody/inspect", 404, None),
        ("rnd/inspect?count=0", 400, "count"),
        ("rnd/inspect?count=101", 400, "count"),
        ("rnd/inspect?top=3", 400, "top"),
    ],
)
def test_what_is_refused(
    client: Client, rnd: str, path: str, status: int, param: str | None
) -> None:
    answer = client.http.get(f"{URL}/{path}")
    assert answer.status_code == status
    error = answer.json()["error"]
    assert param is None or error["param"] == param


def test_requests_go_on_meanwhile(client: Client, rnd: str) -> None:
    before = client.chat_text()
    inspected(client, rnd)
    assert client.chat_text() == before
