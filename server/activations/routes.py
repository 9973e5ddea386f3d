"""REST: the residual stream of texts."""

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from steersman.server.activations.collect import collect
from steersman.server.activations.request import ActivationsRequest, read_request
from steersman.server.dependencies import ActivationBytes, CallersExtraction, MaxExtractRows
from steersman.server.errors import NotAllowed
from steersman.server.library.lanes import TEXTS
from steersman.server.library.openapi import FILE_TYPE, errors, self_contained

_TURN: Final = asyncio.Lock()
"""One request at a time: what is collected is in memory."""
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {
        "application/json": {"schema": self_contained(ActivationsRequest.model_json_schema())}
    },
}


def build_router() -> APIRouter:
    """The route."""
    router = APIRouter(prefix="/v1/steering", tags=["steering"], responses=errors(500))
    router.add_api_route(
        "/activations",
        activations,
        methods=["POST"],
        response_class=Response,
        responses={
            200: {"content": {FILE_TYPE: {}}, "description": "safetensors"},
            **errors(400, 408, 413),
        },
        openapi_extra={"requestBody": _BODY},
    )
    return router


async def activations(
    request: Request, context: CallersExtraction, most: MaxExtractRows, most_bytes: ActivationBytes
) -> Response:
    """The residual stream of texts at some hook points, as a safetensors file."""
    if most_bytes is None:
        raise NotAllowed(
            "this server gives out no activations; its operator can start it with "
            "--allow-activations",
            code="activations_off",
        )
    wanted = await TEXTS.run(read_request, await request.body(), most)
    async with _TURN:
        data = await collect(wanted, context, most_bytes)
    return Response(
        data,
        media_type=FILE_TYPE,
        headers={"Content-Disposition": 'attachment; filename="activations.safetensors"'},
    )
