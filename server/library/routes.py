"""REST for vectors: the routes under /v1/steering.

Bodies and queries are read by hand: FastAPI's own validation answers in a form that is not
OpenAI's, and vLLM's handler for it drops the wrong key. Work and answers that may be long are made
in `steersman.server.library.lanes`, never on the event loop.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import FileResponse, Response

from steersman.server.auth.library_view import LibraryView
from steersman.server.chat.field import PositionRange
from steersman.server.dependencies import (
    CallersLibrary,
    CallersPresets,
    CapabilityFields,
    ChangeListener,
    MaxUploadBytes,
    OnChange,
)
from steersman.server.library.foreign import add_upload
from steersman.server.library.lanes import CHANGES, READS
from steersman.server.library.openapi import (
    FILE_TYPE,
    FORCE,
    LIST_PARAMETERS,
    MAX_PAGE,
    PAGE,
    PATCH_BODY,
    UPLOAD_BODY,
    errors,
)
from steersman.server.library.schemas import (
    Capabilities,
    ListedVector,
    Vector,
    VectorDeleted,
    VectorList,
    VectorPatch,
)
from steersman.server.library.upload import Upload, read_upload
from steersman.server.metrics import METRICS
from steersman.vectors.errors import VectorInvalid, VectorNotFound, shown
from steersman.vectors.file.format import write_vector
from steersman.vectors.library.library import Entry
from steersman.vectors.library.ownership import read_content
from steersman.vectors.validation import body_invalid, check_patch

_MAX_PATCH_BYTES: Final = 1 << 20
MAX_PAGE_BYTES: Final = 4 << 20
"""Most bytes of the vectors on one page of a list: a page ends before it has more."""


def build_router() -> APIRouter:
    """The routes. They raise `SteersmanError`s; call `steersman.server.error_response.install` on
    the app, which turns them into responses."""
    router = APIRouter(prefix="/v1/steering", tags=["steering"], responses=errors(500))
    router.add_api_route(
        "/capabilities", capabilities, methods=["GET"], response_model=Capabilities
    )
    router.add_api_route(
        "/vectors",
        list_vectors,
        methods=["GET"],
        response_model=VectorList,
        responses=errors(400),
        openapi_extra={"parameters": LIST_PARAMETERS},
    )
    router.add_api_route(
        "/vectors",
        create_vector,
        methods=["POST"],
        status_code=201,
        response_model=Vector,
        responses=errors(400, 408, 409, 413, 507)
        | {200: {"model": Vector, "description": "It was here already"}},
        openapi_extra={"requestBody": UPLOAD_BODY},
    )
    # Before the next: `:path` is greedy. It lets an id with a slash reach us, for an error of ours.
    router.add_api_route(
        "/vectors/{vector_id:path}/content",
        get_content,
        methods=["GET"],
        response_class=FileResponse,
        responses=errors(400, 404)
        | {200: {"content": {FILE_TYPE: {}}}, 304: {"description": "Unchanged"}},
    )
    one: dict[str, Any] = {"path": "/vectors/{vector_id:path}", "responses": errors(400, 404)}
    router.add_api_route(**one, endpoint=get_vector, methods=["GET"], response_model=Vector)
    router.add_api_route(
        **one | {"responses": errors(400, 404, 507)},
        endpoint=patch_vector,
        methods=["PATCH"],
        response_model=Vector,
        openapi_extra={"requestBody": PATCH_BODY},
    )
    router.add_api_route(
        **one | {"responses": errors(400, 404, 409)},
        endpoint=delete_vector,
        methods=["DELETE"],
        response_model=VectorDeleted,
        openapi_extra={"parameters": [FORCE]},
    )
    return router


async def capabilities(fields: CapabilityFields) -> dict[str, Any]:
    """What this server can steer, and its limits."""
    return fields


async def list_vectors(request: Request, library: CallersLibrary) -> Response:
    """A page of vectors, by name, without the fields that may be long: `method_settings` and
    `norms`."""
    query = request.query_params
    for key in query:
        if key not in ("after", "limit", "fits"):
            raise VectorInvalid(
                f"{shown(key)} is not known here; use after, limit and fits",
                param=key[:128],
                code="unknown_field",
            )
    return await READS.run(
        _page,
        library,
        query.get("after"),
        _limit(query.get("limit")),
        _switch("fits", query.get("fits")),
    )


async def create_vector(
    request: Request,
    library: CallersLibrary,
    on_change: ChangeListener,
    max_upload_bytes: MaxUploadBytes,
    fields: CapabilityFields,
) -> Response:
    """Upload a safetensors or GGUF file. 201, or 200 if this name has exactly this content
    already."""
    async with read_upload(request, max_upload_bytes) as upload:
        return await CHANGES.run(_add, library, on_change, upload, fields["num_layers"])


async def get_vector(vector_id: str, library: CallersLibrary) -> Response:
    """One vector, with all of its fields."""
    return await READS.run(lambda: json_answer(Vector.of(library.resolve(vector_id))))


async def get_content(vector_id: str, request: Request, library: CallersLibrary) -> Response:
    """The vector's safetensors file. Its ETag is the digest."""
    known = request.headers.get("if-none-match", "")
    return await READS.run(_content, library, vector_id, known)


