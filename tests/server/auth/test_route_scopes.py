"""Every route that this project or vLLM serves, with the scope that it needs.

The list is written down twice on purpose, here and in server/auth/route_scopes.py: whoever brings a
route decides who may call it, and says so in both.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from steersman.server.auth.route_scopes import need_of
from tests.support.server.keys import ONE_EACH
from tests.support.server.whole_app import ORIGIN, REACHED, VLLM_KEY

LISTED = {
    "public": [
        "GET /health", "GET /ready", "GET /playground", "GET /playground/{file:path}",
    ],
    "any": [
        "GET /v1/models", "GET /v1/steering/capabilities", "GET /ping", "POST /ping", "GET /load",
        "GET /version", "* /static", "GET /docs", "GET /docs/oauth2-redirect", "GET /redoc",
        "GET /openapi.json",
    ],
    "metrics": ["GET /metrics", "* /metrics"],
    "infer": [
        "POST /v1/chat/completions", "POST /v1/chat/completions/batch", "POST /v1/completions",
        "POST /v1/responses", "GET /v1/responses/{response_id}",
        "POST /v1/responses/{response_id}/cancel", "POST /v1/messages",
        "POST /v1/messages/count_tokens", "POST /v1/systemone", "POST /v1/decisions",
        "POST /invocations",
        "POST /inference/v1/generate", "POST /generative_scoring", "POST /tokenize",
        "POST /detokenize", "GET /tokenizer_info", "POST /v1/chat/completions/render",
        "POST /v1/chat/completions/derender", "POST /v1/completions/render",
        "POST /v1/completions/derender", "POST /v1/responses/render", "POST /v1/messages/render",
        "WS /v1/realtime", "POST /v1/audio/transcriptions", "POST /v1/audio/translations",
        "POST /cohere/v2/chat", "POST /cohere/v2/chat/render",
    ],
    "vectors:read": [
        "GET /v1/steering/vectors", "GET /v1/steering/vectors/{vector_id:path}",
        "GET /v1/steering/vectors/{vector_id:path}/content",
        "GET /v1/steering/vectors/{vector_id:path}/inspect",
        "GET /v1/steering/presets", "GET /v1/steering/presets/{name:path}",
        "GET /v1/steering/jobs", "GET /v1/steering/jobs/{job_id}",
        "GET /v1/steering/jobs/{job_id}/heat_map",
    ],
    "vectors:write": [
        "POST /v1/steering/vectors", "PATCH /v1/steering/vectors/{vector_id:path}",
        "DELETE /v1/steering/vectors/{vector_id:path}", "POST /v1/steering/vectors/extract",
        "POST /v1/steering/presets", "PATCH /v1/steering/presets/{name:path}",
        "DELETE /v1/steering/presets/{name:path}",
        "DELETE /v1/steering/jobs/{job_id}", "POST /v1/steering/patch",
    ],
    "activations:read": ["POST /v1/steering/activations"],
    "admin": [
        "POST /pause", "POST /resume", "GET /is_paused", "POST /sleep", "POST /wake_up",
        "GET /is_sleeping", "POST /release_kv_cache_memory", "POST /reset_prefix_cache",
        "POST /reset_mm_cache", "POST /reset_encoder_cache", "POST /abort_requests",
        "POST /inference/v1/abort_requests", "POST /v1/load_lora_adapter",
        "POST /v1/unload_lora_adapter", "POST /adapters", "DELETE /adapters/{adapter_name}",
        "POST /scale_elastic_ep", "POST /is_scaling_elastic_ep", "POST /start_profile",
        "POST /stop_profile", "GET /get_world_size", "GET /kv_event_sources",
        "POST /fault_tolerance/apply", "GET /fault_tolerance/status",
    ],
    "off": [
        "POST /collective_rpc", "GET /server_info", "POST /init_weight_transfer_engine",
        "POST /shutdown_weight_transfer_engine", "POST /start_weight_update",
        "POST /start_draft_weight_update", "POST /update_weights", "POST /finish_weight_update",
        "POST /update_weight_version", "GET /weight_info", "POST /weight_checker",
    ],
}  # fmt: skip
NEEDS = {route: need for need, routes in LISTED.items() for route in routes}
NOT_HERE = {
    # From vLLM 0.33 on.
    "POST /v1/decisions": "vllm.entrypoints.openai.decisions",
    # vLLM offers them only where Cohere's SDK is installed.
    "POST /cohere/v2/chat": "cohere",
    "POST /cohere/v2/chat/render": "cohere",
}
MAY = {
    "infer": {"infer"},
    "reader": {"vectors:read"},
    "writer": {"vectors:write"},
    "prometheus": {"metrics"},
}
MAY["admin"] = {"infer", "vectors:read", "vectors:write", "activations:read", "metrics", "admin"}
MAY[VLLM_KEY] = MAY["admin"]
Answers = dict[tuple[str, str | None], set[tuple[int, str | None]]]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("whole_app")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.server.whole_app", str(directory)],
        env=environment, capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((directory / "said.json").read_text())


def answers(seen: list[Any]) -> Answers:
    """What each route said to each caller, over both builds of the app."""
    found: Answers = {}
    for method, path, caller, status, code in seen:
        found.setdefault((f"{method} {path}", caller), set()).add((status, code))
    return found


def test_every_route_is_listed(said: dict[str, Any]) -> None:
    there = {f"{method} {path}" for method, path in said["routes"]}
    assert not (new := there - NEEDS.keys()), (
        f"{sorted(new)}: nobody has said who may call these. Read what they do, then add each to "
        "LISTED here and to server/auth/route_scopes.py, under the scope it needs (`off` if a "
        "caller could run code with it, or read what is not for clients)"
    )
    away = {r for r, module in NOT_HERE.items() if find_spec(module) is None}
    assert not (old := NEEDS.keys() - there - away), (
        f"{sorted(old)}: no such route is served any more; take each out here and in "
        "server/auth/route_scopes.py"
    )


@pytest.mark.parametrize("route", NEEDS)
def test_the_table_agrees(route: str) -> None:
    method, _, path = route.partition(" ")
    assert need_of(method, path) == NEEDS[route]


@pytest.mark.parametrize("caller", [None, "nobody", *ONE_EACH])
def test_who_gets_through_with_a_keys_file(said: dict[str, Any], caller: str | None) -> None:
    for (route, who), got in answers(said["closed"]).items():
        if who == caller:
            assert got == {expected(route, caller)}, (route, caller)


def expected(route: str, caller: str | None) -> tuple[int, str | None]:
    """(status, code) of `route` for `caller`, on a server with a keys file."""
    need, socket = NEEDS[route], route.startswith("WS ")
    if need == "off":
        return 403, "route_off"
    if need == "public":
        return REACHED, None
    if caller not in MAY:
        return (1008 if socket else 401), "invalid_api_key"
    if need != "any" and need not in MAY[caller]:
        return (1008 if socket else 403), "scope_missing"
    return (REACHED + 4000 if socket else REACHED), None


def test_vllms_own_key_beside_a_keys_file_may_do_everything(said: dict[str, Any]) -> None:
    # One of the two apps was built with it.
    for (route, who), got in answers(said["closed"]).items():
        if who == VLLM_KEY:
            assert expected(route, VLLM_KEY) in got, route
    assert said["environment_after"] is None
    assert "AuthenticationMiddleware" not in said["middlewares"]["closed"]


def test_vllms_own_key_alone_is_vllms_matter(said: dict[str, Any]) -> None:
    outer = said["middlewares"]["own"]
    assert outer.index("AuthenticationMiddleware") < outer.index("Authenticate")
    for (route, who), got in answers(said["own"]).items():
        if who == VLLM_KEY:
            assert got == {expected(route, VLLM_KEY)}, route


def test_without_keys_all_is_open_but_what_is_off(said: dict[str, Any]) -> None:
    assert "AuthenticationMiddleware" not in said["middlewares"]["open"]
    for (route, _), got in answers(said["open"]).items():
        assert got == {expected(route, VLLM_KEY)}, route


def table(said: dict[str, Any]) -> str:
    """Which routes are open when, as docs/keys.md shows it: asked of the whole app."""
    own = answers(said["own"])
    rows: dict[tuple[str, str, str], list[str]] = {}
    for need, routes in LISTED.items():
        for route in routes:
            keyless = {status for status, _ in own.get((route, None), set())}
            # What needs an extra package that is not here is under /cohere, which vLLM guards.
            guarded = keyless <= {401}
            with_key = "the key" if guarded else "open"
            off = need == "off"
            row = ("off", "off", "off") if off else ("open", with_key, CLOSED.get(need, need))
            rows.setdefault(row, []).append(route)
    head = "| routes | without keys | vLLM's `--api-key` alone | a keys file |\n|---|---|---|---|\n"
    return head + "".join(
        f"| {', '.join(f'`{route}`' for route in routes)} | {' | '.join(row)} |\n"
        for row, routes in rows.items()
    )


CLOSED = {
    "public": "open",
    "any": "any key",
    "metrics": "`metrics`; open with `public: [/metrics]`",
    **{
        scope: f"`{scope}`"
        for scope in ("infer", "vectors:read", "vectors:write", "activations:read", "admin")
    },
}


def test_the_table_in_the_docs_is_what_the_app_says(said: dict[str, Any]) -> None:
    page = (Path(__file__).parents[3] / "docs" / "keys.md").read_text()
    made = table(said)
    assert made in page, f"docs/keys.md needs this table:\n{made}"


def test_no_keys_file_beside_a_store_that_everybody_can_read(said: dict[str, Any]) -> None:
    assert "VLLM_ENABLE_RESPONSES_API_STORE" in said["with_store"]


def test_no_keys_file_where_the_gate_would_not_be(said: dict[str, Any]) -> None:
    assert "api_keys_file is for models that generate" in said["without_generate"]


@pytest.mark.parametrize("build", ["closed", "open", "own"])
def test_drain_and_gate_are_before_all_that_reads_a_body(said: dict[str, Any], build: str) -> None:
    order = [
        name
        for name in said["middlewares"][build]
        if name in ("DrainGate", "Authenticate", "BodyLimit", "RefuseIgnored", "CountAnswers")
    ]
    assert order == ["DrainGate", "Authenticate", "BodyLimit", "RefuseIgnored", "CountAnswers"]


def test_pages_of_an_allowed_origin_may_call_ours_and_read_refusals(said: dict[str, Any]) -> None:
    """With --allowed-origins and a keys file: preflights carry no key and pass, and a refusal can
    be read by the page, too."""
    assert len(said["browser"]) == 20
    for what, path, status, readable_by in said["browser"]:
        allowed = what.endswith(f" of {ORIGIN}")
        assert readable_by == (ORIGIN if allowed else None), (what, path)
        if what.startswith("preflight"):
            assert status == (200 if allowed else 400), (what, path)
        elif what.startswith("key"):
            assert status == REACHED, (what, path)
        else:
            assert status == 401, (what, path)
