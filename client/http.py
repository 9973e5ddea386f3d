"""The server over HTTP: returns JSON, and raises an exception for each refusal."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Self

import httpx

from steersman.client import paths
from steersman.client.cli.options import is_loopback
from steersman.client.errors import CliError, Refused, Unreachable, WrongUsage

_REMEDIES: Final = {
    401: "give the server's key with --api-key, or in STEERSMAN_API_KEY",
    403: "use a key that may do this",
    404: "is this the address of a Steersman server? See --server",
    502: "the proxy reaches no server; check that the server runs",
    504: "the proxy waited too long; ask for less at once",
}
"""By status, for answers that are not Steersman's own: those have the remedy in their message."""
_REMEDIES_BY_CODE: Final = {
    "vector_exists": "replace that vector with --replace, choose another --name, or "
    "`steersman vectors delete` that one first",
    "vector_not_found": "`steersman vectors list` lists the vectors",
    "preset_not_found": "`steersman presets list` lists the presets",
    "preset_exists": "`steersman presets set` changes the preset",
    "vector_in_use": "change or delete those presets first, or add --force",
    "job_not_found": "`steersman jobs list` lists the jobs",
    "too_many_jobs": "`steersman jobs list` lists the jobs",
}


_IN_HTTP: Final = re.compile(r"[;,]? (?:and )?(?:GET|PATCH|POST|DELETE|upload this) .*$", re.DOTALL)
"""The part of a server's message that is a remedy over HTTP; the command line has its own."""


