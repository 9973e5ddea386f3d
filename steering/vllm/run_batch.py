"""Seam: `vllm run-batch` (`entrypoints/launchers/run_batch.py`), which does not have our routes.

A chat request with the `steering` field is steered, and its result has the receipt. A line with
steering in any other place gets an error in the output file; the other lines are answered.
"""

import functools
import sys
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.intent import CARRIERS, FIELD, misplaced
from steersman.steering.vllm.frontend import refused
from steersman.steering.vllm.seam import Function, wrap

_SPOKEN = "/v1/audio/"
"""Of the routes of a batch, those beside chats that generate."""
MODULE = "vllm.entrypoints.launchers.run_batch"


def install() -> None:
    """Wrap `build_endpoint_registry` and `run_request` if this process has imported them, as a
    module or as its main program. Idempotent. vLLM loads plugins when it makes the engine: after
    that import, and before it builds the registry and reads lines."""
    for name in (MODULE, "__main__"):
        module = sys.modules.get(name)
        if module and hasattr(module, "run_request") and hasattr(module, "BatchRequestInput"):
            seam = _Lines(module)
            wrap(module, "build_endpoint_registry", seam.opening)
            wrap(module, "run_request", seam.running)


class _Lines:
    """The two wrappers of one module, and the state that they share."""

    def __init__(self, module: ModuleType) -> None:
        self._module: Any = module
        self._steered: Any = None
        """Our `steersman.server.run_batch.BatchLines`, which this room does not import."""

    def opening(self, original: Function) -> Function:
        async def build_endpoint_registry(
            engine_client: Any, args: Any, *rest: Any, **more: Any
        ) -> Any:
            registry = await original(engine_client, args, *rest, **more)
            for ours in entry_points(group="vllm.endpoint_plugins", name="steersman"):
                self._steered = ours.load()().batch_lines(engine_client, args)
                self._module.ChatCompletionRequest = self._steered.chat_request
            return registry

        return build_endpoint_registry

    def running(self, original: Function) -> Function:
        async def run_request(serve: Function, request: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                refusal = self._refusal(request)
            except PlanInvalid as error:
                refusal = error
            if refusal is None:
                if self._concerns(request.body):
                    serve = functools.partial(self._steered.answer, serve)
                return await original(serve, request, *args, **kwargs)
            found = refusal

            async def refuse(_body: Any) -> Any:
                raise refused(found)

            return await original(refuse, request, *args, **kwargs)

        return run_request

    def _concerns(self, body: Any) -> bool:
        """Whether a line with this `body` may be steered."""
        ours = self._steered
        return ours is not None and isinstance(body, ours.chat_request) and ours.concerns(body)

    def _refusal(self, request: Any) -> PlanInvalid | None:
        """Why a line cannot be answered; None if it can. Raises `PlanInvalid` for more than can be
        searched."""
        if (path := meant(request.body)) is not None:
            return PlanInvalid(
                f"body.{path} steers nothing: `vllm run-batch` steers chat requests only, by the "
                f"field `{FIELD}` in the body of a line; use that, or leave the key out",
                param=f"body.{path}",
                code="not_supported",
            )
        return self._unsteered(request.url)

    def _unsteered(self, url: str) -> PlanInvalid | None:
        """Why a line for `url` cannot be answered, where a default preset means to steer it; None
        where it can."""
        default = None if self._steered is None else self._steered.default_preset
        if default is None or not url.startswith(_SPOKEN):
            return None
        return PlanInvalid(
            f"the default preset {default!r} steers this batch, and {url} cannot be steered; leave "
            "out the line, or the setting default_preset",
            param="url",
            code="not_supported",
        )


def meant(body: Any) -> str | None:
    """Path of a key in a request's model that means steering and is not a field of that model; None
    if there is none. Raises `PlanInvalid` for more than can be searched."""
    keys: dict[str, Any] = dict(getattr(body, "model_extra", None) or {})
    # The other fields stay untouched: some are read once.
    keys |= {key: value for key in CARRIERS if (value := getattr(body, key, None)) is not None}
    return FIELD if keys.get(FIELD) is not None else misplaced(keys)
