"""Seam: names of models in answers and in `GET /v1/models`
(`entrypoints/openai/models/serving.py: OpenAIServingModels`).
"""

import functools
from collections.abc import Collection
from contextvars import ContextVar
from typing import Any, Final

from fastapi.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from vllm.entrypoints.openai.models import api_router as vllm_models

from steersman.server.presets.view import PresetView

_asked: Final[ContextVar[str | None]] = ContextVar("steersman_model_asked", default=None)


def served_names(models: Any) -> Collection[str]:
    """The names of the models and adapters that vLLM's `models` serves."""
    return {*(base.name for base in models.base_model_paths), *models.lora_requests}


def answer_as(models: Any, asked: str) -> None:
    """Have the answer to the running request say the model `asked` for, which is not one that
    `models` serves. vLLM's handlers take the name of the answer from `models.model_name`."""
    if not hasattr(models.model_name, "__steersman__"):
        models.model_name = _as_asked(models.model_name)
    _asked.set(asked)


def _as_asked(original: Any) -> Any:
    @functools.wraps(original)
    def model_name(*args: Any, **kwargs: Any) -> Any:
        return _asked.get() or original(*args, **kwargs)

    model_name.__steersman__ = True  # type: ignore[attr-defined]
    return model_name


async def list_models(request: Request, presets: PresetView) -> Response:
    """vLLM's list, and of each served model each preset as `<model>:<preset>`."""
    served = await vllm_models.models(request).show_available_models()
    return await run_in_threadpool(_listed, served.model_dump(), presets)


def _listed(found: dict[str, Any], presets: PresetView) -> Response:
    # In a thread, since of thousands the JSON is megabytes.
    found["data"] += cards(found["data"], presets)
    return JSONResponse(found)


def cards(served: list[dict[str, Any]], presets: PresetView) -> list[dict[str, Any]]:
    """A card for each preset, like that of its model. Adapters have none."""
    made = sorted(presets.all().items())
    return [
        base
        | {
            "id": f"{base['id']}:{name}",
            "created": preset.created_at,
            "owned_by": "steersman",
            "parent": base["id"],
        }
        for base in served
        if base["parent"] is None
        for name, preset in made
    ]
