"""Entry point `vllm.general_plugins`: vLLM calls `register` in every process that it starts.

Our imports happen inside `register`, so that every failure is raised by the call: vLLM logs and
skips a plugin that fails to import, but a plugin that raises stops the start, as it must.
"""

import logging
import multiprocessing
import os

from steersman.steering.vllm.seam import Function, wrap

NAME = "steersman"
OFF = (
    "Steersman is installed but not switched on: vLLM ignores the `steering` field of a request, "
    "and answers unsteered. Set VLLM_PLUGINS=steersman (separate several names with commas, "
    "without spaces), or start the server with `steersman serve`."
)
logger = logging.getLogger("vllm.steersman")
"""A child of vLLM's logger, whose handlers write its lines."""


def register() -> None:
    """Install all seams if `VLLM_PLUGINS` names us. Idempotent.

    If the variable is not set, vLLM calls every general plugin but does not load our routes; such
    an engine is left unchanged. Raises RuntimeError for a vLLM that is not supported, and any error
    that keeps our routes from being imported.
    """
    named = os.environ.get("VLLM_PLUGINS")
    if NAME not in [name.strip() for name in (named or "").split(",")]:
        if named is None and multiprocessing.parent_process() is None:
            logger.warning(OFF)
        return
    from importlib.metadata import entry_points

    import vllm

    from steersman.steering.ops import addition
    from steersman.steering.vllm import (
        compile_cache,
        frontend,
        parent_watch,
        run_batch,
        seams,
        unsupported,
    )
    from steersman.steering.vllm.core import prefix_cache, scheduler
    from steersman.steering.vllm.worker import rpc

    unsupported.check_version(vllm.__version__)
    seams.check(seams.EVERY)
    unsupported.check_frontend()
    # vLLM would log that the routes cannot be imported, and answer 200 to a field it ignores.
    for routes in entry_points(group="vllm.endpoint_plugins", name=NAME):
        wrap(routes.load(), "attach_router", _after_checking)
    for seam in (compile_cache, frontend, run_batch, prefix_cache, scheduler, rpc):
        seam.install()
    parent_watch.leave_with_parent()
    del addition  # Importing it registered the operation.


def _after_checking(original: Function) -> Function:
    """Wrap the function that attaches our routes, so that it first checks the seams of the API
    server. Only that process imports what they need."""

    def attach_router(*args: object) -> None:
        from steersman.steering.vllm import seams

        seams.check(seams.API_SERVER)
        original(*args)

    return attach_router
