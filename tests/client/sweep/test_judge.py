"""The judge against a small HTTP server on loopback that answers as OpenAI's does."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from steersman.client.errors import Refused, Unreachable
from steersman.client.sweep import http
from steersman.client.sweep.ask import Answer
from steersman.client.sweep.measures import Measure, make_measure
from steersman.client.sweep.measures.judge import KEY


class StandIn(ThreadingHTTPServer):
    """Says the next of `says` (a text, or a status), and keeps what it was asked."""

    says: list[str | int]
    asked: list[dict[str, Any]]
    keys: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append({"path": self.path, **body})
        self.server.keys.append(self.headers["authorization"])
        said = self.server.says.pop(0)
        status = said if isinstance(said, int) else 200
        answer: Any = {"choices": [{"message": {"role": "assistant", "content": said}}]}
        if isinstance(said, int):
            answer = {"error": {"message": "no", "type": "x", "param": None, "code": None}}
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn(("127.0.0.1", 0), Handler)
    server.says, server.asked, server.keys = [], [], []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def grade(url: str, answer: Answer) -> float | None:
    measure: Measure = make_measure(f"judge:{url}|judge-1|Is it polite? A|B")

    async def ask() -> float | None:
        try:
            await measure.prepare(_no_tokens)
            return await measure.of(answer)
        finally:
            await measure.close()

    return asyncio.run(ask())


async def _no_tokens(text: str) -> list[int]:
    raise AssertionError(text)


def url_of(stand_in: StandIn) -> str:
    return f"http://127.0.0.1:{stand_in.server_port}/v1"


ANSWER = Answer("How are you?", "Well, thank you.")


def test_a_grade(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    stand_in.says = ["8.5"]
    assert grade(url_of(stand_in), ANSWER) == 8.5
    (asked,) = stand_in.asked
    assert asked["path"] == "/v1/chat/completions"
    assert asked["model"] == "judge-1"
    assert asked["temperature"] == 0
    for part in ("How are you?", "Well, thank you.", "Is it polite? A|B"):
        assert part in asked["messages"][-1]["content"]
    assert stand_in.keys == ["Bearer secret"]


def test_the_key_of_openai_is_not_sent(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "mine")
    monkeypatch.delenv(KEY, raising=False)
    stand_in.says = ["1"]
    grade(url_of(stand_in), ANSWER)
    assert stand_in.keys == [None]


def test_who_gives_no_number_is_asked_once_more(stand_in: StandIn) -> None:
    stand_in.says = ["I would say 8/10", "8"]
    assert grade(url_of(stand_in), ANSWER) == 8
    stand_in.says = ["eight", "very polite", "9"]
    assert grade(url_of(stand_in), ANSWER) is None
    assert stand_in.says == ["9"]


def test_who_is_busy_is_asked_again(stand_in: StandIn) -> None:
    stand_in.says = [503, "3"]
    assert grade(url_of(stand_in), ANSWER) == 3


def test_who_refuses_is_believed(stand_in: StandIn) -> None:
    stand_in.says = [401]
    with pytest.raises(Refused):
        grade(url_of(stand_in), ANSWER)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TRIES", 2)
    with pytest.raises(Unreachable):
        grade("http://127.0.0.1:1/v1", ANSWER)
