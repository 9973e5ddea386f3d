"""`steersman.Client` and `AsyncClient` against our routes, over a library, and a chat that is made
up."""

import inspect
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import steersman
from steersman.client.api import asynchronous, sync, types
from steersman.server.chat import receipt_schema
from steersman.server.extraction.job import PATCH, Job
from steersman.server.library import schemas
from steersman.server.presets.schemas import PresetInfo
from tests.client.cli.conftest import serving
from tests.support.server.host import Site, content

RECEIPT = {"vectors": [{"id": "glad", "steered_tokens": 2}], "dynamic": None, "source": "request"}
USE = {"vectors": {"glad": 1.5}}


async def chat(request: Request) -> Response:
    """`/v1/chat/completions` of a model that repeats; it has a receipt where it should."""
    body = await request.json()
    text = body["messages"][-1]["content"]
    steering = {"steering": RECEIPT} if body.get("steering") and text != "lost" else {}
    if not body.get("stream"):
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        return JSONResponse({"model": body["model"], "choices": [choice], **steering})
    pieces = [{"delta": {"content": part}, "finish_reason": None} for part in text.split()]
    chunks = [
        {"model": body["model"], "choices": [one]}
        for one in (*pieces, {"delta": {}, "finish_reason": "stop"})
    ]
    chunks[-1] |= steering
    lines = [json.dumps(one) for one in chunks] + ["[DONE]"]
    events = "".join(f"data: {line}\n\n" for line in lines)
    return Response(events, media_type="text/event-stream")


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    site = Site(tmp_path / "library", None)
    site.app.add_api_route("/v1/chat/completions", chat, methods=["POST"])
    with serving(site.app) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[steersman.Client]:
    with steersman.Client(url) as made:
        yield made


@pytest.fixture
async def other(url: str) -> AsyncIterator[steersman.AsyncClient]:
    async with steersman.AsyncClient(url) as made:
        yield made


def test_vectors(client: steersman.Client, tmp_path: Path) -> None:
    (tmp_path / "v.safetensors").write_bytes(content(1))
    made = client.vectors.upload(tmp_path / "v.safetensors", "glad")
    assert made["id"] == "glad"
    vector = steersman.load(tmp_path / "v.safetensors")
    assert client.vectors.upload(vector, "again")["digest"] == made["digest"]
    assert client.vectors.upload(content(2), "calm")["layers"] == [1]
    assert [one["id"] for one in client.vectors.list()] == ["again", "calm", "glad"]
    changed = client.vectors.update("calm", coefficient=2.0, description="d")
    assert (changed["coefficient"], client.vectors.get("calm")["description"]) == (2.0, "d")
    client.vectors.delete("again")
    with pytest.raises(steersman.Refused) as refused:
        client.vectors.get("again")
    assert (refused.value.status, refused.value.code) == (404, "vector_not_found")


def test_presets(client: steersman.Client) -> None:
    client.vectors.upload(content(1), "glad")
    made = client.presets.create("sunny", USE, description="warm")
    assert client.presets.list() == [made] == [client.presets.get("sunny")]
    assert client.presets.update("sunny", follow=True)["follow"]
    with pytest.raises(steersman.Refused, match="sunny"):
        client.vectors.delete("glad")
    client.vectors.delete("glad", force=True)
    client.presets.delete("sunny")
    assert client.presets.list() == []


def test_a_vector_is_made(client: steersman.Client) -> None:
    texts = {"positive": ["a b c", "b c d", "c d e"], "negative": ["x y", "y z", "z x"]}
    job = client.extract(method="mean_difference", name="made", tokens="last", **texts)
    assert job["status"] in ("queued", "running")
    assert client.jobs.get(job["id"])["name"] == "made"
    assert [one["id"] for one in client.jobs.list()] == [job["id"]]
    assert client.jobs.cancel(job["id"])["id"] == job["id"]
    with pytest.raises(steersman.Refused) as refused:
        client.jobs.wait(job["id"], every=0.01)
    assert refused.value.code is not None
    with pytest.raises(steersman.Refused) as refused:
        client.extract(method="nonsense", name="made")
    assert refused.value.param == "method"


def test_a_chat_has_its_receipt(client: steersman.Client) -> None:
    plain = client.chat("so it is")
    assert (plain.text, plain.receipt, plain.model) == ("so it is", None, "m")
    answer = client.chat([{"role": "user", "content": "hm"}], model="m:sunny", steering=USE)
    assert (answer.text, answer.receipt, answer.model) == ("hm", RECEIPT, "m:sunny")
    with pytest.raises(steersman.Refused, match="no receipt"):
        client.chat("lost", steering=USE)
    stream = client.stream("so it is", steering=USE, temperature=0)
    assert list(stream) == ["so", "it", "is"]
    assert (stream.answer.text, stream.answer.receipt) == ("soitis", RECEIPT)
    assert client.stream("one two").answer.receipt is None
    with pytest.raises(steersman.Refused, match="no receipt"):
        list(client.stream("lost", steering=USE))


async def test_the_same_for_asyncio(other: steersman.AsyncClient) -> None:
    assert (await other.vectors.upload(content(1), "glad"))["id"] == "glad"
    assert [one["id"] for one in await other.vectors.list()] == ["glad"]
    assert (await other.vectors.update("glad", coefficient=2.0))["coefficient"] == 2.0
    made = await other.presets.create("sunny", USE)
    assert await other.presets.list() == [made] == [await other.presets.get("sunny")]
    assert (await other.presets.update("sunny", description="x"))["description"] == "x"
    assert (await other.capabilities())["model"] == "m"
    assert await other.jobs.list() == []
    assert (await other.chat("hm", steering=USE)).receipt == RECEIPT
    stream = await other.stream("so it is", steering=USE)
    assert [piece async for piece in stream] == ["so", "it", "is"]
    assert stream.answer is not None
    assert stream.answer.receipt == RECEIPT
    await other.presets.delete("sunny")
    await other.vectors.delete("glad")
    with pytest.raises(steersman.Refused):
        await other.vectors.get("glad")


def test_nobody_there() -> None:
    with steersman.Client("http://127.0.0.1:1") as client, pytest.raises(steersman.Unreachable):
        client.capabilities()


def test_both_clients_have_the_same_methods() -> None:
    pairs = (
        (sync.Client, asynchronous.AsyncClient),
        (sync.Vectors, asynchronous.AsyncVectors),
        (sync.Presets, asynchronous.AsyncPresets),
        (sync.Jobs, asynchronous.AsyncJobs),
    )
    for one, two in pairs:
        names = {name for name in vars(one) if not name.startswith("_")}
        assert names == {name for name in vars(two) if not name.startswith("_")}
        for name in names:
            assert (
                inspect.signature(getattr(one, name)).parameters.keys()
                == inspect.signature(getattr(two, name)).parameters.keys()
            ), name


@pytest.mark.parametrize(
    ("typed", "schema"),
    [
        (types.Vector, schemas.Vector),
        (types.TensorInfo, schemas.TensorInfo),
        (types.Preset, PresetInfo),
        (types.Capabilities, schemas.Capabilities),
        (types.Receipt, receipt_schema.Receipt),
    ],
)
def test_the_types_are_the_servers(typed: Any, schema: Any) -> None:
    assert get_type_hints(typed).keys() == schema.model_fields.keys()


def test_the_type_of_a_job_is_the_servers() -> None:
    names = get_type_hints(types.Job).keys()
    assert names == Job("1", PATCH, PATCH, PATCH).to_json().keys()
    assert names - {"patch"} == Job("1", "caa", "n").to_json().keys()
