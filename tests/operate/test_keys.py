"""Who may do what, over real sockets."""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from bench.servers import Server
from tests.operate.conftest import KEYS, LOOKED, OPERATORS, As, Place
from tests.support.http.client import Client, chat_body, completion_body

pytestmark = pytest.mark.engine

RESPONSE = {"model": "smollm2", "input": "a", "max_output_tokens": 1}
COMPLETION = {"model": "smollm2", "prompt": "a", "max_tokens": 1}
CALLS: list[tuple[str, str, dict[str, Any], str]] = [
    ("POST", "/v1/chat/completions", {"json": chat_body(max_tokens=1)}, "infer"),
    ("POST", "/v1/completions", {"json": COMPLETION}, "infer"),
    ("POST", "/v1/responses", {"json": RESPONSE}, "infer"),
    ("POST", "/v1/messages/count_tokens", {"json": {}}, "infer"),
    ("POST", "/tokenize", {"json": {"model": "smollm2", "prompt": "a"}}, "infer"),
    ("POST", "/invocations", {"json": COMPLETION}, "infer"),
    ("POST", "/inference/v1/generate", {"json": {}}, "infer"),
    ("GET", "/v1/steering/vectors", {}, "read"),
    ("GET", "/v1/steering/vectors/rnd", {}, "read"),
    ("GET", "/v1/steering/vectors/rnd/content", {}, "read"),
    ("GET", "/v1/steering/vectors/rnd/inspect", {}, "read"),
    ("GET", "/v1/steering/jobs", {}, "read"),
    ("GET", "/v1/steering/jobs/job-0", {}, "read"),
    ("POST", "/v1/steering/vectors", {"data": {"name": "x"}}, "write"),
    ("PATCH", "/v1/steering/vectors/rnd", {"json": {}}, "write"),
    ("DELETE", "/v1/steering/vectors/absent", {}, "write"),
    ("POST", "/v1/steering/vectors/extract", {"json": {}}, "write"),
    ("DELETE", "/v1/steering/jobs/job-0", {}, "write"),
    ("POST", "/inference/v1/abort_requests", {"json": {}}, "admin"),
    ("GET", "/kv_event_sources", {}, "admin"),
]
SCOPES = ("admin", "infer", "read", "write")


def error(answer: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}, found
    return found


