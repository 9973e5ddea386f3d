"""The server over HTTP for asyncio, as `steersman.client.http` has it for threads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from steersman.client.http import (
    event_source,
    new_options,
    read_event,
    read_json,
    refusal,
    stream_errors,
    transport_errors,
    url_errors,
)


class AsyncHttp:
    """Calls to one server. Every call raises `Refused` for an error in the answer, and
    `Unreachable`."""

    def __init__(
        self, url: str, key: str | None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.url = url
        with url_errors(url):
            self._http = httpx.AsyncClient(**new_options(url, key), transport=transport)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def request(self, method: str, path: str, **request: Any) -> Any:
        """The JSON of the answer to a call."""
        async with self._sent(method, path, **request) as answer:
            await answer.aread()
            return read_json(answer, method, path)

    @asynccontextmanager
    async def stream(
        self, path: str, body: dict[str, Any]
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The events of a stream, as JSON, without the last, `[DONE]`."""
        source = event_source()
        async with self._sent("POST", path, json=body) as answer:
            yield self._events(source(answer))

    async def _events(self, source: Any) -> AsyncIterator[dict[str, Any]]:
        with stream_errors(self.url):
            async for event in source.aiter_sse():
                if (found := read_event(event.data)) is not None:
                    yield found

    @asynccontextmanager
    async def _sent(self, method: str, path: str, **request: Any) -> AsyncIterator[httpx.Response]:
        with transport_errors(self.url):
            async with self._http.stream(method, path, **request) as answer:
                if not answer.is_success:
                    await answer.aread()
                    raise refusal(answer)
                yield answer
