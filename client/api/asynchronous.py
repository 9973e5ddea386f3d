"""The client for asyncio: `steersman.AsyncClient`. Its methods are those of `steersman.Client`."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from steersman.client.api import calls
from steersman.client.api.answer import Answer, Pieces
from steersman.client.api.calls import OMITTED, Call
from steersman.client.api.sync import URL
from steersman.client.api.transport import AsyncHttp
from steersman.client.api.types import Capabilities, Job, Preset, Vector

if TYPE_CHECKING:
    from steersman.vectors.vector import SteeringVector

T = TypeVar("T")


class AsyncClient:
    """A Steersman server, for asyncio. Raises what `steersman.Client` raises.

    async with steersman.AsyncClient() as client:
        answer = await client.chat("Hello!", steering={"vectors": {"glad": 1.5}})
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """See `Client`."""
        url = url or os.environ.get("STEERSMAN_SERVER") or URL
        self._http = AsyncHttp(url, api_key or os.environ.get("STEERSMAN_API_KEY"), transport)
        self._model: str | None = None
        self.vectors = AsyncVectors(self)
        """Vectors in the library."""
        self.presets = AsyncPresets(self)
        """Named `steering` values."""
        self.jobs = AsyncJobs(self)
        """Extractions."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.close()

    async def send(self, call: Call[T]) -> T:
        """Make a call of `steersman.client.api.calls`."""
        return call.read(await self._http.request(call.method, call.path, **call.options))

    async def capabilities(self) -> Capabilities:
        """See `Client.capabilities`."""
        return await self.send(calls.capabilities())

    async def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        steering: Any = OMITTED,
        model: str | None = None,
        **more: Any,
    ) -> Answer:
        """See `Client.chat`."""
        served = model or await self._served()
        return await self.send(calls.chat(messages, served, steering, more))

    async def stream(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        steering: Any = OMITTED,
        model: str | None = None,
        **more: Any,
    ) -> "AsyncStream":
        """See `Client.stream`."""
        served = model or await self._served()
        call = calls.chat(messages, served, steering, {**more, "stream": True})
        return AsyncStream(self._http, call)

    async def extract(self, *, method: str, name: str, **fields: Any) -> Job:
        """See `Client.extract`."""
        return await self.send(calls.extract({"method": method, "name": name, **fields}))

    async def patch(self, clean: Any, corrupted: Any, answers: Sequence[str], **fields: Any) -> Job:
        """See `Client.patch`."""
        texts = {"clean": clean, "corrupted": corrupted, "answers": list(answers)}
        return await self.send(calls.patch({**texts, **fields}))

    async def _served(self) -> str:
        if self._model is None:
            self._model = (await self.capabilities())["model"]
        return self._model


class AsyncStream:
    """An answer in pieces of text; iterate once. Afterwards `answer` is the whole of it."""

    def __init__(self, http: AsyncHttp, call: Call[Answer]) -> None:
        self._http = http
        self._call = call
        self.answer: Answer | None = None
        """The whole answer, with its receipt; None until the stream has ended."""

    async def __aiter__(self) -> AsyncIterator[str]:
        pieces, body = Pieces(), self._call.options["json"]
        async with self._http.stream(self._call.path, body) as chunks:
            async for chunk in chunks:
                if added := pieces.take(chunk):
                    yield added
        self.answer = pieces.answer(steered=calls.is_steered(body))


class AsyncVectors:
    """`client.vectors`; see `steersman.client.api.sync.Vectors`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> list[Vector]:
        """All vectors by name."""
        found: list[Vector] = []
        after: str | None = None
        while True:
            page = await self._client.send(calls.list_vectors(after))
            found += page.vectors
            if (after := page.after) is None:
                return found

    async def get(self, vector_id: str) -> Vector:
        """One vector, with all of its fields."""
        return await self._client.send(calls.get_vector(vector_id))

    async def upload(
        self, vector: "SteeringVector | Path | str | bytes", name: str | None = None
    ) -> Vector:
        """Upload a vector. A file is read in a thread."""
        return await self._client.send(await asyncio.to_thread(calls.upload_vector, vector, name))

    async def update(self, name: str, **changes: Any) -> Vector:
        """Change a vector."""
        return await self._client.send(calls.update_vector(name, changes))

    async def delete(self, name: str, *, force: bool = False) -> None:
        """Delete a name."""
        await self._client.send(calls.delete_vector(name, force=force))


class AsyncPresets:
    """`client.presets`; see `steersman.client.api.sync.Presets`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> list[Preset]:
        """All presets by name."""
        return await self._client.send(calls.list_presets())

    async def get(self, name: str) -> Preset:
        """One preset."""
        return await self._client.send(calls.get_preset(name))

    async def create(
        self, name: str, steering: Any, *, follow: bool = False, description: str = ""
    ) -> Preset:
        """Name a `steering` value."""
        return await self._client.send(
            calls.create_preset(name, steering, follow=follow, description=description)
        )

    async def update(self, name: str, **changes: Any) -> Preset:
        """Change a preset."""
        return await self._client.send(calls.update_preset(name, changes))

    async def delete(self, name: str) -> None:
        """Delete a preset."""
        await self._client.send(calls.delete_preset(name))


class AsyncJobs:
    """`client.jobs`; see `steersman.client.api.sync.Jobs`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self) -> list[Job]:
        """All jobs that are remembered, newest first."""
        return await self._client.send(calls.list_jobs())

    async def get(self, job_id: str) -> Job:
        """One job."""
        return await self._client.send(calls.get_job(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return await self._client.send(calls.cancel_job(job_id))

    async def wait(self, job_id: str, *, every: float = 0.5) -> Job:
        """The job when it has ended."""
        while True:
            job = await self.get(job_id)
            if calls.has_ended(job):
                return calls.checked(job)
            await asyncio.sleep(every)
