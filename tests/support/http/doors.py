"""Every way in: each route of a running server, with the key in each place where a client has put
it. Run as a program with a server's URL and a vector, it writes docs/doors.md."""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

PAGE: Final = Path(__file__).parents[3] / "docs" / "doors.md"
STEERED: Final = (
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
_CHAT: Final = [{"role": "user", "content": "Hi"}]
_BODIES: Final[dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {"messages": _CHAT, "max_tokens": 2},
    "/v1/chat/completions/batch": {"messages": [_CHAT, _CHAT], "max_tokens": 2},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": _CHAT, "max_tokens": 2},
}
_OTHER: Final = {"messages": _CHAT, "prompt": "Hi", "input": "Hi", "max_tokens": 2}
STEERS: Final = "steers"


@dataclass
class Place:
    """Where the key is: fields beside the request's own, headers, a query; or another text."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    query: str = ""
    encoding: str = "utf-8"
    tail: str = ""
    """In the JSON text, before the last brace."""


def places(vector: str) -> Iterator[Place]:
    """All places; some of them are right on the routes that steer."""
    value = {"vectors": {vector: 0.5}}
    short, other = {"X-Steering": f"{vector}=0.5"}, {"X-Steering": f"{vector}=0.25"}
    yield Place("field `steering`", {"steering": value})
    yield Place("field `steering`, in a stream", {"steering": value, "stream": True})
    yield Place("header `X-Steering`", headers=short)
    yield Place("header `X-Steering`, JSON", headers={"X-Steering": json.dumps(value)})
    yield Place("header `X-Steering`, in a stream", {"stream": True}, short)
    yield Place("field and header that agree", {"steering": value}, short)
    yield Place("field and header that differ", {"steering": value}, other)
    yield Place("header `Steering`", headers={"Steering": f"{vector}=0.5"})
    yield Place("query `?steering=`", query=f"?steering={vector}")
    for key in ("steer", "Steering", "stearing", "steering_vectors", "control_vector", "sv_scale"):
        yield Place(f"field `{key}`", {key: value})
    yield Place("field `steering` with a NUL behind it", {"steering\x00": value})
    yield Place("field `steering` with a blank before it", {" steering": value})
    for key in (
        *("extra_body", "vllm_xargs", "extra_args", "metadata", "chat_template_kwargs"),
        *("sampling_params", "model_kwargs", "unheard_of"),
    ):
        yield Place(f"inside `{key}`", {key: {"steering": value}})
    yield Place("inside `vllm_xargs`, as `steering_vectors`",
                {"vllm_xargs": {"steering_vectors": vector}})  # fmt: skip
    yield Place("inside `extra_headers`", {"extra_headers": short})
    yield Place("deep inside", {"a": [{"b": {"c": {"steering": value}}}]})
    yield Place("inside a message", {"messages": [{**_CHAT[0], "steering": value}]})
    yield Place("twice", {"steering": value}, tail=', "steering": null')
    yield Place("in UTF-16", {"steering": value}, encoding="utf-16")
    yield Place("in UTF-32", {"steering": value}, encoding="utf-32")
    yield Place("beside a number of 5,000 digits", {"steering": value}, tail=f', "n": {"1" * 5000}')
    yield Place("beside 100,000 nested lists", {"steering": value},
                tail=f', "n": {"[" * 100_000}"\\u0061"{"]" * 100_000}')  # fmt: skip


def routes(http: httpx.Client) -> list[tuple[str, str]]:
    """Method and path of every route of the server that takes a body, but for /v1/steering's."""
    paths = http.get("/openapi.json").json()["paths"]
    return sorted(
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if method in ("post", "put", "patch") and not path.startswith("/v1/steering")
    )


def send(http: httpx.Client, method: str, path: str, place: Place, model: str) -> httpx.Response:
    """A request that means to be steered."""
    body = {"model": model, "temperature": 0, **_BODIES.get(path, _OTHER), **place.fields}
    text = json.dumps(body).removesuffix("}") + place.tail + "}"
    return http.request(
        method,
        path.replace("{", "").replace("}", "") + place.query,
        content=text.encode(place.encoding),
        headers={"Content-Type": "application/json", **place.headers},
    )


def outcome(answer: httpx.Response) -> str:
    """What became of it: `STEERS`, or the error's code and key. Raises AssertionError for anything
    else: an answer without a receipt, or an error without key or remedy."""
    if answer.status_code == 200:
        promise = json.loads(answer.headers["Steering-Receipt"])
        assert promise["vectors"][0]["coefficient"] == 0.5
        assert '"steered_tokens"' in answer.text
        return STEERS
    assert answer.status_code == 400, f"{answer.status_code} {answer.text[:500]}"
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"]
    assert any(word in error["message"] for word in ("send", "use", "leave", "set")), error
    return f"400 {error['code']}, {error['param']!r}"


def observe(http: httpx.Client, vector: str, model: str) -> dict[str, dict[str, str]]:
    """Outcome by place and then by route."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    for method, path in routes(http):
        for place in places(vector):
            if path.endswith("/batch") and ("message" in place.name or "stream" in place.fields):
                continue  # Its messages are lists of them, and it has no streams.
            try:
                seen[place.name][path] = outcome(send(http, method, path, place, model))
            except (AssertionError, httpx.HTTPError) as error:
                raise AssertionError(f"{method} {path}, {place.name}: {error}") from error
    return seen


def page(seen: dict[str, dict[str, str]]) -> str:
    """The page that says so."""
    others = sorted({path for by in seen.values() for path in by} - set(STEERED))
    rows = []
    for name, by in seen.items():
        steered = {by[path] for path in STEERED if path in by}
        rest = {by[path] for path in others}
        rows.append(f"| {name} | {_all(steered)} | {_all(rest)} |")
    return "\n".join(
        (
            "# Every door steers or says no",
            "",
            "Written by `python -m tests.support.http.doors URL VECTOR` from what a server "
            "answered;",
            "`tests/http/test_doors.py` sends every request of it and compares.",
            "",
            "A request that means to be steered is steered, with a receipt, or is a 400 with the",
            "error's code, the key in `param`, and the remedy in the message. Texts, schemas of",
            "tools and other values may say what they like. A place or a route that is not known",
            "is one where the key is refused.",
            "",
            "| where the key is | routes that steer | all others |",
            "| --- | --- | --- |",
            *rows,
            "",
            "Routes that steer: " + ", ".join(f"`{path}`" for path in STEERED) + ".",
            "",
            "All others that take a body: " + ", ".join(f"`{path}`" for path in others) + ".",
            "",
        )
    )


def _all(outcomes: set[str]) -> str:
    return "; ".join(
        STEERS if one == STEERS else f"`{one}`".replace("\\x00", "\\0") for one in sorted(outcomes)
    )


if __name__ == "__main__":
    url, vector = sys.argv[1:]
    with httpx.Client(base_url=url, timeout=120) as http:
        PAGE.write_text(page(observe(http, vector, "smollm2")))