class Client:
    """A client of one server. Every call raises `Refused` for an error in the answer, and
    `Unreachable`."""

    def __init__(
        self, url: str, key: str | None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self.url = url
        with url_errors(url):
            self._http = httpx.Client(**new_options(url, key), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON at `path`."""
        return self._json("GET", path, params=query)

    def post(self, path: str, **body: Any) -> Any:
        """POST `body` (httpx's `json`, or `data` and `files`), and return the JSON of the
        answer."""
        return self._json("POST", path, **body)

    def patch(self, path: str, body: dict[str, Any]) -> Any:
        """PATCH `body`, and return the JSON of the answer."""
        return self._json("PATCH", path, json=body)

    def delete(self, path: str, **query: Any) -> Any:
        """DELETE `path`, and return the JSON of the answer."""
        return self._json("DELETE", path, params=query)

    def content(self, path: str) -> bytes:
        """The bytes at `path`."""
        with self._sent("GET", path) as answer:
            return answer.read()

    def posted(self, path: str, body: dict[str, Any]) -> bytes:
        """POST `body`, and return the bytes of the answer."""
        with self._sent("POST", path, json=body) as answer:
            return answer.read()

    @contextmanager
    def stream(self, path: str, body: dict[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a stream of server-sent events, as JSON, without the last, `[DONE]`.

        Raises `CliError` if the package httpx-sse is not installed.
        """
        source = event_source()
        with self._sent("POST", path, json=body) as answer:
            yield self._events(source(answer))

    def vector(self, vector_id: str) -> Any:
        """The server's description of one vector."""
        return self.get(paths.vector(vector_id))

    def vectors(self, most: int | None = None) -> list[dict[str, Any]]:
        """All vectors by name, or the first `most`, fetched page by page."""
        found: list[dict[str, Any]] = []
        query: dict[str, Any] = {}
        while most is None or len(found) < most:
            size = 1000 if most is None else min(1000, most - len(found))
            page = self.get(paths.VECTORS, limit=size, **query)
            found += page["data"]
            if not page["has_more"]:
                break
            query = {"after": page["last_id"]}
        return found

    def job(self, job_id: str) -> Any:
        """One job."""
        return self.get(paths.job(job_id))

    def cancel(self, job_id: str) -> Any:
        """Cancel one job. Returns its state after that."""
        return self.delete(paths.job(job_id))

    def request(self, method: str, path: str, **request: Any) -> Any:
        """The JSON of the answer to any call."""
        return self._json(method, path, **request)

    def _json(self, method: str, path: str, **request: Any) -> Any:
        with self._sent(method, path, **request) as answer:
            answer.read()
            return read_json(answer, method, path)

    @contextmanager
    def _sent(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        with transport_errors(self.url), self._http.stream(method, path, **request) as answer:
            if not answer.is_success:
                answer.read()
                raise refusal(answer)
            yield answer

    def _events(self, source: Any) -> Iterator[dict[str, Any]]:
        with stream_errors(self.url):
            for event in source.iter_sse():
                if (found := read_event(event.data)) is not None:
                    yield found


def new_options(url: str, key: str | None) -> dict[str, Any]:
    """httpx's options of a client of `url`: an answer may take as long as it takes, an absent
    server is known at once."""
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        "timeout": httpx.Timeout(None, connect=10.0),
        "mounts": without_proxy(url),
    }


@contextmanager
def url_errors(url: str) -> Iterator[None]:
    """Raise `WrongUsage` where httpx raises an error for a malformed URL or key."""
    try:
        yield
    except (httpx.InvalidURL, UnicodeEncodeError) as error:
        raise WrongUsage(f"{url!r} or its key cannot be used: {error}", param="--server") from error


@contextmanager
def transport_errors(url: str) -> Iterator[None]:
    """Turn what httpx raises for a call to `url` into `Unreachable` and `WrongUsage`."""
    try:
        yield
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise WrongUsage(f"{url!r} is not an address: {error}", param="--server") from error
    except httpx.TransportError as error:
        raise _unreachable(url, error) from error


@contextmanager
def stream_errors(url: str) -> Iterator[None]:
    """Turn what reading a stream of events raises into `Refused`."""
    from httpx_sse import SSEError

    try:
        yield
    except (ValueError, SSEError) as error:
        raise Refused(
            f"the answer of {url} is not a stream of events: {error}",
            remedy=_REMEDIES[404],
            code="not_a_stream",
        ) from error


def read_event(text: str) -> dict[str, Any] | None:
    """The JSON of an event; None for the last, and for one without data. Raises `Refused` for an
    error, and ValueError."""
    event: Any = None if text in ("", "[DONE]") else json.loads(text)
    if event is not None and "error" in event:
        raise _refused(event["error"], 0, None)
    return event


def read_json(answer: httpx.Response, method: str, path: str) -> Any:
    """The JSON of `answer`, which has been read. Raises `Refused`."""
    try:
        return json.loads(answer.content)
    except ValueError:
        raise Refused(
            f"the answer to {method} {path} is not JSON",
            status=answer.status_code,
            remedy=_REMEDIES[404],
        ) from None


def _unreachable(url: str, error: httpx.TransportError) -> Unreachable:
    why = str(error) or type(error).__name__
    if not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
        return Unreachable(f"the connection to {url} broke ({why})", code="unreachable")
    return Unreachable(
        f"no server answers at {url} ({why})",
        param="--server",
        remedy="start one with `steersman serve`, or give its address with --server or "
        "in STEERSMAN_SERVER",
        code="unreachable",
    )


def event_source() -> Any:
    """httpx-sse's `EventSource`. Raises `CliError` if the package is not installed."""
    try:
        from httpx_sse import EventSource
    except ImportError as error:
        raise CliError(
            "streamed answers need the package httpx-sse, which is not installed here",
            remedy="run `pip install httpx-sse`",
            code="package_missing",
        ) from error
    return EventSource


def without_proxy(url: str) -> dict[str, None]:
    """httpx's `mounts` that send requests to this machine, and the key in them, past any proxy."""
    return dict.fromkeys(("http://", "https://", "all://")) if is_loopback(url) else {}


def refusal(answer: httpx.Response) -> Refused:
    """The exception for `answer`, an error response."""
    try:
        body = json.loads(answer.content)
    except ValueError:
        body = None
    error = body.get("error", body.get("detail")) if isinstance(body, dict) else None
    wait = answer.headers.get("retry-after")
    return _refused(error or answer.reason_phrase, answer.status_code, wait)


def _refused(error: Any, status: int, wait: str | None) -> Refused:
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        message = f"the server answered {status}: {error}" if status else str(error)
        return Refused(message, status=status, remedy=_REMEDIES.get(status))
    code = error.get("code") if isinstance(error.get("code"), str) else None
    remedy = _REMEDIES_BY_CODE.get(code or "")
    if wait is not None:
        remedy = f"try again in {wait} s" + (f"; {remedy}" if remedy else "")
    message = error["message"]
    if code in _REMEDIES_BY_CODE:
        message = _IN_HTTP.sub("", message)
    return Refused(
        message,
        status=status,
        param=error.get("param"),
        remedy=remedy,
        code=code,
        kind=error.get("type"),
    )
