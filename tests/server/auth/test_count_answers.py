"""Limits of keys count answers: however many are asked for in one call, it is as if they had been
asked for one by one."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steersman.server import error_response
from steersman.server.auth.count_answers import BODY, CountAnswers, answers_of
from steersman.server.auth.rate_limit import CountedRequest, RateLimiter
from steersman.server.auth.route_scopes import need_of
from steersman.server.errors import NotAllowed, TooManyRequests
from steersman.server.middleware.auth import Authenticate
from tests.server.auth.test_rate_limit import Clock
from tests.support.server.keys import bearer, entry, keys, permissions

CHAT, COMPLETION = [{"role": "user", "content": "?"}], "The sky is"
BODIES: list[tuple[str, Any, int]] = [
    ("/v1/chat/completions", {"messages": CHAT}, 1),
    ("/v1/chat/completions", {"messages": CHAT, "n": 3}, 3),
    ("/v1/chat/completions", {"messages": CHAT, "n": "3"}, 3),
    ("/v1/chat/completions", {"messages": CHAT, "n": 3.0}, 3),
    ("/v1/chat/completions", {"messages": CHAT, "n": None}, 1),
    ("/v1/chat/completions", {"messages": CHAT, "n": 3, "use_beam_search": True}, 3),
    ("/v1/chat/completions/batch", {"messages": [CHAT] * 3}, 3),
    ("/v1/chat/completions/batch", {"messages": [CHAT] * 2, "n": 2}, 4),
    ("/v1/completions", {"prompt": COMPLETION}, 1),
    ("/v1/completions", {"prompt": [COMPLETION] * 3}, 3),
    ("/v1/completions", {"prompt": [COMPLETION] * 2, "n": 2}, 4),
    ("/v1/completions", {"prompt": [1, 2, 3, 4]}, 1),
    ("/v1/completions", {"prompt": [[1, 2], [3]], "n": 2}, 4),
    ("/v1/completions", {"prompt": COMPLETION, "best_of": 3}, 3),
    ("/v1/completions", {"prompt_embeds": ["a", "b"], "prompt": COMPLETION}, 3),
    ("/v1/responses", {"input": COMPLETION}, 1),
    ("/v1/messages", {"messages": CHAT}, 1),
    ("/invocations", {"prompt": [COMPLETION] * 3}, 3),
    ("/inference/v1/generate", {"token_ids": [1, 2], "sampling_params": {"n": 3}}, 3),
    ("/generative_scoring", {"query": "?", "items": ["a", "b", "c"]}, 3),
    ("/v1/decisions", {"input": "?", "questions": [{"type": "choice"}, {"type": "choice"}]}, 2),
]
NOTHING_TO_COUNT: list[Any] = [
    None, [], {}, "", 7, {"n": 0}, {"n": -5}, {"n": True}, {"n": "many"}, {"n": float("inf")},
    {"n": []}, {"prompt": []}, {"prompt": {}}, {"messages": []}, {"sampling_params": [3]},
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "answers"), BODIES)
def test_what_a_body_asks_for(path: str, body: Any, answers: int) -> None:
    assert answers_of(body) == answers
    assert need_of("POST", path) == "infer"


@pytest.mark.parametrize("body", NOTHING_TO_COUNT)
def test_what_asks_for_nothing_in_particular(body: Any) -> None:
    assert answers_of(body) == 1


class ReadsBodies:
    """In the place of RefuseIgnored: leaves what the body says in the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", scope["type"] == "http"
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        if body:
            scope[BODY] = json.loads(body)

        async def again() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, again, send)


def answered() -> dict[str, str]:
    return {}


def client(tmp_path: Path, **limits: Any) -> TestClient:
    app = FastAPI()
    error_response.install(app)
    for path in {path for path, _, _ in BODIES}:
        app.add_api_route(path, answered, methods=["POST"])
    app.add_middleware(CountAnswers)
    app.add_middleware(ReadsBodies)
    app.add_middleware(Authenticate, keys=keys(tmp_path, entry("who", **limits)))
    return TestClient(app, headers=bearer("who"))


@pytest.mark.parametrize(("path", "body", "answers"), BODIES)
def test_one_call_is_as_many_as_it_makes(
    tmp_path: Path, path: str, body: Any, answers: int
) -> None:
    http = client(tmp_path, requests_per_minute=answers + 1)
    assert http.post(path, json=body).status_code == 200
    # One is left.
    two = {"prompt": COMPLETION, "n": 2}
    refused = http.post("/v1/completions", json=two)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize("limit", ["requests_per_minute", "max_concurrent_requests"])
@pytest.mark.parametrize(("path", "body", "answers"), [one for one in BODIES if one[2] > 1])
def test_more_than_may_ever_be_is_no_matter_of_waiting(
    tmp_path: Path, path: str, body: Any, answers: int, limit: str
) -> None:
    refused = client(tmp_path, **{limit: answers - 1}).post(path, json=body)
    assert refused.status_code == 403
    error = refused.json()["error"]
    assert error["code"] == "too_many_answers"
    assert limit in error["message"]
    assert f"{answers} answers" in error["message"]
    assert client(tmp_path, **{limit: answers}).post(path, json=body).status_code == 200


def test_answers_run_at_once_and_end_together() -> None:
    clock = Clock()
    limiter, who = RateLimiter(clock), permissions(max_concurrent_requests=5)
    first = CountedRequest(limiter, who)
    first.count(3)
    # The same call, counted once more by another part of the server.
    first.count(3)
    second = CountedRequest(limiter, who)
    with pytest.raises(TooManyRequests, match="other requests of this key have 3 answers"):
        second.count(3)
    second.count(2)
    with pytest.raises(TooManyRequests):
        CountedRequest(limiter, who)
    first.leave()
    third = CountedRequest(limiter, who)
    third.count(3)
    with pytest.raises(NotAllowed):
        third.count(6)
    second.leave()
    third.leave()
    assert not limiter._uses


def test_the_rate_is_told_by_answers() -> None:
    clock = Clock()
    limiter, who = RateLimiter(clock), permissions(requests_per_minute=6)
    CountedRequest(limiter, who).count(6)
    clock.now += 10
    counted = CountedRequest(limiter, who)
    with pytest.raises(TooManyRequests) as refusal:
        counted.count(4)
    assert refusal.value.retry_after == 30
    clock.now += 30
    counted.count(4)
