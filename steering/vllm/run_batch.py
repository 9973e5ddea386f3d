"""Seam: `vllm run-batch` (`entrypoints/launchers/run_batch.py`), which does not have our routes.

A line that means to be steered gets an error in the output file; the others are answered.
"""

import sys
from typing import Any

from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.intent import CARRIERS, FIELD, misplaced
from steersman.steering.vllm.frontend import refused
from steersman.steering.vllm.seam import Function, wrap

MODULE = "vllm.entrypoints.launchers.run_batch"


def install() -> None:
    """Wrap `run_request` where this process has imported it: as a module, or as its main program.
    Idempotent. Plugins are loaded when the engine is made, which is after that."""
    for name in (MODULE, "__main__"):
        module = sys.modules.get(name)
        if hasattr(module, "run_request") and hasattr(module, "BatchRequestInput"):
            wrap(module, "run_request", _refusing)


def _refusing(original: Function) -> Function:
    async def run_request(serve: Function, request: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            path = meant(request.body)
        except PlanInvalid as error:
            refusal = error
        else:
            if path is None:
                return await original(serve, request, *args, **kwargs)
            refusal = PlanInvalid(
                f"body.{path}: `vllm run-batch` cannot steer; send the line to a server "
                "(`steersman serve`), or leave the key out",
                param=f"body.{path}",
                code="not_supported",
            )

        async def refuse(_body: Any) -> Any:
            raise refused(refusal)

        return await original(refuse, request, *args, **kwargs)

    return run_request


def meant(body: Any) -> str | None:
    """The path of what means steering in the model of a request that has no field for it."""
    keys: dict[str, Any] = dict(getattr(body, "model_extra", None) or {})
    # The other fields stay untouched: some are read once.
    keys |= {key: value for key in CARRIERS if (value := getattr(body, key, None)) is not None}
    return FIELD if keys.get(FIELD) is not None else misplaced(keys)
