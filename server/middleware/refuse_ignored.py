"""Reads a body once, before all routes, and refuses steering that would be ignored.

vLLM answers 200 to fields that it does not know, so a request with a misplaced or misspelt
`steering` would be answered unsteered.
"""

import asyncio
import json
import re
from typing import Any, Final
from urllib.parse import unquote_plus

from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steersman.server.auth.caller import caller
from steersman.server.auth.route_scopes import generates
from steersman.server.chat.field import SteeringField
from steersman.server.chat.header_field import HEADER, OFF, read_header
from steersman.server.error_response import refuse
from steersman.server.errors import Misplaced
from steersman.server.middleware.body import BodyInvalid, Bounds, read
from steersman.server.middleware.constraints import check_constraints, check_items
from steersman.server.presets.default import default_of
from steersman.server.presets.model_name import split
from steersman.server.presets.models import served_names
from steersman.server.routing import is_ours, path_of
from steersman.steering.plan import PlanInvalid
from steersman.steering.plan.intent import (
    FIELD,
    means_steering,
    misplaced,
    misplaced_header,
    misplaced_query,
)
from steersman.vectors.errors import SteersmanError, shown

STEERED_PATHS: Final = frozenset(
    (
        *("/v1/chat/completions", "/v1/chat/completions/batch", "/v1/completions"),
        *("/v1/responses", "/v1/messages"),
    )
)
FROM_HEADER: Final = "steersman.from_header"
"""In a scope: whether the field comes from the header."""
_BODY: Final = "steersman.body"
_METHODS: Final = ("POST", "PUT", "PATCH")
_FORMS: Final = ("multipart/form-data", "application/x-www-form-urlencoded")
_NAMES: Final = re.compile(rb'[ ;]name="([^"\r\n]{1,200})"|(?:^|&)([^=&\s]{1,200})=')
"""Names of the parts of a multipart form, and of the fields of an encoded one."""
_SMALL: Final = 64 << 10
"""Bytes that are read on the event loop: a thread would take longer."""
_BIG_AT_ONCE: Final = 2
_OURS: Final = 10
"""Our own routes take so many times the structure: texts to make a vector from are plain lists."""


class RefuseIgnored:
    """Pure ASGI middleware. Behind it, `Request.json` returns the value that was read here."""

    def __init__(
        self, app: ASGIApp, bounds: Bounds | None = None, default_preset: str | None = None
    ) -> None:
        """`default_preset`: what steers requests that do not say how, unless their key has one."""
        self.app = app
        self._default_preset = default_preset
        self._bounds = bounds or Bounds()
        self._big = asyncio.Semaphore(_BIG_AT_ONCE)
        _share_bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the call pass, or answer 400."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            messages = await self._look(scope, receive)
        except (SteersmanError, PlanInvalid) as error:
            await refuse(error, scope, receive, send)
            return

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        await self.app(scope, replay if messages else receive, send)

    async def _look(self, scope: Scope, receive: Receive) -> list[Message]:
        """The messages that were received while reading. Raises the error with which the request is
        refused."""
        websocket = scope["type"] == "websocket"
        if is_ours(scope):
            steering = None
        elif websocket or scope["method"] in _METHODS:
            steering = _outside(scope)
        else:
            return []
        unsteered = self._unsteered(scope, off=steering is OFF)
        if websocket or scope["method"] not in _METHODS:
            if unsteered is not None:
                raise unsteered
            return []
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        if kind in _FORMS:
            if unsteered is not None:
                raise unsteered
            return [] if is_ours(scope) else await self._form(scope, receive, steering)
        body, messages = await _received(receive)
        if body:
            said, path = await self._said(scope, body, "json" in kind)
            _check(scope, said, path, steering)
            off = isinstance(said, dict) and FIELD in said and said[FIELD] is None
            unsteered = self._unsteered(scope, off=off or steering is OFF)
        elif steering not in (None, OFF):
            raise _cannot(scope, HEADER)
        if unsteered is not None:
            raise unsteered
        return messages

    def _unsteered(self, scope: Scope, *, off: bool) -> SteersmanError | None:
        """The error for a call that a default preset would steer if its route could be steered;
        None for others. `off`: whether the call turns it off."""
        default = default_of(caller().permissions, self._default_preset)
        if default is None or (off and not default.locked):
            return None
        if is_ours(scope) or path_of(scope) in STEERED_PATHS or not generates(scope):
            return None
        if scope["type"] != "websocket" and scope["method"] not in _METHODS:
            return None
        return default.unsteerable(scope, _routes())

    async def _form(self, scope: Scope, receive: Receive, steering: Any) -> list[Message]:
        """Check a form, such as one with an audio file: no route that steers accepts forms."""
        body, messages = await _received(receive)
        async with self._big:
            name = await run_in_threadpool(_form_name, body)
        if name is not None:
            raise _cannot(scope, name)
        if steering not in (None, OFF) and body:
            raise Misplaced(
                f"a form steers nothing; send JSON, with Content-Type: application/json ({HEADER})",
                param=HEADER,
                code="not_supported",
            )
        return messages

    async def _said(self, scope: Scope, body: bytes, is_json: bool) -> tuple[Any, str | None]:
        """The value of the body, and the path of a misplaced key in it."""
        ours, bounds = is_ours(scope), self._bounds
        if ours:
            bounds = bounds.times(_OURS)

        def look() -> tuple[Any, str | None]:
            said = read(body, bounds)
            if ours:
                return said, None
            check_constraints(said)
            check_items(path_of(scope), said, bounds.items)
            return said, misplaced(said)

        try:
            if len(body) <= _SMALL:
                said, path = look()
            else:
                async with self._big:
                    said, path = await run_in_threadpool(look)
        except BodyInvalid as error:
            if is_json:
                raise
            # Not JSON, and not said to be; a route that reads it as such finds the same.
            scope[_BODY] = error
            return None, None
        scope[_BODY] = said
        return said, path


