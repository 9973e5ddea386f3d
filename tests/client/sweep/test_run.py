"""A sweep over a transport that answers as the server does: what is asked, and what comes of it."""

import asyncio
import json
import math
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import typer

from steersman.client.errors import CliError, Refused, Unreachable
from steersman.client.sweep import command, http
from steersman.client.sweep.ask import Asker
from steersman.client.sweep.grid import UNSTEERED, Cell
from steersman.client.sweep.measures import make_measure
from steersman.client.sweep.run import CellResult, sweep

DIGEST = "sha256:" + "ab" * 32
PROMPTS = ("one", "two", "three")


class Server:
    """Answers "X" once more for each unit of the coefficient; all its tokens have p = 1/4."""

    def __init__(self) -> None:
        self.most_at_once = self._now = 0
        self.failures: list[int | Exception] = []
        """What the next requests get instead of an answer."""
        self.receipts = True
        self.limit = math.inf

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        if self.failures:
            failure = self.failures.pop()
            if isinstance(failure, Exception):
                raise failure
            return httpx.Response(failure, json={}, headers={"retry-after": "0"})
        body = json.loads(request.content)
        if request.url.path == "/v1/completions":
            at = [None, *({str(t): {"logprob": -math.log(4)}} for t in body["prompt"][1:])]
            return httpx.Response(200, json={"choices": [{"prompt_logprobs": at}]})
        return self._chat(body)

    def _chat(self, body: dict[str, Any]) -> httpx.Response:
        steering = body["steering"]  # null where the answer is to be unsteered
        coefficient = steering["vectors"][0]["coefficient"] if steering else 0
        if coefficient > self.limit:
            error = {"message": "too strong", "param": "steering.vectors[0].coefficient"}
            return httpx.Response(400, json={"error": error})
        words = ["a"] * (4 - coefficient) + ["X"] * coefficient
        answer: dict[str, Any] = {
            "prompt_token_ids": [1, 2, 3],
            "choices": [{"message": {"content": " ".join(words)}, "token_ids": [4, 5, 6, 7]}],
        }
        if coefficient and self.receipts:
            receipt = {"digest": DIGEST, "relative_dose": {"3": 0.1 * coefficient}}
            answer["steering"] = {"vectors": [receipt]}
        return httpx.Response(200, json=answer)


def run(
    server: Server, on_answer: Callable[[], None] = lambda: None, **more: Any
) -> list[CellResult]:
    async def work() -> list[CellResult]:
        transport = httpx.MockTransport(server)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            asker = Asker(http, "m", "v@abababababab", DIGEST)
            measure = make_measure("regex:X")
            return await sweep(
                asker, measure, [(3,)], [1, 2, 3], PROMPTS, parallel=2, on_answer=on_answer,
                **more,
            )  # fmt: skip

    return asyncio.run(work())


def test_every_cell_is_measured() -> None:
    done: list[None] = []
    results = run(Server(), lambda: done.append(None))
    assert [r.cell for r in results] == [UNSTEERED, *(Cell((3,), c) for c in (1, 2, 3))]
    assert [r.measure for r in results] == [0, 25, 50, 75]
    assert [r.error for r in results] == [0, 0, 0, 0]
    assert [(r.gain, r.gain_error) for r in results[1:]] == [(25, 0), (50, 0), (75, 0)]
    assert [r.perplexity for r in results] == pytest.approx([4] * 4)
    assert [r.tokens for r in results] == [12] * 4
    assert [r.relative_dose for r in results[:2]] == [None, {"3": 0.1}]
    assert len(done) == 4 * len(PROMPTS)


def test_no_more_in_flight_than_allowed() -> None:
    server = Server()
    run(server)
    assert server.most_at_once == 2


@pytest.mark.parametrize(
    "failure", [429, 500, 502, 503, 504, httpx.ReadError(""), httpx.ConnectError("refused")]
)
def test_a_server_that_fails_once_is_asked_again(failure: int | Exception) -> None:
    server = Server()
    server.failures = [failure]
    assert [r.measure for r in run(server)] == [0, 25, 50, 75]


@pytest.mark.parametrize(
    ("failure", "raised"), [(500, Refused), (httpx.ReadError(""), Unreachable)]
)
def test_a_server_that_fails_for_good_ends_it(
    monkeypatch: pytest.MonkeyPatch, failure: int | Exception, raised: type[Exception]
) -> None:
    monkeypatch.setattr(http, "TRIES", 2)
    server = Server()
    server.failures = [failure] * 8
    with pytest.raises(raised):
        run(server)


def test_a_dose_that_is_refused_ends_its_cell_only() -> None:
    server = Server()
    server.limit = 2
    results = run(server)
    assert [r.measure for r in results[:3]] == [0, 25, 50]
    assert results[3].refused == "too strong"
    assert math.isnan(results[3].measure)


def test_an_answer_without_receipt_is_not_believed() -> None:
    server = Server()
    server.receipts = False
    with pytest.raises(Refused, match="no receipt"):
        run(server)


def test_after_the_unsteered_cell_it_says_what_is_to_come_and_may_be_stopped() -> None:
    server, said = Server(), []

    def unsteered(seconds: float, left: int) -> None:
        said.append((seconds, left))
        raise CliError("stopped")

    done: list[None] = []
    with pytest.raises(CliError, match="stopped"):
        run(server, lambda: done.append(None), on_unsteered=unsteered)
    ((seconds, left),) = said
    assert 0 < seconds < 60
    assert left == 3 * len(PROMPTS)
    assert len(done) == len(PROMPTS), "nothing steered was asked for"


@pytest.mark.parametrize(
    ("seconds", "yes", "person", "answer", "goes_on"),
    [
        (59, False, False, None, True),
        (61, False, False, None, False),
        (61, True, False, None, True),
        (1000, False, True, True, True),
        (1000, False, True, False, False),
    ],
)
def test_above_a_minute_it_asks(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    yes: bool,
    person: bool,
    answer: bool | None,
    goes_on: bool,
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: person, raising=False)
    monkeypatch.setattr(typer, "confirm", lambda *_, **__: answer)
    if goes_on:
        command.confirm_duration(seconds, 40, yes=yes)
    else:
        with pytest.raises(CliError):
            command.confirm_duration(seconds, 40, yes=yes)
    assert "40 answers more" in capsys.readouterr().err
