"""Answers that no well server gives, over httpx's own stand-in for a network."""

import http.server
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import typer

from steersman.client.chat.loop import Conversation, command, receipt_line
from steersman.client.cli import watch as watching
from steersman.client.cli.app import app, run
from steersman.client.cli.options import api_key
from steersman.client.cli.watch import check_succeeded, watch
from steersman.client.errors import CliError, Refused, Unreachable, WrongUsage
from steersman.client.http import Client

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> Client:
    return Client("http://there", None, transport=httpx.MockTransport(handler))


def job(status: str, **fields: Any) -> dict[str, Any]:
    progress = {"done": 1, "total": 2, "rate": 0.5, "eta_s": 2.0}
    empty: dict[str, Any] = {"bad_rows": [], "vectors": [], "error": None, "phase": "capturing"}
    return {"id": "job-1", "status": status, "progress": progress} | empty | fields


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.0)


def test_a_job_is_watched_to_its_end_over_a_restart() -> None:
    answers = iter([job("queued"), None, job("running"), None, job("succeeded")])

    def handler(request: httpx.Request) -> httpx.Response:
        answer = next(answers)
        if answer is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=answer)

    assert watch(client(handler), job("queued"))["status"] == "succeeded"


def test_a_server_that_is_gone_is_not_waited_for_for_ever() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unreachable):
        watch(client(handler), job("running"))


@pytest.mark.parametrize("cancel", [True, False])
def test_ctrl_c_cancels_the_job_that_it_started(cancel: bool) -> None:
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        if asked == ["GET"]:
            raise KeyboardInterrupt
        return httpx.Response(200, json=job("cancelling" if len(asked) < 4 else "cancelled"))

    with pytest.raises(KeyboardInterrupt):
        watch(client(handler), job("running"), cancel=cancel)
    assert asked == (["GET", "DELETE", "GET", "GET"] if cancel else ["GET"])


def test_a_job_that_failed_says_why() -> None:
    check_succeeded(job("succeeded"))
    error = {"message": "too few", "param": "pairs", "code": "too_few_rows"}
    bad = [{"row": 1, "label": "", "reason": "is empty"}]
    with pytest.raises(Refused) as caught:
        check_succeeded(job("failed", error=error, bad_rows=bad))
    assert (caught.value.param, caught.value.code) == ("pairs", "too_few_rows")
    assert "too few" in caught.value.message
    assert "jobs show job-1" in (caught.value.remedy or "")
    with pytest.raises(Refused, match="cancelled"):
        check_succeeded(job("cancelled"))


@pytest.mark.parametrize(
    ("answer", "message", "remedy"),
    [
        (httpx.Response(502, text="<html>"), "502: Bad Gateway", "proxy"),
        (httpx.Response(404, json={"detail": "Not Found"}), "404: Not Found", "Steersman"),
        (httpx.Response(500, json=["odd"]), "500", None),
        (httpx.Response(200, text="<html>"), "not JSON", "Steersman"),
        (
            httpx.Response(
                429,
                headers={"retry-after": "30"},
                json={"error": {"message": "full", "code": "too_many_jobs", "param": None}},
            ),
            "full",
            "try again in 30 s; `steersman jobs list`",
        ),
    ],
)
def test_refusals(answer: httpx.Response, message: str, remedy: str | None) -> None:
    with pytest.raises(Refused, match=message) as caught:
        client(lambda _: answer).get("/v1/steering/jobs")
    assert (remedy or "") in (caught.value.remedy or "")


def events(*parts: str, done: bool = True) -> httpx.Response:
    text = "".join(f"data: {part}\n\n" for part in (*parts, *(["[DONE]"] if done else [])))
    return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})


PIECE = '{"choices": [{"index": 0, "delta": {"content": "Hi\\u001b"}, "finish_reason": null}]}'
END = '{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}'


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (events(PIECE), "cut_off"),
        (events(PIECE, END), "no_receipt"),
        (events(PIECE, '{"error": {"message": "m", "code": "not_steered"}}'), "not_steered"),
        (httpx.Response(503, json={"error": {"message": "m", "code": "bank_full"}}), "bank_full"),
        (httpx.Response(200, json={"choices": []}), "not_a_stream"),
        (events(PIECE, '{"choices": ['), "not_a_stream"),
    ],
)
def test_an_answer_that_failed_was_not_said(answer: httpx.Response, code: str) -> None:
    talk = Conversation(client(lambda _: answer), {"model": "m"}, "Be kind.")
    talk.steering = {"glad": 1.0}
    with pytest.raises(Refused) as caught:
        talk.ask("Hello")
    assert caught.value.code == code
    assert talk.messages == [{"role": "system", "content": "Be kind."}]


def test_events_are_read_as_the_standard_has_them() -> None:
    text = ': a comment\r\nevent: x\r\ndata:{"a":\r\ndata: 1}\r\n\r\nid: 7\n\ndata: [DONE]\n\n'
    answer = httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})
    with client(lambda _: answer).stream("/v1/chat/completions", {}) as found:
        assert list(found) == [{"a": 1}]


def test_without_httpx_sse_a_stream_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules makes the import fail as if the package were not there.
    monkeypatch.setitem(sys.modules, "httpx_sse", None)
    talk = Conversation(client(lambda _: events(PIECE, END)), {"model": "m"})
    with pytest.raises(CliError, match="httpx-sse") as caught:
        talk.ask("Hello")
    assert (caught.value.code, caught.value.remedy) == (
        "package_missing", "run `pip install httpx-sse`"
    )  # fmt: skip


