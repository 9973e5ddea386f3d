"""Default presets and bound keys on a real server: who wins on each route, and what is refused."""

import json
import shlex
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import torch

from bench.servers import running, steersman
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.support.matrix import tiny
from tests.support.server.keys import bearer, entry, write

pytestmark = pytest.mark.engine

PRESETS = "/v1/steering/presets"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
AT = {"temperature": 0}
MESSAGES = [{"role": "user", "content": "Where is it?"}]
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "The sky", "max_tokens": 16},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 16},
    "/v1/responses": {"input": "Where is it?", "max_output_tokens": 16},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 16},
}
FIELDS = {"house": {"vectors": {"one": 1.0}}, "own": {"vectors": {"two": 1.0}}}
OFF = {"X-Steering": "null"}


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server of a tiny model that has `--default-preset house` and no presets yet."""
    folder = tmp_path_factory.mktemp("defaults")
    model = tiny.make_model(folder / "model", vocab=tiny.SPOKEN)
    template = folder / "template.jinja"
    template.write_text(TEMPLATE)
    keys = write(
        folder / "keys.yaml",
        entry("admin", "admin"),
        entry("plain", "infer"),
        entry("own", "infer", preset="own"),
        entry("bound", "infer", preset="own", locked=True, vectors=[]),
    )
    options = shlex.split(
        "--served-model-name tiny --max-model-len 512 --kv-cache-memory-bytes 134217728 "
        f"--default-preset house --api-keys-file {keys} --library {folder / 'library'} "
        f"--chat-template {template}"
    )
    home = {"STEERSMAN_HOME": str(folder)}
    with (
        running("defaults", steersman(str(model), options), home, folder / "log") as server,
        httpx.Client(base_url=server.url, timeout=120) as client,
    ):
        yield client


def ask(
    http: httpx.Client,
    who: str,
    route: str = "/v1/completions",
    headers: dict[str, str] | None = None,
    **more: Any,
) -> httpx.Response:
    body = {"model": "tiny", **AT, **ROUTES[route], **more}
    return http.post(route, json=body, headers={**bearer(who), **(headers or {})})


def said(answer: httpx.Response) -> str:
    """The text of an answer of any route."""
    assert answer.status_code == 200, answer.text
    found = answer.json()
    if "choices" in found:
        (choice,) = found["choices"]
        text: str = choice["text"] if "text" in choice else choice["message"]["content"]
        return text
    parts = found["content"] if "content" in found else found["output"][-1]["content"]
    return "".join(part["text"] for part in parts)


def source(answer: httpx.Response) -> tuple[str, str | None] | None:
    """What steered it, by its receipt, which has to say the same in the header."""
    assert answer.status_code == 200, answer.text
    receipt = answer.json().get("steering")
    header = answer.headers.get("Steering-Receipt")
    if receipt is None:
        assert header is None
        return None
    promise = json.loads(header or "{}")
    found = (receipt["source"], receipt["preset"])
    assert (promise["source"], promise["preset"]) == found
    assert all(one["steered_tokens"] > 0 for one in receipt["vectors"])
    return found


def error(answer: httpx.Response) -> tuple[int, str, str | None]:
    found = answer.json()["error"]
    return answer.status_code, found["code"], found["param"]


@pytest.fixture(scope="module")
def ready(http: httpx.Client) -> None:
    """Vectors and presets are made once no default could be used."""
    for who in ("plain", "own", "bound"):
        missing = ask(http, who)
        assert error(missing) == (503, "default_preset_missing", "steering")
    assert source(ask(http, "plain", steering=None)) is None
    admin = bearer("admin")
    for seed, name in enumerate(("one", "two")):
        rows = torch.randn(tiny.HIDDEN, generator=torch.Generator().manual_seed(seed))
        data = write_vector(SteeringVector({HookPoint("resid_post", 1): 8 * rows}))
        made = http.post(
            "/v1/steering/vectors", data={"name": name}, files={"file": ("v", data)}, headers=admin
        )
        assert made.status_code == 201, made.text
    for name, field in FIELDS.items():
        made = http.post(PRESETS, json={"name": name, "steering": field}, headers=admin)
        assert made.status_code == 201, made.text


@pytest.mark.parametrize("route", ROUTES)
def test_each_default_steers_as_its_field_does(http: httpx.Client, ready: None, route: str) -> None:
    by_field = {n: said(ask(http, "admin", route, steering=f)) for n, f in FIELDS.items()}
    plain = said(ask(http, "admin", route, steering=None))
    assert len({plain, *by_field.values()}) == 3
    for who, origin, name in (
        ("plain", "server", "house"),
        ("own", "key", "own"),
        ("bound", "key", "own"),
    ):
        answer = ask(http, who, route)
        assert source(answer) == (origin, name)
        assert said(answer) == by_field[name]
    by_name = ask(http, "own", route, model="tiny:house")
    assert (source(by_name), said(by_name)) == (("model", "house"), by_field["house"])
    for off in ({"steering": None}, {"headers": OFF}):
        answer = ask(http, "own", route, **off)
        assert (source(answer), said(answer)) == (None, plain)


@pytest.mark.parametrize("route", ROUTES)
def test_a_bound_key_says_nothing_else(http: httpx.Client, ready: None, route: str) -> None:
    for steering in (None, FIELDS["house"], FIELDS["own"], 3):
        answer = ask(http, "bound", route, steering=steering)
        assert (answer.status_code, "preset_locked" in answer.text) == (403, True), answer.text
    for header in ("null", "one=1", '{"vectors": {"one": 1.0}}'):
        answer = ask(http, "bound", route, headers={"X-Steering": header})
        assert (answer.status_code, "preset_locked" in answer.text) == (403, True), answer.text
    for model in ("tiny:house", "tiny:two@1", "tiny:"):
        answer = ask(http, "bound", route, model=model)
        assert (answer.status_code, "preset_locked" in answer.text) == (403, True), answer.text
    assert source(ask(http, "bound", route, model="tiny:own"))[0] in ("key", "model")  # type: ignore[index]


def test_a_stream_ends_with_the_receipt_of_the_default(http: httpx.Client, ready: None) -> None:
    for who, origin in (("plain", "server"), ("bound", "key")):
        lines = ask(http, who, "/v1/chat/completions", stream=True).text.splitlines()
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert chunks[-1]["steering"]["source"] == origin


def test_routes_that_cannot_be_steered(http: httpx.Client, ready: None) -> None:
    body = {"model": "tiny", "prompt": "The sky", "max_tokens": 2}

    def call(who: str, **more: Any) -> httpx.Response:
        return http.post("/invocations", json={**body, **more}, headers=bearer(who))

    assert error(call("plain")) == (400, "not_supported", "steering")
    assert error(call("bound"))[:2] == (403, "preset_locked")
    assert call("plain", steering=None).status_code == 200
    assert error(call("bound", steering=None))[:2] == (403, "preset_locked")
    for who in ("plain", "bound"):
        counted = http.post("/tokenize", json={"model": "tiny", "prompt": "a"}, headers=bearer(who))
        assert counted.status_code == 200


def test_who_asks_is_told_what_steers_it(http: httpx.Client, ready: None) -> None:
    def default(who: str) -> Any:
        answer = http.get("/v1/steering/capabilities", headers=bearer(who))
        return answer.json()["default_preset"]

    assert default("admin") == {"preset": "house", "source": "server", "locked": False}
    counted = http.get("/metrics", headers=bearer("admin")).text
    for origin in ("key", "server"):
        assert f'steering_requests_total{{outcome="completed",source="{origin}"}}' in counted


def test_a_default_that_is_gone_is_no_unsteered_answer(http: httpx.Client, ready: None) -> None:
    """Last: it takes the house's preset away."""
    gone = http.delete(f"{PRESETS}/house", headers=bearer("admin"))
    assert gone.status_code == 200
    assert error(ask(http, "plain")) == (503, "default_preset_missing", "steering")
    assert source(ask(http, "own")) == ("key", "own")
    assert source(ask(http, "plain", steering=None)) is None
