"""The REST of presets: `/v1/steering/presets`."""

import json
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from steersman.server.dependencies import CallersPresets, ChangeListener, OnChange
from steersman.server.library.lanes import CHANGES, READS
from steersman.server.library.openapi import errors, self_contained
from steersman.server.library.routes import json_answer
from steersman.server.presets.schemas import (
    PresetCreate,
    PresetDeleted,
    PresetInfo,
    PresetList,
    PresetPatch,
)
from steersman.server.presets.view import PresetView
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.validation import body_invalid, check_patch

Body = TypeVar("Body", bound=BaseModel)


def build_router() -> APIRouter:
    """The routes. They raise `SteersmanError`s and `PlanInvalid`."""
    router = APIRouter(prefix="/v1/steering/presets", tags=["steering"], responses=errors(500))
    router.add_api_route("", list_presets, methods=["GET"], response_model=PresetList)
    router.add_api_route(
        "",
        create_preset,
        methods=["POST"],
        status_code=201,
        response_model=PresetInfo,
        responses=errors(400, 409, 507)
        | {200: {"model": PresetInfo, "description": "It was here already"}},
        openapi_extra=_body(PresetCreate),
    )
    one: dict[str, Any] = {"path": "/{name:path}", "responses": errors(400, 404, 507)}
    router.add_api_route(**one, endpoint=get_preset, methods=["GET"], response_model=PresetInfo)
    router.add_api_route(
        **one,
        endpoint=patch_preset,
        methods=["PATCH"],
        response_model=PresetInfo,
        openapi_extra=_body(PresetPatch),
    )
    router.add_api_route(
        **one, endpoint=delete_preset, methods=["DELETE"], response_model=PresetDeleted
    )
    return router


async def list_presets(presets: CallersPresets) -> Response:
    """All presets, by name."""
    return await READS.run(_list, presets)


async def create_preset(
    request: Request, presets: CallersPresets, on_change: ChangeListener
) -> Response:
    """Name a `steering` value. 201, or 200 if this name stands for it already."""
    asked = await _read(PresetCreate, request)
    return await CHANGES.run(_create, presets, on_change, asked)


async def get_preset(name: str, presets: CallersPresets) -> Response:
    """One preset."""
    return await READS.run(lambda: json_answer(PresetInfo.of(presets.get(name))))


async def patch_preset(
    name: str, request: Request, presets: CallersPresets, on_change: ChangeListener
) -> Response:
    """Change what a preset stands for, or its description. A preset that is pinned is pinned to
    what its vectors are now where `steering` or `follow` is sent."""
    asked = await _read(PresetPatch, request)
    return await CHANGES.run(_patch, presets, on_change, name, asked)


async def delete_preset(name: str, presets: CallersPresets, on_change: ChangeListener) -> Response:
    """Delete a preset. Requests in flight finish with it."""
    return await CHANGES.run(_delete, presets, on_change, name)


def _list(presets: PresetView) -> Response:
    made = sorted(presets.all().items())
    return json_answer(PresetList(data=[PresetInfo.of(one) for _, one in made]))


def _create(presets: PresetView, on_change: OnChange, asked: PresetCreate) -> Response:
    made, created = presets.add(
        asked.name, asked.steering, follow=asked.follow, description=asked.description
    )
    if created:
        on_change("created", made.name, made.digest, "preset")
    return json_answer(PresetInfo.of(made), 201 if created else 200)


def _patch(presets: PresetView, on_change: OnChange, name: str, asked: PresetPatch) -> Response:
    check_patch(asked)
    changed = presets.update(
        name, asked.steering, follow=asked.follow, description=asked.description
    )
    on_change("updated", changed.name, changed.digest, "preset")
    return json_answer(PresetInfo.of(changed))


def _delete(presets: PresetView, on_change: OnChange, name: str) -> Response:
    presets.delete(name)
    on_change("deleted", name, None, "preset")
    return json_answer(PresetDeleted(name=name))


async def _read(kind: type[Body], request: Request) -> Body:
    try:
        return kind.model_validate(await request.json())
    except ValidationError as error:
        raise body_invalid(error) from None
    except json.JSONDecodeError as error:
        raise VectorInvalid(
            f"the body is not JSON: {error}", param="body", code="invalid_body"
        ) from None


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    schema = self_contained(kind.model_json_schema())
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
