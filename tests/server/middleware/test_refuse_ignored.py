"""The guard: one reading of a body, and no way past the field."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from steersman.server.middleware.body import Bounds
from steersman.server.middleware.constraints import MOST_CHARACTERS, MOST_WORDS
from steersman.server.middleware.refuse_ignored import STEERED_PATHS, RefuseIgnored
from steersman.steering.plan.intent import MOST_CLOSE, MOST_OPENED

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"
OTHER = ("/v1/messages/count_tokens", "/tokenize", "/v1/steering/vectors/extract", "/v9/invented")
VECTORS = {"vectors": {"a": 1.5}}


async def echo(request: Request) -> JSONResponse:
    body = await request.body()
    return JSONResponse({"length": len(body), "said": await request.json() if body else None})


@pytest.fixture
def client() -> TestClient:
    paths = [*STEERED_PATHS, *OTHER]
    app = Starlette(routes=[Route(path, echo, methods=["GET", "POST", "PUT"]) for path in paths])
    app.add_middleware(RefuseIgnored, bounds=Bounds(containers=50, depth=10, values=1000))
    return TestClient(app)


def refused(answer: Any, param: str, code: str | None = None) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert error["param"] == param, error
    assert code is None or error["code"] == code
    return error


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/tokenize", "/v9/invented"])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_route_that_would_ignore_the_field_refuses_it(
    client: TestClient, path: str, method: str
) -> None:
    error = refused(client.request(method, path, json={"steering": VECTORS}), "steering")
    assert CHAT in error["message"]
    refused(client.request(method, path, json={}, headers={"X-Steering": "a=1"}), "X-Steering")
    assert client.request(method, path, json={"steering": None}).status_code == 200


def test_anthropics_clients_get_anthropics_errors(client: TestClient) -> None:
    body = client.post("/v1/messages", json={"Steering": VECTORS}).json()
    assert body["type"] == "error"
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["param"] == "Steering"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"steer": VECTORS}, "steer"),
        ({"Steering": VECTORS}, "Steering"),
        ({"STEERING": VECTORS}, "STEERING"),
        ({"steering_vectors": {"a": 1}}, "steering_vectors"),
        ({"steering_vector": "a"}, "steering_vector"),
        ({"steeringVector": "a"}, "steeringVector"),
        ({"stearing": VECTORS}, "stearing"),
        ({"sterring": VECTORS}, "sterring"),
        ({"steeirng": VECTORS}, "steeirng"),
        ({"seering": VECTORS}, "seering"),
        ({"activation_steering": {}}, "activation_steering"),
        ({"control_vector": "a"}, "control_vector"),
        ({"control_vectors": ["a"]}, "control_vectors"),
        ({"control-vector-scaled": "a"}, "control-vector-scaled"),
        ({"sv_scale": 2}, "sv_scale"),
        ({"steering\x00": VECTORS}, "steering\x00"),
        ({" steering": VECTORS}, " steering"),
        ({"steer ing": VECTORS}, "steer ing"),
        ({"st\u200beering": VECTORS}, "st\u200beering"),
        ({"ｓｔｅｅｒｉｎｇ": VECTORS}, "ｓｔｅｅｒｉｎｇ"),
        ({"steerin\u0261": VECTORS}, "steerin\u0261"),
        ({"extra_body": {"steering": VECTORS}}, "extra_body.steering"),
        ({"extra_body": {"extra_body": {"steering": VECTORS}}}, "extra_body.extra_body.steering"),
        ({"extra_body": {"sterring": VECTORS}}, "extra_body.sterring"),
        ({"vllm_xargs": {"steering": "a"}}, "vllm_xargs.steering"),
        ({"vllm_xargs": {"steering_vectors": "a"}}, "vllm_xargs.steering_vectors"),
        ({"vllm_xargs": {"sv_id": "a"}}, "vllm_xargs.sv_id"),
        ({"extra_args": {"steering": {}}}, "extra_args.steering"),
        ({"metadata": {"steering": "a"}}, "metadata.steering"),
        ({"extra_headers": {"X-Steering": "a=1"}}, "extra_headers.X-Steering"),
        ({"chat_template_kwargs": {"steering": {}}}, "chat_template_kwargs.steering"),
        ({"sampling_params": {"extra_args": {"steering": 1}}},
         "sampling_params.extra_args.steering"),
        ({"a": {"b": [{"c": {"steering": VECTORS}}]}}, "a.b[0].c.steering"),
        ({"messages": [{"role": "user", "content": "x", "steering": VECTORS}]},
         "messages[0].steering"),
        ({"messages": [{"content": [{"type": "text", "text": "x", "steering": 1}]}]},
         "messages[0].content[0].steering"),
        ({"response_format": {"steering": 1}}, "response_format.steering"),
        ({"tools": [{"function": {"name": "f"}, "steering": {}}]}, "tools[0].steering"),
        ([{"steering": VECTORS}], "[0].steering"),
        # Objects whose keys are the client's are so at their own places only.
        ({"parameters": {"steering": VECTORS}}, "parameters.steering"),
        ({"json": {"steering": VECTORS}}, "json.steering"),
        ({"properties": {"steering": VECTORS}}, "properties.steering"),
        ({"variables": {"steering": VECTORS}}, "variables.steering"),
        ({"messages": [{"content": "x", "arguments": {"steering": 1}}]},
         "messages[0].arguments.steering"),
        ({"messages": [{"content": [{"type": "text", "input": {"steering": 1}}]}]},
         "messages[0].content[0].input.steering"),
        ({"extra_body": {"parameters": {"steering": 1}}}, "extra_body.parameters.steering"),
        ({"chat_template_kwargs": {"json": {"steering": 1}}},
         "chat_template_kwargs.json.steering"),
        # What carries unknown keys may carry them as text.
        ({"extra_body": '{"steering": {"vectors": {"a": 1}}}'}, "extra_body.steering"),
        ({"vllm_xargs": {"extra": '{"steering": 1}'}}, "vllm_xargs.extra.steering"),
        ({"extra_args": {"a": ['[{"steer": 1}]']}}, "extra_args.a[0][0].steer"),
        # Other plugins' names, our inner key, and letters that look alike.
        ({"vectors": {"a": 1}}, "vectors"),
        ({"cvec": "a"}, "cvec"),
        ({"activation_steer": 1}, "activation_steer"),
        ({"\u0455t\u0435\u0435ring": VECTORS}, "\u0455t\u0435\u0435ring"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v9/invented"])
def test_a_key_that_means_steering_is_refused_by_its_path(
    client: TestClient, body: Any, param: str, path: str
) -> None:
    error = refused(client.post(path, json=body), param, "misplaced_steering")
    assert "steer" in error["message"]
    # Beside the right one, too: what is ignored may be what was meant.
    if isinstance(body, dict) and path == CHAT:
        refused(client.post(path, json={"steering": VECTORS, **body}), param)


TOOL = {"type": "object", "properties": {"steering": {"type": "number"}}, "required": ["steering"]}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": '{"steering": {"vectors": {}}}'}]},
        {"messages": [{"content": [{"type": "text", "text": "steering"}]}]},
        {"metadata": {"topic": "steering wheels"}},
        {"metadata": {"stemming": "a", "starring": "b", "note": '{"steering": 1}'}},
        {"tools": [{"type": "function", "function": {"name": "steering", "parameters": TOOL}}]},
        {"tools": [{"name": "steer", "input_schema": TOOL}]},
        {"messages": [{"content": [{"type": "tool_use", "input": {"steering": 0.5}}]}]},
        {"messages": [{"tool_calls": [{"function": {"arguments": {"steering": 1}}}]}]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": TOOL}}},
        {"text": {"format": {"type": "json_schema", "schema": TOOL}}},
        {"structured_outputs": {"json": TOOL}},
        {"documents": [{"steering": "of ships"}]},
        {"prompt": {"variables": {"steering": "x"}}},
        {"user": "steering", "stop": ["steering"], "model": "steering"},
        {"stream": True, "stream_options": {}, "seed": 1, "string": "x", "service_tier": "auto"},
        {"steer": None, "vllm_xargs": {"steering": None}},
        {"steering": {"vectors": [{"id": "steering"}]}},
        {"steering": None},
    ],
)
def test_innocent_words_pass(client: TestClient, body: dict[str, Any]) -> None:
    sent = client.build_request("POST", CHAT, json=body)
    answer = client.send(sent)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"length": len(sent.content), "said": body}


@pytest.mark.parametrize("path", [CHAT, *OTHER])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"steering": {"vectors": {"a": 1}}}'.encode("utf-16"), "invalid_json"),
        ('{"steering": {"vectors": {"a": 1}}}'.encode("utf-16-le"), "invalid_json"),
        ('{"steering": {"vectors": {"a": 1}}}'.encode("utf-32"), "invalid_json"),
        ('{"é": 1}'.encode("latin-1"), "invalid_json"),
        (b'{"steering": {"vectors": {"a": 1}}, "steering": null}', "duplicate_key"),
        (b'{"steering": {"vectors": {"a": 1, "a": 2}}}', "duplicate_key"),
        (b'{"x": {"y": 1, "\\u0079": 2}}', "duplicate_key"),
        (b'{"n": ' + b"1" * 5000 + b"}", "invalid_json"),
        (b'{"n": 0.' + b"1" * 5000 + b"}", "invalid_json"),
        (b'{"n": NaN}', "invalid_json"),
        (b'{"n": [-Infinity]}', "invalid_json"),
        (b'{"n": "\\ud800"}', "invalid_json"),
        (b"{not json", "invalid_json"),
        (b"{}{}", "invalid_json"),
        (b'{"a":' * 100_000 + b'"\\u0061"' + b"}" * 100_000, "body_too_complex"),
        (b"[" * 100_000, "body_too_complex"),
        (b'{"input": [' + b"[]," * 20_000 + b"[]]}", "body_too_complex"),
        (b'{"input": [' + b"0," * 20_000 + b"0]}", "body_too_complex"),
        (b"{" + b",".join(b'"%d": 0' % n for n in range(9000)) + b"}", "body_too_complex"),
    ],
)
def test_what_can_be_read_in_two_ways_or_in_none_is_refused(
    client: TestClient, path: str, body: bytes, code: str
) -> None:
    answer = client.post(path, content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == code
    if code == "body_too_complex":
        assert "--max-body-" in error["message"]


def test_a_body_that_does_not_say_that_it_is_json_is_read_all_the_same(client: TestClient) -> None:
    body = json.dumps({"steering": VECTORS}).encode()
    refused(client.post("/v9/invented", content=body), "steering")
    refused(
        client.post("/tokenize", content=body, headers={"content-type": "text/plain"}), "steering"
    )
    # A route that reads any body as JSON reads what the guard could not.
    with pytest.raises(json.JSONDecodeError):
        client.post("/v9/invented", content='{"steering": 1}'.encode("utf-16"))


def test_what_is_no_body_passes(client: TestClient) -> None:
    assert client.post("/v9/invented").status_code == 200
    assert client.get("/v1/messages", headers={"X-Steering": "a=1"}).status_code == 200


def test_a_byte_order_mark_is_no_second_reading(client: TestClient) -> None:
    answer = client.post(CHAT, content=b'\xef\xbb\xbf{"a": 1}', headers=JSON)
    assert answer.json()["said"] == {"a": 1}


def test_a_large_body_is_read_in_a_thread(client: TestClient) -> None:
    body = {"prompt": "x" * 3_000_000}
    assert client.post("/v1/completions", json=body).json()["said"] == body
    refused(client.post("/v1/completions", json={**body, "steer": 1}), "steer")


@pytest.mark.parametrize(
    ("header", "field"),
    [
        ("cheerful=1.5,formal=-0.5",
         {"vectors": [{"id": "cheerful", "coefficient": 1.5},
                      {"id": "formal", "coefficient": -0.5}]}),
        (" cheerful , formal = 2e-1 ",
         {"vectors": [{"id": "cheerful"}, {"id": "formal", "coefficient": 0.2}]}),
        ("cheerful@0123456789ab=1",
         {"vectors": [{"id": "cheerful@0123456789ab", "coefficient": 1.0}]}),
        ('{"vectors": {"cheerful": 1.5}}', {"vectors": {"cheerful": 1.5}}),
        ("", None),
        ("null", None),
    ],
)  # fmt: skip
def test_the_header_says_the_field(client: TestClient, header: str, field: Any) -> None:
    answer = client.post(CHAT, json={"model": "m"}, headers={"X-Steering": header})
    assert answer.json()["said"].get("steering") == field


@pytest.mark.parametrize(
    "header",
    ["cheerful=", "=1", "cheerful=1,", "cheerful=one", "cheerful=nan", "cheerful=1;formal=2",
     "a=1,a=2", "{not json", '{"a": 1, "a": 2}', "{" * 100],
)  # fmt: skip
def test_a_header_that_is_wrong(client: TestClient, header: str) -> None:
    answer = client.post(CHAT, json={"model": "m"}, headers={"X-Steering": header})
    refused(answer, "X-Steering", "invalid_header")


def test_header_and_field_may_agree_and_not_differ(client: TestClient) -> None:
    both = {"steering": {"vectors": {"a": 1}}}
    assert client.post(CHAT, json=both, headers={"X-Steering": "a=1.0"}).status_code == 200
    answer = client.post(CHAT, json=both, headers={"X-Steering": "a=2"})
    refused(answer, "X-Steering", "contradiction")


@pytest.mark.parametrize("name", ["Steering", "X-Steer", "X-Steering-Vectors", "Control-Vector"])
def test_other_headers_that_mean_it(client: TestClient, name: str) -> None:
    refused(client.post(CHAT, json={}, headers={name: "a=1"}), name.lower(), "misplaced_steering")


def test_the_query_that_means_it(client: TestClient) -> None:
    refused(client.post(f"{CHAT}?steering=a", json={}), "query.steering", "misplaced_steering")
    carried = quote('{"steering": 1}')
    answer = client.post(f"{CHAT}?extra_body={carried}", json={})
    refused(answer, "query.extra_body.steering", "misplaced_steering")
    assert client.post(f"{CHAT}?q={quote('[1, 2]')}&r=a", json={}).status_code == 200


def test_refusals_are_counted(client: TestClient) -> None:
    def count() -> float:
        labels = {"reason": "misplaced_steering"}
        return REGISTRY.get_sample_value("steering_rejections_total", labels) or 0

    before = count()
    client.post(CHAT, json={"steer": 1})
    assert count() == before + 1


@pytest.fixture
def nested() -> Callable[[int], bytes]:
    return lambda n: b"[" * n + b"]" * n


def test_the_bounds_are_met_exactly(client: TestClient, nested: Callable[[int], bytes]) -> None:
    assert client.post(CHAT, content=nested(10), headers=JSON).status_code == 200
    refused(client.post(CHAT, content=nested(11), headers=JSON), "body", "body_too_complex")
    assert client.post(CHAT, json=[[]] * 49).status_code == 200
    refused(client.post(CHAT, json=[[]] * 50), "body", "body_too_complex")
    # Our own routes take lists of texts.
    assert client.post("/v1/steering/vectors/extract", json=[[]] * 400).status_code == 200


def test_a_form_is_no_way_past(client: TestClient) -> None:
    files = {"file": ("speech.wav", b"RIFF\xff" * 1000)}
    for name in ("steering", "Steering", "steering_vectors"):
        refused(client.post("/v9/invented", data={name: "x"}, files=files), name, "not_supported")
        refused(client.post("/v9/invented", data={"a": "1", name: "x"}), name, "not_supported")
    for data in ({"prompt": "steering=1"}, {"model": "steering"}):
        with pytest.raises(UnicodeDecodeError, match="utf-8"):  # Past the guard: it reads JSON.
            client.post("/v9/invented", data=data, files=files)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions//",
    ],
)
def test_a_slash_too_many_is_named_as_such(client: TestClient, path: str) -> None:
    url = f"http://testserver{path}"
    inside = {"extra_body": {"steering": VECTORS}}
    for body, param in (({"steering": VECTORS}, "steering"), (inside, "extra_body.steering")):
        message = refused(client.post(url, json=body), param)["message"]
        assert f"to {CHAT}" in message
        assert "is not a route" in message
        assert "cannot be steered" not in message
    error = refused(client.post(url, json={}, headers={"X-Steering": "a=1"}), "X-Steering")
    assert f"to {CHAT}," in error["message"]
    # Of a route that cannot be steered, and of no route, slashes are not what is wrong.
    for other in ("/v1/messages/", "/v9/invented/"):
        refused(client.post(other, json={"steering": VECTORS}), "steering", "not_supported")


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v9/invented"])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({f"k{n}": 1 for n in range(MOST_CLOSE + 1)}, "body"),
        ({"extra_body": {f"k{n}": 1 for n in range(MOST_CLOSE)}}, "extra_body"),
        ({"extra_body": {"kwargs": {f"k{n}": 1 for n in range(MOST_CLOSE)}}}, "extra_body.kwargs"),
        ({"vllm_xargs": {"a": "[" + " " * MOST_OPENED + "]"}}, "vllm_xargs.a"),
        ({"vllm_xargs": ["[]", " [" + " " * MOST_OPENED + "]"]}, "vllm_xargs"),
        ({"bad_words": ["a"] * (MOST_WORDS + 1)}, "bad_words"),
        ({"stop_token_ids": [1] * (MOST_WORDS + 1)}, "stop_token_ids"),
        ({"bad_words": ["a" * MOST_CHARACTERS, "b"]}, "bad_words"),
        ({"sampling_params": {"bad_words": ["a"] * 2000}}, "sampling_params.bad_words"),
        ({"structured_outputs": {"choice": ["a"] * 2000}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": "a" * (MOST_CHARACTERS + 1)}}, "structured_outputs"),
        ({"response_format": {"json_schema": {"k" * MOST_CHARACTERS: ""}}}, "response_format"),
        ({"text": {"format": {"schema": {"pattern": "a" * MOST_CHARACTERS}}}}, "text"),
    ],
)
def test_what_takes_long_to_look_at_is_refused(path: str, body: dict[str, Any], param: str) -> None:
    app = Starlette(routes=[Route(path, echo, methods=["POST"])])
    app.add_middleware(RefuseIgnored)
    error = refused(TestClient(app).post(path, json=body), param, "body_too_complex")
    assert "whatever the server's options; send less" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {f"k{n}": 1 for n in range(MOST_CLOSE)},
        {"metadata": {f"k{n}": "[" + " " * 100 for n in range(2000)}},
        {"vllm_xargs": {"a": "[" + " " * (MOST_OPENED - 2) + "]", "b": "x" * 2 * MOST_OPENED}},
        {"bad_words": ["a"] * MOST_WORDS, "text": ["a" * 2 * MOST_CHARACTERS]},
        {"structured_outputs": {"regex": "a" * (MOST_CHARACTERS - 5)}},
        {"messages": [{"content": "a" * 2 * MOST_CHARACTERS}]},
    ],
)
def test_what_does_not_passes(body: dict[str, Any]) -> None:
    app = Starlette(routes=[Route(CHAT, echo, methods=["POST"])])
    app.add_middleware(RefuseIgnored)
    assert TestClient(app).post(CHAT, json=body).json()["said"] == body


@pytest.mark.parametrize(
    ("path", "name", "most", "refuses"),
    [
        ("/v1/responses", "input", 12, True),
        ("/v1/responses", "tools", 3, True),
        ("/v1/chat/completions/batch", "messages", 12, True),
        (CHAT, "messages", 12, False),
        (CHAT, "input", 12, False),
        (CHAT, "tools", 3, False),
    ],
)
def test_items_of_a_response_are_counted(path: str, name: str, most: int, refuses: bool) -> None:
    app = Starlette(routes=[Route(path, echo, methods=["POST"])])
    app.add_middleware(RefuseIgnored, bounds=Bounds(items=12))
    client = TestClient(app)
    assert client.post(path, json={name: [{}] * most}).status_code == 200
    answer = client.post(path, json={name: [{}] * (most + 1)})
    if not refuses:
        assert answer.status_code == 200
        return
    error = refused(answer, name, "body_too_complex")
    assert f"at most {most} are taken" in error["message"]
    assert "--max-input-items" in error["message"]
