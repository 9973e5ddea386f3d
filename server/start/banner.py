"""What `steersman serve` prints when the server is up: the address, the vectors, an example to
paste."""

import asyncio
import json
import logging
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any, Final

from steersman.server.playground.routes import PATH
from steersman.steering.logs import FORMAT, RUN

NAMES: Final = 8
"""Vectors that are named; the others are counted."""
logger = logging.getLogger("vllm.steersman")


def announce(state: Any, args: Any, model: dict[str, Any] | None) -> None:
    """When uvicorn listens: mark the server as ready, and print the banner if `steersman serve`
    started it. `state`: the app's state. Of several API servers only the first prints it, and none
    for a model that does not generate, which has no `model` in its state."""
    folder = os.environ.get(RUN)
    if folder:
        state.announcing = asyncio.get_running_loop().create_task(
            _announce(state, args, model, Path(folder))
        )


async def _announce(state: Any, args: Any, model: dict[str, Any] | None, run: Path) -> None:
    # uvicorn says it in an attribute alone.
    while not getattr(getattr(state, "server", None), "started", False):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    try:
        (run / "ready").touch()
        if errors := (run / "trace").read_text(errors="replace"):
            logger.warning("the server started in spite of these errors:\n%s", errors)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("%s cannot be used: %s", run, error.strerror)
    name = multiprocessing.current_process().name
    first = multiprocessing.parent_process() is None or name.endswith("_0")
    if model is None or not first:
        return
    try:
        library = state.steersman.whole_library
        entries, _ = await asyncio.to_thread(library.page, None, NAMES)
        count = await asyncio.to_thread(library.count)
    except Exception:
        logger.exception("the vectors cannot be listed")
        entries, count = [], 0
    names = [entry.name for entry in entries]
    presets = await asyncio.to_thread(_preset_names, state.steersman)
    settings = state.steersman.settings
    text = banner(
        args,
        model,
        names,
        count,
        keys=settings.api_keys_file,
        presets=presets,
        page=settings.playground,
    )
    if settings.default_preset is not None and settings.default_preset not in presets:
        logger.warning(
            "--default-preset: the preset %r does not exist yet; until it does, requests without a "
            "steering of their own get a 503",
            settings.default_preset,
        )
    if os.environ.get(FORMAT) == "json":
        logger.info("ready: %s serves at %s", model["id"], url_of(args))
    else:
        print(text, file=sys.stderr, flush=True)


def _preset_names(steersman: Any) -> list[str]:
    try:
        return sorted(steersman.all_presets.all())
    except Exception:
        logger.exception("the presets cannot be listed")
        return []


def url_of(args: Any) -> str:
    """The URL of the server of vLLM's `args` for a client on this machine."""
    if args.uds:
        return f"unix:{args.uds}"
    host = args.host or "127.0.0.1"
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http{'s' if args.ssl_keyfile else ''}://{host}:{args.port}"


def banner(
    args: Any,
    model: dict[str, Any],
    vectors: list[str],
    count: int,
    *,
    keys: str | None,
    presets: list[str],
    page: bool = False,
) -> str:
    """The banner's lines. `model`: as in /v1/steering/capabilities; `vectors`: the first of `count`
    names; `page`: whether there is a playground."""
    url = url_of(args)
    named = ", ".join(vectors)
    if count > len(vectors):
        named += f" and {count - len(vectors)} more"
    body: dict[str, Any] = {
        "model": model["id"],
        "max_tokens": 60,
        "temperature": 0.7,
        "messages": [{"role": "user", "content": "Tell me about your weekend."}],
    }
    if vectors:
        first = "cheerful" if "cheerful" in vectors else vectors[0]
        body["steering"] = {"vectors": {first: 1.5}} if first == "cheerful" else {
            "vectors": [{"id": first}]}  # fmt: skip
    where = ["--unix-socket", args.uds, "http://here"] if args.uds else [url]
    key = ' -H "Authorization: Bearer $STEERSMAN_API_KEY"' if keys or args.api_key else ""
    closed = f"keys in {keys}" if keys else "--api-key" if args.api_key else ""
    return "\n".join(
        [
            "",
            f"  Steersman serves {model['id']} at {url}",
            f"  vectors: {named or 'none yet; `steersman vectors extract --help`'}",
            f"  presets: {_models(model['id'], presets) or 'none; `steersman presets --help`'}",
            f"  access:  {closed or 'no keys: whoever reaches this address may do everything'}",
            *([f"  page:    {url}{PATH}"] if page and not args.uds else []),
            "  try:",
            f"    curl {' '.join(where)}/v1/chat/completions"
            f"{key} -H 'Content-Type: application/json' -d '{json.dumps(body)}'",
            "",
        ]
    )


def _models(model: str, presets: list[str]) -> str:
    """The first of `presets` as model names."""
    more = f" and {len(presets) - NAMES} more" if len(presets) > NAMES else ""
    return ", ".join(f"{model}:{name}" for name in presets[:NAMES]) + more
