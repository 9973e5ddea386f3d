"""Each call to the server once: its method, path and body, and how its answer is read."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from steersman.client import paths
from steersman.client.api.answer import Answer, no_receipt
from steersman.client.api.types import Capabilities, Job, Preset, Vector
from steersman.client.errors import Refused

if TYPE_CHECKING:
    from steersman.vectors.vector import SteeringVector

T = TypeVar("T")
OMITTED: Final[Any] = object()
"""For `steering`, where None turns a default off."""


class Call(NamedTuple, Generic[T]):
    """One call. `options`: those of httpx."""

    method: str
    path: str
    read: Callable[[Any], T]
    options: Mapping[str, Any] = MappingProxyType({})


class Page(NamedTuple):
    """One page of vectors, and the `after` of the next; None for the last page."""

    vectors: list[Vector]
    after: str | None


def _as_it_is(answer: Any) -> Any:
    return answer


def _data(answer: Any) -> Any:
    return answer["data"]


def _nothing(_: Any) -> None:
    return None


def capabilities() -> Call[Capabilities]:
    """`GET /v1/steering/capabilities`."""
    return Call("GET", paths.CAPABILITIES, _as_it_is)


def list_vectors(after: str | None) -> Call[Page]:
    """`GET /v1/steering/vectors`, one page."""
    query = {"limit": 1000} | ({} if after is None else {"after": after})
    return Call("GET", paths.VECTORS, _page, {"params": query})


def _page(answer: Any) -> Page:
    return Page(answer["data"], answer["last_id"] if answer["has_more"] else None)


def get_vector(vector_id: str) -> Call[Vector]:
    """`GET /v1/steering/vectors/{id}`."""
    return Call("GET", paths.vector(vector_id), _as_it_is)


def upload_vector(vector: "SteeringVector | Path | str | bytes", name: str | None) -> Call[Vector]:
    """`POST /v1/steering/vectors`. A path may be a file of another tool."""
    files = {"file": ("vector.safetensors", _file(vector))}
    form = {} if name is None else {"name": name}
    return Call("POST", paths.VECTORS, _as_it_is, {"files": files, "data": form})


def _file(vector: "SteeringVector | Path | str | bytes") -> bytes:
    if isinstance(vector, bytes):
        return vector
    # Torch comes with these: only whoever uploads needs it.
    from steersman.vectors.file.format import write_vector
    from steersman.vectors.formats.load import load

    return write_vector(load(vector) if isinstance(vector, str | Path) else vector)


def update_vector(name: str, changes: Mapping[str, Any]) -> Call[Vector]:
    """`PATCH /v1/steering/vectors/{id}`."""
    return Call("PATCH", paths.vector(name), _as_it_is, {"json": dict(changes)})


def delete_vector(name: str, *, force: bool) -> Call[None]:
    """`DELETE /v1/steering/vectors/{id}`."""
    query = {"force": "true"} if force else {}
    return Call("DELETE", paths.vector(name), _nothing, {"params": query})


def list_presets() -> Call[list[Preset]]:
    """`GET /v1/steering/presets`."""
    return Call("GET", paths.PRESETS, _data)


def get_preset(name: str) -> Call[Preset]:
    """`GET /v1/steering/presets/{name}`."""
    return Call("GET", paths.preset(name), _as_it_is)


def create_preset(name: str, steering: Any, *, follow: bool, description: str) -> Call[Preset]:
    """`POST /v1/steering/presets`."""
    body = {"name": name, "steering": steering, "follow": follow, "description": description}
    return Call("POST", paths.PRESETS, _as_it_is, {"json": body})


def update_preset(name: str, changes: Mapping[str, Any]) -> Call[Preset]:
    """`PATCH /v1/steering/presets/{name}`."""
    return Call("PATCH", paths.preset(name), _as_it_is, {"json": dict(changes)})


def delete_preset(name: str) -> Call[None]:
    """`DELETE /v1/steering/presets/{name}`."""
    return Call("DELETE", paths.preset(name), _nothing)


def list_jobs() -> Call[list[Job]]:
    """`GET /v1/steering/jobs`."""
    return Call("GET", paths.JOBS, _data)


def get_job(job_id: str) -> Call[Job]:
    """`GET /v1/steering/jobs/{id}`."""
    return Call("GET", paths.job(job_id), _as_it_is)


def cancel_job(job_id: str) -> Call[Job]:
    """`DELETE /v1/steering/jobs/{id}`."""
    return Call("DELETE", paths.job(job_id), _as_it_is)


def extract(fields: Mapping[str, Any]) -> Call[Job]:
    """`POST /v1/steering/vectors/extract`."""
    return Call("POST", paths.EXTRACT, _as_it_is, {"json": dict(fields)})


def patch(fields: Mapping[str, Any]) -> Call[Job]:
    """`POST /v1/steering/patch`."""
    return Call("POST", paths.PATCH, _as_it_is, {"json": dict(fields)})


def chat(
    messages: str | Sequence[Mapping[str, Any]], model: str, steering: Any, more: Mapping[str, Any]
) -> Call[Answer]:
    """`POST /v1/chat/completions`. A text is one message of the user's."""
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    body: dict[str, Any] = {"model": model, "messages": list(messages), **more}
    if steering is not OMITTED:
        body["steering"] = steering
    needed = is_steered(body)

    def read(answer: Any) -> Answer:
        made = Answer.of(answer)
        if needed and not made.receipt:
            raise no_receipt()
        return made

    return Call("POST", paths.CHAT, read, {"json": body})


def is_steered(body: Mapping[str, Any]) -> bool:
    """Whether the answer to `body` must have a receipt."""
    return body.get("steering") is not None


def has_ended(job: Job) -> bool:
    """Whether a job has ended."""
    return job["status"] in ("succeeded", "failed", "cancelled")


def checked(job: Job) -> Job:
    """`job`, which has ended. Raises `Refused` if it made nothing."""
    if job["status"] == "succeeded":
        return job
    error = job["error"] or {}
    raise Refused(
        error.get("message") or f"the job {job['id']} was {job['status']}",
        param=error.get("param"),
        code=error.get("code") or f"job_{job['status']}",
    )
