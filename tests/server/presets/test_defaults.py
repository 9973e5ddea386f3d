"""Presets of a key and of the server, without an engine: who wins, and what a bound key may say."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from steersman.server.auth.keyfile import Keys
from steersman.server.middleware.auth import Authenticate
from steersman.server.middleware.refuse_ignored import RefuseIgnored
from tests.support.server.host import PRESETS, VECTORS, Site, content
from tests.support.server.keys import bearer, entry, write

FIELD = {"vectors": {"glad": 2.0}}
OFF = {"X-Steering": "null"}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    keys = write(
        tmp_path / "keys.yaml",
        entry("plain"),
        entry("bob", preset="bobs"),
        entry("bound", preset="bobs", locked=True, vectors=[]),
        entry("careful", preset="strong", max_relative_dose=0.1),
        entry("lost", preset="nobodys"),
    )
    made = Site(tmp_path / "library", keys, default_preset="house")
    for seed, name in enumerate(("glad", "calm")):
        assert made.upload("plain", content(seed), name).status_code == 201
    for name, vectors in (
        ("house", {"calm": 0.5}),
        ("bobs", {"glad": 1.5}),
        ("strong", {"glad": 9}),
    ):
        body = {"name": name, "steering": {"vectors": vectors}}
        assert made.call("plain", "POST", PRESETS, json=body).status_code == 201
    return made


def used(answer: Any) -> tuple[str, str | None, float | None]:
    said = answer.json()
    assert answer.status_code == 200, said
    steering = said["steering"]
    return said["source"], said["preset"], None if steering is None else steering[0]["coefficient"]


def error(answer: Any) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


def test_the_request_goes_before_its_model_name_its_key_and_the_server(site: Site) -> None:
    assert used(site.ask("plain", model="m")) == ("server", "house", 0.5)
    assert used(site.ask("bob", model="m")) == ("key", "bobs", 1.5)
    assert used(site.ask("bob", model="m:house")) == ("model", "house", 0.5)
    assert used(site.ask("bob", model="m:glad@3")) == ("model", None, 3.0)
    assert used(site.ask("bob", model="m:house", steering=FIELD)) == ("request", None, 2.0)


@pytest.mark.parametrize("model", ["m", "m:house"])
@pytest.mark.parametrize("who", ["plain", "bob"])
def test_null_turns_all_of_them_off(site: Site, who: str, model: str) -> None:
    assert used(site.ask(who, model=model, steering=None)) == ("request", None, None)


def test_a_bound_key_gets_its_preset_and_nothing_else(site: Site) -> None:
    # Also where it may see neither the preset nor its vectors.
    assert used(site.ask("bound", model="m")) == ("key", "bobs", 1.5)
    assert used(site.ask("bound", model="m:bobs")) == ("key", "bobs", 1.5)
    assert used(site.ask("bound", model="adapter:1")) == ("key", "bobs", 1.5)
    for steering in (FIELD, None, {"vectors": {"glad": 1.5}}, 3):
        answer = site.ask("bound", model="m", steering=steering)
        assert error(answer) == (403, "preset_locked", "steering")
    for model in ("m:house", "m:glad@1", "m:", "m:bobs2"):
        assert error(site.ask("bound", model=model)) == (403, "preset_locked", "model")
    assert site.call("bound", "GET", PRESETS).json()["data"] == []


def test_a_default_that_cannot_be_used_is_no_unsteered_answer(site: Site) -> None:
    answer = site.ask("lost", model="m")
    assert error(answer) == (503, "default_preset_missing", "steering")
    assert "'nobodys'" in answer.json()["error"]["message"]
    assert used(site.ask("lost", model="m", steering=None)) == ("request", None, None)
    assert site.call("plain", "DELETE", f"{VECTORS}/calm?force=true").status_code == 200
    assert error(site.ask("plain", model="m")) == (503, "default_preset_missing", "steering")


def test_a_default_is_bound_by_the_dose_of_the_key(site: Site) -> None:
    answer = site.ask("careful", model="m")
    assert error(answer) == (400, "dose_over_limit", "steering")
    message = answer.json()["error"]["message"]
    assert "this key's default preset 'strong'" in message
    assert '"steering": null' in message


def test_capabilities_say_what_steers_by_default(site: Site) -> None:
    def said(who: str) -> Any:
        assert site.keys is not None
        permissions = site.keys.find(who)
        assert permissions is not None
        return site.state.capabilities_for(permissions)["default_preset"]

    assert said("plain") == {"preset": "house", "source": "server", "locked": False}
    assert said("bound") == {"preset": "bobs", "source": "key", "locked": True}


async def answered(request: Request) -> JSONResponse:
    return JSONResponse(await request.json() if await request.body() else {})


@pytest.fixture
def guarded(tmp_path: Path) -> TestClient:
    keys = write(
        tmp_path / "keys.yaml",
        entry("plain"),
        entry("bob", preset="bobs"),
        entry("bound", preset="bobs", locked=True),
    )
    paths = ("/v1/chat/completions", "/invocations", "/inference/v1/generate", "/v1/new",
             "/tokenize", "/v1/messages/count_tokens", "/v1/completions/render",
             "/v1/audio/transcriptions")  # fmt: skip
    app = Starlette(routes=[Route(path, answered, methods=["GET", "POST"]) for path in paths])
    app.add_middleware(RefuseIgnored)
    app.add_middleware(Authenticate, keys=Keys(keys))
    return TestClient(app)


def test_what_would_answer_unsteered_is_refused(guarded: TestClient) -> None:
    for path in ("/invocations", "/inference/v1/generate"):
        assert guarded.post(path, headers=bearer("plain"), json={}).status_code == 200
        answer = guarded.post(path, headers=bearer("bob"), json={})
        assert error(answer) == (400, "not_supported", "steering")
        assert "'bobs'" in answer.json()["error"]["message"]
        assert error(guarded.post(path, headers=bearer("bob")))[0] == 400
        # Where the request says that it is not to be steered.
        for body, header in ({"steering": None}, {}), ({}, OFF):
            answer = guarded.post(path, headers=header | bearer("bob"), json=body)
            assert answer.status_code == 200
            answer = guarded.post(path, headers=header | bearer("bound"), json=body)
            assert error(answer) == (403, "preset_locked", None)
    files = {"file": ("a.wav", b"RIFF")}
    for who, status in (("bob", 400), ("bound", 403)):
        answer = guarded.post("/v1/audio/transcriptions", headers=bearer(who), files=files)
        assert answer.status_code == status
        assert guarded.post("/v1/chat/completions", headers=bearer(who), json={}).status_code == 200
        for path in ("/tokenize", "/v1/messages/count_tokens", "/v1/completions/render"):
            assert guarded.post(path, headers=bearer(who), json={}).status_code == 200


def test_the_header_null_says_so_in_the_field(guarded: TestClient) -> None:
    path = "/v1/chat/completions"
    headers = bearer("plain") | OFF
    assert guarded.post(path, headers=headers, json={"a": 1}).json() == {"a": 1, "steering": None}
    answer = guarded.post(path, headers=headers, json={"steering": FIELD})
    assert error(answer) == (400, "contradiction", "X-Steering")
    answer = guarded.post(
        path, headers=bearer("plain") | {"X-Steering": "glad=1"}, json={"steering": None}
    )
    assert error(answer) == (400, "contradiction", "X-Steering")


def test_a_route_that_nobody_has_listed_is_refused_without_keys(tmp_path: Path) -> None:
    app = Starlette(routes=[Route("/v1/new", answered, methods=["POST"])])
    app.add_middleware(RefuseIgnored, default_preset="house")
    client = TestClient(app)
    answer = client.post("/v1/new", json={})
    assert error(answer) == (400, "not_supported", "steering")
    assert "--default-preset" in answer.json()["error"]["message"]
    assert client.post("/v1/nowhere", json={}).status_code == 404


def test_a_name_that_steers_is_refused_where_nothing_is_steered() -> None:
    """SageMaker's route takes any name for the served model."""
    paths = ("/invocations", "/tokenize")
    app = Starlette(routes=[Route(path, answered, methods=["POST"]) for path in paths])
    app.state.openai_serving_models = SimpleNamespace(
        base_model_paths=[SimpleNamespace(name="m")], lora_requests={"adapter:1": None}
    )
    app.add_middleware(RefuseIgnored)
    client = TestClient(app)
    for model in ("m:sunny", "m:glad@1", "adapter:1:sunny"):
        answer = client.post("/invocations", json={"model": model})
        assert error(answer) == (400, "not_supported", "model")
    others: list[Any] = ["m", "adapter:1", "other:sunny", None, 3]
    for model in others:
        assert client.post("/invocations", json={"model": model}).status_code == 200
    assert client.post("/tokenize", json={"model": "m:sunny"}).status_code == 200