def _outside(scope: Scope) -> Any:
    """The value of the `X-Steering` header, None if there is none. Raises for anything else in
    headers or query that means steering."""
    headers = Headers(scope=scope)
    query = QueryParams(scope.get("query_string", b""))
    if name := misplaced_header(headers):
        raise Misplaced(f"the header {shown(name)} steers nothing; send {HEADER}", param=name[:128])
    if name := misplaced_query(query.multi_items()):
        raise Misplaced(
            f"{shown(name)} in the query steers nothing; send the field {FIELD!r} in the body",
            param=f"query.{name}"[:128],
        )
    lines = headers.getlist(HEADER)
    if scope["type"] == "websocket" or path_of(scope) not in STEERED_PATHS:
        said = [line.strip() for line in lines if line.strip()]
        if said not in ([], ["null"]):
            raise _cannot(scope, HEADER)
        return OFF if said else None
    return read_header(lines)


def _check(scope: Scope, said: Any, path: str | None, from_header: Any) -> None:
    """Refuse a body with steering at a place where it has no effect, such as `path`. Put the
    header's value into the field."""
    if is_ours(scope):
        return
    if path is not None:
        raise Misplaced(f"{shown(path)} steers nothing; {_remedy(scope)}", param=path)
    steers = path_of(scope) in STEERED_PATHS
    field = said.get(FIELD) if isinstance(said, dict) else None
    if field is not None and not steers:
        raise _cannot(scope, FIELD)
    if not steers and isinstance(said, dict) and generates(scope):
        _check_model(scope, said.get("model"))
    if from_header is None or not steers or not isinstance(said, dict):
        return
    if from_header is OFF:
        if field is not None:
            raise _contradiction()
        said[FIELD] = None
        scope[FROM_HEADER] = True
    elif field is None:
        if FIELD in said:
            raise _contradiction()
        said[FIELD] = from_header
        scope[FROM_HEADER] = True
    elif SteeringField.read(field) != SteeringField.read(from_header):
        raise _contradiction()


def _check_model(scope: Scope, model: Any) -> None:
    """Refuse a `model` that steers by what is behind its colon, on a route that cannot be steered:
    some such routes take any name for the served model."""
    models = getattr(scope["app"].state, "openai_serving_models", None)
    if ":" in str(model) and models is not None and split(model, served_names(models)) is not None:
        raise Misplaced(
            f"the model {shown(model)} steers by what is behind the colon, and "
            f"{shown(path_of(scope))} cannot be steered; {_routes()}",
            param="model",
            code="not_supported",
        )


def _contradiction() -> PlanInvalid:
    return PlanInvalid(
        f"the header {HEADER} and the field {FIELD!r} say different things; send one of them",
        param=HEADER,
        code="contradiction",
    )


def _cannot(scope: Scope, key: str) -> SteersmanError:
    if meant := _meant(scope):
        return Misplaced(
            f"{shown(path_of(scope))} is not a route; send this to {meant}, without the "
            "extra slashes",
            param=key,
            code="not_supported",
        )
    return Misplaced(
        f"{shown(path_of(scope))} cannot be steered; {_routes()}", param=key, code="not_supported"
    )


def _meant(scope: Scope) -> str | None:
    """The route that steers and whose path differs from the call's only by slashes; None if there
    is none."""
    path = path_of(scope)
    plain = re.sub(r"/{2,}", "/", path).rstrip("/")
    return plain if plain != path and plain in STEERED_PATHS else None


def _remedy(scope: Scope) -> str:
    if path_of(scope) in STEERED_PATHS:
        return (
            f"send the field {FIELD!r} at the top level of the body (Python's SDK: extra_body="
            f'{{"{FIELD}": ...}}; others: as one more field), or the header {HEADER}'
        )
    if meant := _meant(scope):
        return (
            f"send the field {FIELD!r} at the top level of the body to {meant}: "
            f"{shown(path_of(scope))}, with its slashes, is not a route"
        )
    return f"this route cannot be steered; {_routes()}"


def _routes() -> str:
    return f"use one of {', '.join(sorted(STEERED_PATHS))}, or leave it out"


def _form_name(body: bytes) -> str | None:
    """The first name in a form that means steering."""
    for found in _NAMES.finditer(body):
        name = unquote_plus((found[1] or found[2]).decode("utf-8", "replace"))
        if means_steering(name):
            return name[:128]
    return None


async def _received(receive: Receive) -> tuple[bytes, list[Message]]:
    """The body, and messages that repeat it for the route; no body if the client disconnected."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"", [message]
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            body = b"".join(parts)
            return body, [{"type": "http.request", "body": body, "more_body": False}]


def _share_bodies() -> None:
    """Make `Request.json` return the value that was read here, so that all code uses one parser."""
    if hasattr(Request.json, "__steersman__"):
        return
    original = Request.json

    async def shared(self: Request) -> Any:
        if _BODY not in self.scope:
            return await original(self)
        await self.body()
        said = self.scope[_BODY]
        if isinstance(said, BodyInvalid):
            raise json.JSONDecodeError(said.message, "", 0)
        return said

    shared.__steersman__ = True  # type: ignore[attr-defined]
    Request.json = shared  # type: ignore[method-assign,assignment]
