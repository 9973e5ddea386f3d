"""The scope that each route needs. On a server with keys, a route that is not listed here is
closed.

A new vLLM may bring new routes, which nobody has reviewed yet.
"""

import re
from typing import Final

from starlette.routing import Match
from starlette.types import Scope

from steersman.server.auth.permissions import ACTIVATIONS, ADMIN, INFER, METRICS, READ, WRITE
from steersman.server.routing import path_of

PUBLIC: Final = "public"
"""No key: what probes ask, and the files of the playground, which are the same for everybody."""
ANY: Final = "any"
"""Any key."""
OFF: Final = "off"
"""Nobody, keys or not: a caller could run code here, or read what is not for clients."""
NOWHERE: Final = "nowhere"
"""There is no such route: a 404, which a stranger does not get to see."""
OTHERWISE: Final = "otherwise"
"""The route has other methods: a 405, which a stranger does not get to see either."""

_BY_NEED: Final = {
    PUBLIC: "GET /health  GET /ready  GET /playground  GET /playground/{file:path}",
    ANY: """
        GET /v1/models  GET /v1/steering/capabilities  GET /ping  POST /ping  GET /load
        GET /version  * /static  GET /docs  GET /docs/oauth2-redirect  GET /redoc  GET /openapi.json
    """,
    METRICS: "GET /metrics  * /metrics",
    INFER: """
        POST /v1/chat/completions  POST /v1/chat/completions/batch  POST /v1/completions
        POST /v1/responses  GET /v1/responses/{response_id}  POST /v1/responses/{response_id}/cancel
        POST /v1/messages  POST /v1/messages/count_tokens  POST /v1/systemone  POST /invocations
        POST /v1/decisions
        POST /inference/v1/generate  POST /generative_scoring
        POST /tokenize  POST /detokenize  GET /tokenizer_info
        POST /cohere/v2/chat  POST /cohere/v2/chat/render
        POST /v1/chat/completions/render  POST /v1/chat/completions/derender
        POST /v1/completions/render  POST /v1/completions/derender
        POST /v1/responses/render  POST /v1/messages/render
        WS /v1/realtime  POST /v1/audio/transcriptions  POST /v1/audio/translations
    """,
    READ: """
        GET /v1/steering/vectors  GET /v1/steering/vectors/{vector_id:path}
        GET /v1/steering/vectors/{vector_id:path}/content
        GET /v1/steering/vectors/{vector_id:path}/inspect
        GET /v1/steering/presets  GET /v1/steering/presets/{name:path}
        GET /v1/steering/jobs  GET /v1/steering/jobs/{job_id}
        GET /v1/steering/jobs/{job_id}/heat_map
    """,
    WRITE: """
        POST /v1/steering/vectors  PATCH /v1/steering/vectors/{vector_id:path}
        DELETE /v1/steering/vectors/{vector_id:path}
        POST /v1/steering/presets  PATCH /v1/steering/presets/{name:path}
        DELETE /v1/steering/presets/{name:path}
        POST /v1/steering/vectors/extract  POST /v1/steering/patch
        DELETE /v1/steering/jobs/{job_id}
    """,
    ACTIVATIONS: "POST /v1/steering/activations",
    # Of these many are there only if the operator switches them on (VLLM_SERVER_DEV_MODE, ...).
    ADMIN: """
        POST /pause  POST /resume  GET /is_paused  POST /sleep  POST /wake_up  GET /is_sleeping
        POST /release_kv_cache_memory  POST /reset_prefix_cache  POST /reset_mm_cache
        POST /reset_encoder_cache  POST /abort_requests  POST /inference/v1/abort_requests
        POST /v1/load_lora_adapter  POST /v1/unload_lora_adapter
        POST /adapters  DELETE /adapters/{adapter_name}
        POST /scale_elastic_ep  POST /is_scaling_elastic_ep
        POST /start_profile  POST /stop_profile
        POST /fault_tolerance/apply  GET /fault_tolerance/status
        GET /get_world_size  GET /kv_event_sources
    """,
    # Calls any method of the workers, ours too; weights from pickles, and weights that the start-up
    # check and the calibration do not know; the configuration and the environment, keys included.
    OFF: """
        POST /collective_rpc  GET /server_info
        POST /init_weight_transfer_engine  POST /shutdown_weight_transfer_engine
        POST /start_weight_update  POST /start_draft_weight_update  POST /update_weights
        POST /finish_weight_update  POST /update_weight_version  GET /weight_info
        POST /weight_checker
    """,
}

_MAKES_NO_TEXT: Final = re.compile(
    r"/(ping|(de)?tokenize|v1/messages/count_tokens|v1/responses/[^/]+/cancel|.+/(de)?render)"
)
"""Of the routes that need `infer`, those that ask the model nothing."""

WHILE_DRAINING: Final = (PUBLIC, METRICS)
"""What a server that is about to stop answers to the end: probes and scrapes."""

_NEEDS: Final[dict[tuple[str, str], str]] = {
    (method, path): need
    for need, routes in _BY_NEED.items()
    for method, path in zip(routes.split()[::2], routes.split()[1::2], strict=True)
}


def need_of(method: str, path: str) -> str | None:
    """The scope that the route declared as `path` needs; None for a route that is not listed. A web
    socket has the method "WS"."""
    if method == "HEAD":
        method = "GET"
    return _NEEDS.get((method, path)) or _NEEDS.get(("*", path))


def generates(scope: Scope) -> bool:
    """Whether the model may answer the call of `scope`: also a route that is not listed may."""
    need = route_need(scope)
    return need in (None, INFER) and _MAKES_NO_TEXT.fullmatch(path_of(scope)) is None


def route_need(scope: Scope) -> str | None:
    """The scope that the call of `scope`, an ASGI scope, needs."""
    if "steersman.need" not in scope:
        scope["steersman.need"] = _find(scope)
    need: str | None = scope["steersman.need"]
    return need


def _find(scope: Scope) -> str | None:
    method = "WS" if scope["type"] == "websocket" else scope["method"]
    found = NOWHERE
    for route in scope["app"].router.routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return need_of(method, route.path)
        found = OTHERWISE if match is Match.PARTIAL else found
    return found