@pytest.mark.parametrize(("method", "path", "body", "needs"), CALLS)
def test_each_scope_opens_its_routes_and_no_other(
    key: As, rnd: str, method: str, path: str, body: dict[str, Any], needs: str
) -> None:
    for scope in SCOPES:
        answer = key(scope).http.request(method, path, **body)
        if scope in (needs, "admin"):
            # vLLM has 403s of its own, for what it was not started with.
            assert answer.status_code != 401, (scope, answer.text)
            assert "scope_missing" not in answer.text, scope
            assert answer.status_code < 500, (scope, answer.text)
        else:
            assert answer.status_code == 403, (scope, answer.text)
            said = error(answer)
            assert (said["type"], said["code"]) == ("permission_error", "scope_missing")
    stranger = key("nobody").http.request(method, path, **body)
    assert (stranger.status_code, error(stranger)["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", ["/health", "/ready", "/playground", "/playground/app.js"])
def test_probes_and_the_files_of_the_page_need_no_key(
    servers: tuple[Server, Server], path: str
) -> None:
    assert httpx.get(servers[0].url + path, timeout=30).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/version", "/openapi.json", "/docs", "/load"])
def test_nothing_else_is_said_to_strangers(servers: tuple[Server, Server], path: str) -> None:
    assert httpx.get(servers[0].url + path, timeout=30).status_code == 401


def test_strangers_do_not_learn_which_routes_there_are(servers: tuple[Server, Server]) -> None:
    for path in ("/v1/steering/vectors/rnd", "/v1/nothing", "/nothing", "/collective_rpc"):
        answer = httpx.get(servers[0].url + path, timeout=30)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")


def test_vllms_own_key_goes_on_working(servers: tuple[Server, Server], rnd: str) -> None:
    headers = {"Authorization": f"Bearer {OPERATORS}"}
    with httpx.Client(base_url=servers[0].url, headers=headers, timeout=60) as http:
        assert http.get("/v1/models").status_code == 200
        assert http.get(f"/v1/steering/vectors/{rnd}").status_code == 200
        assert Client(http).chat(max_tokens=1).status_code == 200


def test_openais_sdk_raises_its_own_errors(servers: tuple[Server, Server], rnd: str) -> None:
    def ask(name: str, **steering: Any) -> Any:
        client = openai.OpenAI(base_url=f"{servers[0].url}/v1", api_key=f"sk-{name}", max_retries=0)
        return client.chat.completions.create(
            model="smollm2",
            messages=[{"role": "user", "content": "a"}],
            max_tokens=1,
            extra_body={"steering": {"vectors": steering}} if steering else None,
        )

    assert ask("infer", rnd=0.1).steering["vectors"][0]["id"] == rnd
    with pytest.raises(openai.AuthenticationError):
        ask("nobody")
    with pytest.raises(openai.PermissionDeniedError):
        ask("read")
    with pytest.raises(openai.BadRequestError, match="there is no vector"):
        ask("team", rnd=0.1)


def test_a_hidden_vector_is_answered_as_an_absent_one(key: As, rnd: str) -> None:
    """The same status, headers and body, but for the name."""
    team = key("team")
    digest = key("admin").http.get(f"/v1/steering/vectors/{rnd}").json()["digest"]

    def answers(name: str) -> list[tuple[int, str]]:
        one = f"/v1/steering/vectors/{name}"
        field = {"vectors": [{"id": name, "coefficient": 0.1}]}
        asked = [
            team.http.get(one),
            team.http.get(f"{one}@{digest[7:19]}"),
            team.http.get(f"{one}/content"),
            team.http.get(f"{one}/inspect"),
            team.http.patch(one, json={"coefficient": 2.0}),
            team.http.patch(one, json={"digest": digest}),
            team.http.delete(one),
            team.chat(steering=field),
            team.http.post("/v1/completions", json={**COMPLETION, "steering": field}),
            team.http.post("/v1/responses", json={**RESPONSE, "steering": field}),
        ]  # fmt: skip
        return [(a.status_code, a.text.replace(name, "NAME")) for a in asked]

    hidden, absent = answers(rnd), answers("gone")
    assert hidden == absent
    # An unknown vector in a request is no 404, which clients take for the model.
    assert [status for status, _ in hidden] == [404] * 7 + [400] * 3
    assert rnd not in team.http.get("/v1/steering/vectors").text
    assert key("admin").http.get(f"/v1/steering/vectors/{rnd}").status_code == 200


def test_content_of_hidden_vectors_cannot_be_had_by_its_digest(
    key: As, rnd: str, make_vector: Callable[..., bytes]
) -> None:
    team = key("team")
    digest = key("admin").http.get(f"/v1/steering/vectors/{rnd}").json()["digest"]
    assert team.upload(make_vector(50), "team-own").status_code == 201
    answer = team.http.patch("/v1/steering/vectors/team-own", json={"digest": digest})
    nowhere = team.http.patch("/v1/steering/vectors/team-own", json={"digest": "0" * 64})
    assert answer.status_code == nowhere.status_code == 404
    assert answer.text.replace(digest, "D") == nowhere.text.replace("0" * 64, "D")
    assert team.http.delete("/v1/steering/vectors/team-own").status_code == 200


def test_others_do_not_show_in_what_a_vector_is_like(
    key: As, rnd: str, make_vector: Callable[..., bytes]
) -> None:
    team = key("team")
    assert team.upload(make_vector(51), "team-like").status_code == 201
    seen = team.http.get("/v1/steering/vectors/team-like/inspect")
    assert (seen.status_code, seen.json()["similarity"]["vectors"]) == (200, [])
    whole = key("admin").http.get("/v1/steering/vectors/team-like/inspect").json()
    assert rnd in whole["similarity"]["vectors"]
    assert team.http.delete("/v1/steering/vectors/team-like").status_code == 200


def test_names_and_numbers_of_a_keys_vectors(
    key: As, rnd: str, make_vector: Callable[..., bytes]
) -> None:
    team = key("team")
    for name in (rnd, "elsewhere"):
        answer = team.upload(make_vector(52), name)
        assert (answer.status_code, error(answer)["code"]) == (403, "name_not_allowed")
    for n in range(2):
        assert team.upload(make_vector(60 + n), f"team-{n}").status_code == 201
    assert team.upload(make_vector(60), "team-0").status_code == 200, "it is there already"
    over = team.upload(make_vector(62), "team-2")
    assert (over.status_code, error(over)["code"]) == (403, "too_many_vectors")
    assert key("admin").upload(make_vector(62), "team-2").status_code == 201, "counts for admin"
    for n in range(3):
        assert team.http.delete(f"/v1/steering/vectors/team-{n}").status_code == 200


def test_a_keys_dose(key: As, make_vector: Callable[..., bytes]) -> None:
    """Random vectors here have a third of the stream's norm."""
    team = key("team")
    assert team.upload(make_vector(70), "team-dose").status_code == 201
    assert team.http.get("/v1/steering/capabilities").json()["limits"]["max_relative_dose"] == 0.5
    assert team.chat(steering={"vectors": {"team-dose": 0.2}}, max_tokens=1).status_code == 200
    over = {
        "one": {"vectors": {"team-dose": 5.0}},
        "two": {"vectors": [{"id": "team-dose", "coefficient": c} for c in (0.8, 0.8)]},
        "dynamic": {"vectors": [{"id": "team-dose"}], "dynamic": {"start": 1.0, "max": 5.0}},
        "schedule": {"vectors": [{"id": "team-dose", "schedule": [0.1, 5.0]}]},
    }
    for way, field in over.items():
        answer = team.chat(steering=field)
        assert (answer.status_code, error(answer)["code"]) == (400, "dose_over_limit"), way
        if way != "dynamic":
            assert key("admin").chat(steering=field, max_tokens=1).status_code == 200, way
    assert team.http.delete("/v1/steering/vectors/team-dose").status_code == 200


def test_extractions_of_a_key(key: As) -> None:
    team = key("team")
    texts = {"positive": [f"I am glad {n}" for n in range(20)],
             "negative": [f"I am sad {n}" for n in range(20)]}  # fmt: skip

    def extract(name: str, **more: Any) -> httpx.Response:
        body = {"name": name, "method": "mean_difference", "layers": [10], **texts, **more}
        return team.http.post("/v1/steering/vectors/extract", json=body)

    hidden = extract("elsewhere")
    assert (hidden.status_code, error(hidden)["code"]) == (403, "name_not_allowed")
    long = extract("team-x", positive=["glad"] * 41)
    assert (long.status_code, error(long)["code"]) == (400, "too_many_rows")
    first = extract("team-made")
    assert first.status_code == 202, first.text
    second = extract("team-more")
    assert (second.status_code, error(second)["code"]) == (429, "too_many_jobs")
    job = first.json()["id"]
    while (found := team.http.get(f"/v1/steering/jobs/{job}").json())["status"] in (
        "queued", "running",
    ):  # fmt: skip
        time.sleep(0.2)
    assert found["status"] == "succeeded", found
    assert job in team.http.get("/v1/steering/jobs").text

    theirs = key("admin").http.post(
        "/v1/steering/vectors/extract",
        json={"name": "not-theirs", "method": "mean_difference", "layers": [10], **texts},
    )
    assert theirs.status_code == 202
    other = theirs.json()["id"]
    assert other not in team.http.get("/v1/steering/jobs").text
    for call in (team.http.get, team.http.delete):
        answer = call(f"/v1/steering/jobs/{other}")
        absent = call("/v1/steering/jobs/job-0123456789abcdef")
        assert answer.status_code == absent.status_code == 404
        assert answer.text.replace(other, "JOB") == absent.text.replace(
            "job-0123456789abcdef", "JOB"
        )
    assert key("admin").http.delete(f"/v1/steering/jobs/{other}").status_code == 200
    assert team.http.delete("/v1/steering/vectors/team-made").status_code == 200


def test_requests_at_once(key: As) -> None:
    narrow = key("narrow")
    began = threading.Event()

    def long() -> None:
        body = {**chat_body("Tell me a long story."), "max_tokens": 60, "ignore_eos": True}
        with narrow.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as s:
            for _ in s.iter_lines():
                began.set()

    stream = threading.Thread(target=long)
    stream.start()
    assert began.wait(60)
    refused = key("narrow").chat(max_tokens=1)
    assert (refused.status_code, error(refused)["type"]) == (429, "rate_limit_error")
    assert int(refused.headers["retry-after"]) >= 1
    assert key("infer").chat(max_tokens=1).status_code == 200, "others are not in its way"
    stream.join()
    assert key("narrow").chat(max_tokens=1).status_code == 200


def test_requests_a_minute(key: As) -> None:
    seldom = key("seldom")
    statuses = [seldom.http.get("/v1/models").status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    refused = seldom.http.get("/v1/models")
    assert error(refused)["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 20


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat_body(n=4)),
        ("/v1/chat/completions", chat_body(n=2, steering={"vectors": {"rnd": 1.0}})),
        ("/v1/chat/completions/batch", {**chat_body(), "messages": [chat_body()["messages"]] * 2}),
        ("/v1/completions", completion_body(["a", "b"])),
        ("/v1/completions", completion_body("a", n=2)),
        ("/inference/v1/generate", {"token_ids": [1, 2], "sampling_params": {"n": 2}}),
    ],
)
def test_answers_count_and_not_calls(key: As, rnd: str, path: str, body: Any) -> None:
    refused = key("narrow").http.post(path, json=body)
    assert (refused.status_code, error(refused)["code"]) == (403, "too_many_answers")


