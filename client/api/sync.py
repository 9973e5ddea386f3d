"""The client that waits: `steersman.Client`."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from steersman.client.api import calls
from steersman.client.api.answer import Answer, Pieces
from steersman.client.api.calls import OMITTED, Call
from steersman.client.api.types import Capabilities, Job, Preset, Vector
from steersman.client.http import Client as Http

if TYPE_CHECKING:
    from steersman.vectors.vector import SteeringVector

T = TypeVar("T")
URL = "http://127.0.0.1:8000"


class Client:
    """A Steersman server.

    Every method raises `steersman.Refused` where the server refuses, with its `status`, `param`,
    `code` and message, and `steersman.Unreachable` where no server answers.

        client = steersman.Client()
        client.vectors.upload("glad.safetensors", name="glad")
        answer = client.chat("Tell me about your weekend.", steering={"vectors": {"glad": 1.5}})
        print(answer.text, answer.receipt)
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url` and `api_key`: those in STEERSMAN_SERVER and STEERSMAN_API_KEY unless given, or
        else this machine's port 8000, without a key. `transport`: httpx's."""
        url = url or os.environ.get("STEERSMAN_SERVER") or URL
        self._http = Http(url, api_key or os.environ.get("STEERSMAN_API_KEY"), transport)
        self._model: str | None = None
        self.vectors = Vectors(self)
        """Vectors in the library."""
        self.presets = Presets(self)
        """Named `steering` values."""
        self.jobs = Jobs(self)
        """Extractions."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.__exit__()

    def send(self, call: Call[T]) -> T:
        """Make a call of `steersman.client.api.calls`."""
        return call.read(self._http.request(call.method, call.path, **call.options))

    def capabilities(self) -> Capabilities:
        """What the server can steer, and its limits for this key."""
        return self.send(calls.capabilities())

    def chat(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        steering: Any = OMITTED,
        model: str | None = None,
        **more: Any,
    ) -> Answer:
        """The model's answer to `messages`: a list of them, or one text as the user's message.

        `steering` is the field of the request; with None the answer is unsteered, also where a
        default preset steers.
        `model`: the served one unless given; `smollm2:sunny` steers by a preset. `more`: other
        fields of the request, such as `temperature`.
        """
        return self.send(calls.chat(messages, model or self._served(), steering, more))

    def stream(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        *,
        steering: Any = OMITTED,
        model: str | None = None,
        **more: Any,
    ) -> "Stream":
        """The answer in pieces of text, as they come; takes what `chat` takes."""
        call = calls.chat(messages, model or self._served(), steering, {**more, "stream": True})
        return Stream(self._http, call)

    def extract(self, *, method: str, name: str, **fields: Any) -> Job:
        """Start to make a vector on the served model. `fields`: the others of
        `POST /v1/steering/vectors/extract`, such as `positive` and `negative`, lists of texts."""
        return self.send(calls.extract({"method": method, "name": name, **fields}))

    def patch(self, clean: Any, corrupted: Any, answers: Sequence[str], **fields: Any) -> Job:
        """Start activation patching: two prompts with as many tokens, texts or chats, and an answer
        of each. `fields`: the others of `POST /v1/steering/patch`. The job has its table under
        `patch` once it has succeeded."""
        texts = {"clean": clean, "corrupted": corrupted, "answers": list(answers)}
        return self.send(calls.patch({**texts, **fields}))

    def _served(self) -> str:
        if self._model is None:
            self._model = self.capabilities()["model"]
        return self._model


class Stream:
    """An answer in pieces of text; iterate once. Afterwards `answer` is the whole of it."""

    def __init__(self, http: Http, call: Call[Answer]) -> None:
        self._http = http
        self._call = call
        self._answer: Answer | None = None

    def __iter__(self) -> Iterator[str]:
        pieces, body = Pieces(), self._call.options["json"]
        with self._http.stream(self._call.path, body) as chunks:
            for chunk in chunks:
                if added := pieces.take(chunk):
                    yield added
        self._answer = pieces.answer(steered=calls.is_steered(body))

    @property
    def answer(self) -> Answer:
        """The whole answer, with its receipt. Reads what is left of the stream first."""
        if self._answer is None:
            for _ in self:
                pass
        assert self._answer is not None
        return self._answer


class Vectors:
    """`client.vectors`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> list[Vector]:
        """All vectors by name."""
        found: list[Vector] = []
        after: str | None = None
        while True:
            page = self._client.send(calls.list_vectors(after))
            found += page.vectors
            if (after := page.after) is None:
                return found

    def get(self, vector_id: str) -> Vector:
        """One vector, with all of its fields."""
        return self._client.send(calls.get_vector(vector_id))

    def upload(
        self, vector: "SteeringVector | Path | str | bytes", name: str | None = None
    ) -> Vector:
        """Upload a vector, a file of ours or of another tool, or the bytes of a file of ours."""
        return self._client.send(calls.upload_vector(vector, name))

    def update(self, name: str, **changes: Any) -> Vector:
        """Change `description`, `coefficient`, `layers`, `positions`, `safe_range` or `digest`."""
        return self._client.send(calls.update_vector(name, changes))

    def delete(self, name: str, *, force: bool = False) -> None:
        """Delete a name. `force`: also where presets use it."""
        self._client.send(calls.delete_vector(name, force=force))


class Presets:
    """`client.presets`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> list[Preset]:
        """All presets by name."""
        return self._client.send(calls.list_presets())

    def get(self, name: str) -> Preset:
        """One preset."""
        return self._client.send(calls.get_preset(name))

    def create(
        self, name: str, steering: Any, *, follow: bool = False, description: str = ""
    ) -> Preset:
        """Name a `steering` value. `follow`: use what the names of its vectors stand for at each
        request."""
        return self._client.send(
            calls.create_preset(name, steering, follow=follow, description=description)
        )

    def update(self, name: str, **changes: Any) -> Preset:
        """Change `steering`, `follow` or `description`."""
        return self._client.send(calls.update_preset(name, changes))

    def delete(self, name: str) -> None:
        """Delete a preset."""
        self._client.send(calls.delete_preset(name))


class Jobs:
    """`client.jobs`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self) -> list[Job]:
        """All jobs that are remembered, newest first."""
        return self._client.send(calls.list_jobs())

    def get(self, job_id: str) -> Job:
        """One job."""
        return self._client.send(calls.get_job(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return self._client.send(calls.cancel_job(job_id))

    def wait(self, job_id: str, *, every: float = 0.5) -> Job:
        """Wait until the job has ended, and return it; looks every `every` seconds. Raises
        `Refused` if it failed or was cancelled."""
        while not calls.has_ended(job := self.get(job_id)):
            time.sleep(every)
        return calls.checked(job)