async def patch_vector(
    vector_id: str, request: Request, library: CallersLibrary, on_change: ChangeListener
) -> Response:
    """Change the description, the defaults, or which content the name stands for. Other defaults
    make a new version with its own digest; older versions stay addressable."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_PATCH_BYTES:
            raise VectorInvalid(
                f"the body is over {_MAX_PATCH_BYTES} bytes", param="body", code="invalid_body"
            )
    return await CHANGES.run(_patch, library, on_change, vector_id, bytes(body))


async def delete_vector(
    vector_id: str,
    request: Request,
    library: CallersLibrary,
    presets: CallersPresets,
    on_change: ChangeListener,
) -> Response:
    """Delete a vector. New requests cannot use it from now on; requests in flight finish with it.
    One that a preset names is a 409, unless `force` is true."""
    forced = _switch("force", request.query_params.get("force"))
    unused = None if forced else presets.check_unused
    return await CHANGES.run(_delete, library, on_change, vector_id, unused)


def _delete(
    library: LibraryView,
    on_change: OnChange,
    vector_id: str,
    check_unused: Callable[[str], None] | None,
) -> Response:
    try:
        entry: Entry | None = library.resolve(vector_id)
    except VectorNotFound:
        entry = None  # A damaged vector cannot be read, and must be deletable.
    if check_unused is not None and vector_id in library.names():
        check_unused(vector_id)
    library.delete(vector_id)
    on_change("deleted", vector_id, entry.digest if entry else None)
    return json_answer(VectorDeleted(id=vector_id))


def _page(library: LibraryView, after: str | None, limit: int, fits: bool | None) -> Response:
    entries, more = library.page(after, limit, fits=fits)
    texts: list[str] = []
    size = 0
    for entry in entries:
        # One at a time: the interpreter is held for each of these, and no longer.
        text = ListedVector.of(entry).model_dump_json()
        size += len(text)
        if texts and size > MAX_PAGE_BYTES:
            more = True
            break
        texts.append(text)
    shown_entries = entries[: len(texts)]
    rest = VectorList(
        data=[],
        first_id=shown_entries[0].name if shown_entries else None,
        last_id=shown_entries[-1].name if shown_entries else None,
        has_more=more,
    ).model_dump(mode="json", exclude={"data"})
    return _listed(rest, texts)


def _listed(rest: dict[str, Any], texts: Iterable[str]) -> Response:
    """A list from members that are JSON text already."""
    head = json.dumps(rest)[:-1]
    return Response(f'{head}, "data": [{", ".join(texts)}]}}', media_type="application/json")


def json_answer(answer: BaseModel, status: int = 200) -> Response:
    """The answer of a route that has one, as JSON."""
    return Response(answer.model_dump_json(), status, media_type="application/json")


def _content(library: LibraryView, vector_id: str, known: str) -> Response:
    entry = library.resolve(vector_id)
    etag = f'"{entry.digest}"'
    if etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers={"ETag": etag})
    if entry.foreign:
        return Response(
            write_vector(read_content(entry)),
            media_type=FILE_TYPE,
            headers={
                "ETag": etag,
                "Content-Disposition": f'attachment; filename="{entry.name}.safetensors"',
            },
        )
    return FileResponse(
        library.content_path(entry),
        media_type=FILE_TYPE,
        filename=f"{entry.name}.safetensors",
        headers={"ETag": etag},
    )


def _add(library: LibraryView, on_change: OnChange, upload: Upload, num_layers: int) -> Response:
    with METRICS.upload.time():
        entry, created = add_upload(library, upload, num_layers)
    if created:
        on_change("created", entry.name, entry.digest)
    return json_answer(Vector.of(entry), 201 if created else 200)


def _patch(library: LibraryView, on_change: OnChange, vector_id: str, body: bytes) -> Response:
    patch = _read_patch(body)
    positions = patch.positions
    entry = library.update(
        vector_id,
        description=patch.description,
        coefficient=patch.coefficient,
        layers=None if patch.layers is None else tuple(patch.layers),
        positions=positions.model_dump() if isinstance(positions, PositionRange) else positions,
        safe_range=patch.safe_range,
        digest=patch.digest,
    )
    on_change("updated", entry.name, entry.digest)
    return json_answer(Vector.of(entry))


def _read_patch(body: bytes) -> VectorPatch:
    try:
        patch = VectorPatch.model_validate_json(body)
    except ValidationError as error:
        raise body_invalid(error) from None
    check_patch(patch)
    return patch


def _limit(text: str | None) -> int:
    if text is None:
        return PAGE
    if text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_PAGE:
        return int(text)
    raise VectorInvalid(
        f"limit must be 1 to {MAX_PAGE}, not {shown(text)}", param="limit", code="invalid_query"
    )


def _switch(name: str, text: str | None) -> bool | None:
    """The value of the query's `name`, None if it is not there. Raises `VectorInvalid`."""
    if text in (None, "true", "false"):
        return None if text is None else text == "true"
    raise VectorInvalid(
        f"{name} must be true or false, not {shown(text)}", param=name, code="invalid_query"
    )
