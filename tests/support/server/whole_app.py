"""vLLM's app with our plugin on it and everything that an operator can switch on, asked by a key of
each scope. Prints what it saw as JSON, for test_routes.py: `python -m
tests.support.server.whole_app DIRECTORY`. A process of its own, since much of this is set by
environment variables.

Every handler is taken away: what is asked is who gets as far as there.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

VLLM_KEY = "a-key-of-vllms"
SWITCHED_ON = {
    "VLLM_PLUGINS": "steersman",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_ENABLE_COHERE_API": "1",
}
REACHED = 299
"""Status of a call that got through to where the handler was."""


def build(
    directory: Path,
    *,
    keys: bool,
    api_key: bool,
    offline_docs: bool = False,
    tasks: tuple[Any, ...] | None = None,
    options: tuple[str, ...] = (),
) -> Any:
    """The app, as `steersman serve` would build it for a model that has these `tasks`."""
    os.environ.pop("VLLM_API_KEY", None)
    if api_key:
        os.environ["VLLM_API_KEY"] = VLLM_KEY
    from vllm.config import ProfilerConfig
    from vllm.entrypoints.launchers.app import build_app
    from vllm.tasks import GENERATION_TASKS
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    from steersman.client.launch.vllm_arguments import cli_args

    ours = {"library": str(directory / "library"), "audit_log": str(directory / "audit.jsonl")}
    if keys:
        ours["api_keys_file"] = str(directory / "keys.yaml")
    options = ("model", "--additional-config", json.dumps({"steersman": ours}), *options)
    options += ("--enable-tokenizer-info-endpoint", "--enable-fault-tolerance")
    options += ("--enable-offline-docs",) if offline_docs else ()
    parser: Any = FlexibleArgumentParser()
    args = cli_args().make_arg_parser(parser).parse_args(list(options))
    args.profiler_config = ProfilerConfig(
        profiler="torch", torch_profiler_dir=str(directory / "profile")
    )
    return build_app(args, tasks or tuple(GENERATION_TASKS), None)


def routes(app: Any) -> list[tuple[str, str]]:
    """(method, path) of every route; "*" is any method, "WS" that of a web socket."""
    found = []
    for route in app.routes:
        if "WebSocket" in type(route).__name__:
            found.append(("WS", route.path))
        elif getattr(route, "methods", None) is None:
            found.append(("*", route.path))
        else:
            found += [(m, route.path) for m in sorted(route.methods) if m != "HEAD"]
    return found


async def _reached(scope: Any, _receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": REACHED + 4000})
        return
    await send({"type": "http.response.start", "status": REACHED, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def ask(app: Any, callers: list[str | None]) -> list[tuple[str, str, str | None, int, str | None]]:
    """(method, path, caller, status, code of the error) of every route and caller."""
    from starlette.testclient import TestClient, WebSocketDenialResponse
    from starlette.websockets import WebSocketDisconnect

    from tests.support.server.keys import bearer

    for route in app.routes:
        route.app = _reached
    client = TestClient(app)
    seen: list[tuple[str, str, str | None, int, str | None]] = []
    for method, path in routes(app):
        url = path.replace("{vector_id:path}", "plain")
        url = url.replace("{", "").replace("}", "") + ("/" if method == "*" else "")
        for caller in callers:
            if method == "WS":
                try:
                    with client.websocket_connect(url, headers=bearer(caller)) as socket:
                        socket.receive_text()
                    raise AssertionError("the socket was neither refused nor closed")
                except WebSocketDenialResponse as denied:
                    seen.append((method, path, caller, denied.status_code, None))
                except WebSocketDisconnect as closed:
                    seen.append((method, path, caller, closed.code, closed.reason or None))
                continue
            verb = "POST" if method == "*" else method
            answer = client.request(verb, url, headers=bearer(caller), follow_redirects=False)
            error = {} if answer.status_code == REACHED else answer.json()["error"]
            # vLLM's own refusal has no envelope.
            code = error.get("code") if isinstance(error, dict) else None
            seen.append((method, path, caller, answer.status_code, code))
    return seen


ORIGIN = "https://app.example.com"
ALLOWED = ("--allowed-origins", json.dumps([ORIGIN]))


def from_a_browser(app: Any) -> list[tuple[str, str, int, str | None]]:
    """(what, path, status, origin that may read the answer) of calls from pages of two origins."""
    from starlette.testclient import TestClient

    from tests.support.server.keys import bearer

    client = TestClient(app)
    seen = []
    paths = ("/v1/steering/vectors", "/v1/steering/capabilities", "/v1/chat/completions")
    for origin in (ORIGIN, "https://evil.example.com"):
        for path in paths:
            asks = {
                "preflight": {
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "authorization,content-type",
                },
                "no key": {},
                "wrong key": bearer("nobody"),
            }
            for what, headers in asks.items():
                method = "OPTIONS" if what == "preflight" else "GET"
                answer = client.request(method, path, headers={"Origin": origin, **headers})
                who = answer.headers.get("access-control-allow-origin")
                seen.append((f"{what} of {origin}", path, answer.status_code, who))
    for route in app.routes:
        route.app = _reached
    for path in paths[:2]:
        answer = client.get(path, headers={"Origin": ORIGIN, **bearer("admin")})
        who = answer.headers.get("access-control-allow-origin")
        seen.append((f"key of {ORIGIN}", path, answer.status_code, who))
    return seen


def middlewares(app: Any) -> list[str]:
    """Names of the app's middlewares, from the outside in."""
    return [one.cls.__name__ for one in app.user_middleware]


def refusal(directory: Path, **more: Any) -> str:
    """Why there can be no such app with a keys file."""
    try:
        build(directory, keys=True, api_key=False, **more)
    except RuntimeError as error:
        return str(error)
    return "there is one"


def main() -> None:
    directory = Path(sys.argv[1])
    os.environ.update(SWITCHED_ON)
    from vllm.plugins import load_general_plugins

    from tests.support.server.keys import ONE_EACH, one_each

    load_general_plugins()
    one_each(directory / "keys.yaml")
    callers = [None, "nobody", *ONE_EACH, VLLM_KEY]
    said: dict[str, Any] = {}
    closed = build(directory, keys=True, api_key=True)
    said["environment_after"] = os.environ.get("VLLM_API_KEY")
    offline = build(directory, keys=True, api_key=True, offline_docs=True)
    said["routes"] = sorted({*routes(closed), *routes(offline)})
    said["closed"] = [*ask(closed, callers), *ask(offline, callers)]
    opened = build(directory, keys=False, api_key=False)
    said["open"] = ask(opened, [None])
    own = build(directory, keys=False, api_key=True)
    own_offline = build(directory, keys=False, api_key=True, offline_docs=True)
    said["own"] = [*ask(own, [None, VLLM_KEY]), *ask(own_offline, [None, VLLM_KEY])]
    said["browser"] = from_a_browser(build(directory, keys=True, api_key=False, options=ALLOWED))
    listens_only = ("transcription",)
    said["without_generate"] = refusal(directory, tasks=listens_only)
    build(directory, keys=False, api_key=False, tasks=listens_only)
    os.environ["VLLM_ENABLE_RESPONSES_API_STORE"] = "1"
    said["with_store"] = refusal(directory)
    said["middlewares"] = {
        "closed": middlewares(closed), "open": middlewares(opened), "own": middlewares(own),
    }  # fmt: skip
    (directory / "said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