def test_a_conversation_grows_by_its_turns(capsys: pytest.CaptureFixture[str]) -> None:
    bodies = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(httpx.Response(200, content=request.content).json())
        return events(PIECE, END)

    talk = Conversation(client(handler), {"model": "m", "seed": 1})
    talk.ask("Hello")
    talk.ask("Again")
    assert [m["content"] for m in bodies[1]["messages"]] == ["Hello", "Hi\x1b", "Again"]
    assert bodies[1]["seed"] == 1
    assert "steering" not in bodies[1]
    shown = capsys.readouterr()
    # The model's escape sequences stay away from the terminal.
    assert shown.out == "Hi\N{REPLACEMENT CHARACTER}\n" * 2
    assert shown.err == "[not steered]\n" * 2
    talk.reset()
    assert talk.messages == []


def test_sampling_is_shown_and_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    bodies = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(httpx.Response(200, content=request.content).json())
        return events(PIECE, END)

    talk = Conversation(client(handler), {"model": "m", "temperature": 0.7, "max_tokens": 300})
    for line in ("/set temperature 0.2", "/set seed 3", "/set max_tokens off", "/set"):
        assert command(talk, line)
    assert capsys.readouterr().err.splitlines()[-1] == "temperature 0.2, seed 3"
    talk.ask("Hello")
    assert bodies[0]["temperature"] == 0.2
    assert bodies[0]["seed"] == 3
    assert "max_tokens" not in bodies[0]
    for wrong in ("/set a 1", "/set temperature", "/set temperature hot", "/set seed 1.5"):
        with pytest.raises(WrongUsage):
            command(talk, wrong)
    assert talk.options["temperature"] == 0.2


def test_a_conversation_reads_without_steering(capsys: pytest.CaptureFixture[str]) -> None:
    bodies = []
    reads = [{"id": "glad", "measure": "cosine", "values": {"8": [0.1, 0.3], "9": []}}]

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"id": "glad"})
        bodies.append(httpx.Response(200, content=request.content).json())
        end = {**json.loads(END), "steering": {"vectors": [], "reads": reads}}
        return events(PIECE, json.dumps(end))

    talk = Conversation(client(handler), {"model": "m"})
    assert command(talk, "/read glad")
    talk.ask("Hello")
    assert bodies[0]["steering"] == {"read": [{"id": "glad", "measure": "cosine"}]}
    assert "[glad read at 8: cosine +0.200 on average]" in capsys.readouterr().err
    assert command(talk, "/read off")
    assert "steering" not in talk.body("Again")


def test_chat_samples_soberly_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from steersman.client.chat import loop as chat_loop

    talks: list[Conversation] = []
    monkeypatch.setattr(chat_loop, "converse", lambda talk, _: talks.append(talk))
    run(["chat", "--model", "m", "--server", "http://127.0.0.1:9"])
    run(["chat", "--model", "m", "--server", "http://127.0.0.1:9", "--max-tokens", "5"])
    assert talks[0].options == {"model": "m", "temperature": 0.7, "top_p": 0.9, "max_tokens": 300}
    assert talks[1].options["max_tokens"] == 5


def test_the_receipt_in_a_line() -> None:
    from steersman.client.chat.stream import Answer

    vector = {"id": "glad", "coefficient": 1.5, "layers": [8, 9, 12], "steered_tokens": 7}
    line = receipt_line(Answer("", "stop", {"vectors": [vector]}))
    assert line == "[glad 1.5 at 8-9,12, 7 tokens]"
    vector["relative_dose"] = {"8": 0.1, "9": 0.25}
    line = receipt_line(Answer("", "stop", {"vectors": [vector, vector]}))
    assert line.count("dose 0.25") == 2


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("http://127.0.0.1:8000", "openai"),
        ("http://localhost", "openai"),
        ("http://[::1]:8000", "openai"),
        ("http://127.9.9.9", "openai"),
        ("https://gpu1.example.com", None),
        ("http://10.0.0.7:8000", None),
        ("http://127.0.0.1.example.com", None),
        ("http://localhost.example.com", None),
        ("http://user@127.0.0.1@example.com", None),
        ("http://127.0.0.1:x@example.com", None),
        ("http://[::1", None),
    ],
)
def test_the_key_of_openai_leaves_this_machine_never(
    url: str, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = typer.Context(typer.main.get_command(app))
    monkeypatch.setenv("OPENAI_API_KEY", "openai")
    monkeypatch.delenv("STEERSMAN_API_KEY", raising=False)
    assert api_key(ctx, None, url) == key
    monkeypatch.setenv("STEERSMAN_API_KEY", "ours")
    assert api_key(ctx, None, url) == "ours"
    assert api_key(ctx, "given", url) == "given"


def test_no_proxy_sees_what_goes_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody listens on port 9: a request that took the proxy says so.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), JobsOfNobody)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        here = f"http://127.0.0.1:{server.server_port}"
        assert Client(here, "openai").get("/v1/steering/jobs") == {"data": []}
    finally:
        server.shutdown()
    with pytest.raises(Unreachable):
        Client("http://192.0.2.1", None).get("/v1/steering/jobs")


class JobsOfNobody(http.server.BaseHTTPRequestHandler):
    """Answers every GET with an empty list."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": []}')

    def log_message(self, *_: object) -> None:
        pass