def test_a_new_file_holds_at_once_and_a_bad_one_not_at_all(key: As, place: Place) -> None:
    new = key("newcomer")
    assert new.http.get("/v1/models").status_code == 401
    try:
        place.write_keys({**KEYS, "newcomer": {"scopes": ["infer"]}})
        time.sleep(LOOKED)
        assert new.http.get("/v1/models").status_code == 200
        place.keys.write_text("keys: [{name: newcomer")
        time.sleep(LOOKED)
        assert new.http.get("/v1/models").status_code == 200, "the good one stays"
        assert key("admin").metric("steering_keys_stale") == 1
    finally:
        place.write_keys(KEYS)
    time.sleep(LOOKED)
    assert new.http.get("/v1/models").status_code == 401, "and is taken back"
    assert key("admin").metric("steering_keys_stale") == 0


def test_every_change_has_an_audit_line(
    key: As, place: Place, make_vector: Callable[..., bytes]
) -> None:
    before = len(place.audit.read_text().splitlines())
    admin = key("admin")
    admin.http.headers["X-Request-Id"] = "audited"
    made = admin.upload(make_vector(80), "audited").json()
    assert admin.upload(make_vector(80), "audited").status_code == 200, "no change, no line"
    patched = admin.http.patch("/v1/steering/vectors/audited", json={"coefficient": 2.0}).json()
    assert admin.http.get("/v1/steering/vectors/audited").status_code == 200
    admin.http.delete("/v1/steering/vectors/audited")
    admin.http.post("/inference/v1/abort_requests", json={})
    lines = [json.loads(line) for line in place.audit.read_text().splitlines()[before:]]
    lines = [line for line in lines if line["request_id"] == "audited"]
    assert [line["audit"] for line in lines] == [
        "vector.created", "vector.updated", "vector.deleted", "admin.called",
    ]  # fmt: skip
    assert all((line["key"], line["client"]) == ("admin", "127.0.0.1") for line in lines)
    assert [line.get("digest") for line in lines[:3]] == [
        made["digest"], patched["digest"], patched["digest"],
    ]  # fmt: skip
    assert lines[3]["path"] == "/inference/v1/abort_requests"
    assert "sk-" not in place.audit.read_text()
