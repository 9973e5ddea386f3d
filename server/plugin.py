"""Entry point `vllm.endpoint_plugins`: Steersman's routes on vLLM's API server.

Our imports happen inside the methods: vLLM logs and skips a plugin whose import fails, but an
exception from `attach_router` or `init_state` stops the start.
"""

import asyncio
import logging
from argparse import Namespace
from pathlib import Path
from typing import Any


class SteersmanEndpoints:
    """vLLM's `EndpointPlugin` protocol (`vllm/plugins/endpoint_plugins/interface.py`)."""

    name = "steersman"
    required_tasks = None
    """For every app: without "generate" there is nothing to steer, but there may be keys to ask."""

    def attach_router(self, app: Any) -> None:
        """Add our routes, replace the four routes that take the `steering` field, and put our
        middleware, which checks keys, before all others."""
        from steersman.server import error_response, health
        from steersman.server.activations import routes as activations_api
        from steersman.server.auth import audit
        from steersman.server.auth.count_answers import CountAnswers
        from steersman.server.auth.keyfile import Keys
        from steersman.server.auth.vllm_keys import check_store, take_over
        from steersman.server.chat import routes
        from steersman.server.drain import Drain
        from steersman.server.extraction import api as extract_api
        from steersman.server.library import inspect as inspect_api
        from steersman.server.library import routes as vectors_api
        from steersman.server.library.upload import FORM_OVERHEAD
        from steersman.server.middleware import fail_fast
        from steersman.server.middleware.auth import Authenticate
        from steersman.server.middleware.body import Bounds
        from steersman.server.middleware.body_limit import BodyLimit
        from steersman.server.middleware.drain_gate import DrainGate
        from steersman.server.middleware.refuse_ignored import STEERED_PATHS, RefuseIgnored
        from steersman.server.openapi import describe
        from steersman.server.patching import routes as patch_api
        from steersman.server.playground import routes as playground
        from steersman.server.presets import routes as presets_api
        from steersman.steering.plan import Settings

        settings = Settings.read(getattr(app.state.args, "additional_config", None) or {})
        bounds = Bounds(
            settings.max_body_containers,
            settings.max_body_depth,
            settings.max_body_values,
            settings.max_input_items,
        )
        if not _generates(app):
            if settings.api_keys_file is not None:
                raise RuntimeError(
                    "api_keys_file is for models that generate, and this one does not; leave it out"
                )
            # Nothing is steered here: a request that means to be is refused.
            app.add_middleware(RefuseIgnored, bounds=bounds)
            return
        _log_as_vllm_does()
        audit.write_to(settings.audit_log)
        keys = None
        if settings.api_keys_file is not None:
            check_store()
            keys = Keys(Path(settings.api_keys_file), take_over(app.state.args))
        error_response.install(app)
        app.include_router(health.router)
        app.include_router(routes.router)
        app.include_router(extract_api.build_router())
        app.include_router(activations_api.build_router())
        app.include_router(patch_api.build_router())
        app.include_router(inspect_api.build_router())
        app.include_router(presets_api.build_router())
        app.include_router(vectors_api.build_router())
        if settings.playground:
            app.include_router(playground.build_router(playground.read_files()))
        fail_fast.install(app.router.routes)
        describe(app, STEERED_PATHS, keys=keys is not None)
        # Behind RefuseIgnored, which reads the body.
        app.add_middleware(CountAnswers)
        app.add_middleware(RefuseIgnored, bounds=bounds, default_preset=settings.default_preset)
        # The limit is on the file; a form adds its boundaries and names.
        app.add_middleware(
            BodyLimit,
            max_upload_bytes=settings.max_upload_bytes + FORM_OVERHEAD,
            max_bytes=settings.max_body_bytes,
            seconds=settings.body_timeout,
        )
        app.add_middleware(Authenticate, keys=keys)
        app.state.drain = Drain()
        app.add_middleware(DrainGate, drain=app.state.drain)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Open the library and ask the engine for its sizes. Raises if steering is not possible."""
        from steersman.server.start.banner import announce

        if engine_client is None or not hasattr(state, "drain"):
            announce(state, args, None)
            return
        from steersman.server import health
        from steersman.server.extraction.context import make_context
        from steersman.server.start.opening import open_state

        state.steersman = await open_state(engine_client, args, state.drain)
        state.steersman.extraction = make_context(
            state.steersman,
            engine_client,
            chat_template=getattr(args, "chat_template", None),
        )
        state.drain.watch(engine_client, state.steersman.jobs, state)
        announce(state, args, state.steersman.model)
        # Kept, or the task might be collected.
        state.loop_lag = asyncio.create_task(health.observe_loop_lag())

    def batch_lines(self, engine_client: Any, args: Namespace) -> Any:
        """The object that answers the steered lines of `vllm run-batch`: a
        `steersman.server.run_batch.BatchLines`. `steersman.steering.vllm.run_batch` calls this,
        because vLLM has no hook for it."""
        from steersman.server.run_batch import BatchLines

        _log_as_vllm_does()
        return BatchLines(engine_client, args)


def _log_as_vllm_does() -> None:
    """Give vLLM's log handlers to our loggers. vLLM sets the root logger to ERROR, so a warning of
    a damaged file in the library would be lost."""
    theirs = logging.getLogger("vllm")
    ours = logging.getLogger("steersman")
    ours.handlers, ours.propagate = theirs.handlers, False
    ours.setLevel(theirs.level or logging.INFO)


def _generates(app: Any) -> bool:
    """Whether vLLM has put the routes of a generating model on `app`."""
    return any(getattr(route, "path", "") == "/v1/chat/completions" for route in app.router.routes)
