"""Authentication: the caller, the scope that the route needs, and the limits of the key."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steersman.server.auth.audit import audit_line
from steersman.server.auth.caller import Caller, enter
from steersman.server.auth.count_answers import COUNTED
from steersman.server.auth.keyfile import Keys
from steersman.server.auth.permissions import ADMIN, OPEN, KeyPermissions
from steersman.server.auth.permissions import METRICS as METRICS_SCOPE
from steersman.server.auth.rate_limit import CountedRequest, RateLimiter
from steersman.server.auth.route_scopes import ANY, NOWHERE, OFF, OTHERWISE, PUBLIC, route_need
from steersman.server.error_response import refuse
from steersman.server.errors import KeyInvalid, NotAllowed, RouteNotFound
from steersman.server.metrics import METRICS
from steersman.server.routing import is_ours
from steersman.vectors.errors import SteersmanError


class Authenticate:
    """Pure ASGI middleware. Without `keys`, every caller may use every route, except those that are
    always closed."""

    def __init__(self, app: ASGIApp, keys: Keys | None) -> None:
        self.app = app
        self._keys = keys
        self._limiter = RateLimiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the call pass, or answer 401, 403 or 429."""
        if scope["type"] not in ("http", "websocket") or scope.get("method") == "OPTIONS":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            need = route_need(scope)
            if self._keys is not None and need != OFF:
                # Where nobody asks anything, probes and scrapes still do: a bad file shows, and a
                # good.
                await self._keys.refresh()
            permissions = self._admit(need, headers)
            if need == NOWHERE and is_ours(scope):
                # An id with a line break fits no route of ours, and the error must not be vLLM's.
                raise RouteNotFound("there is no such route; /openapi.json lists them")
            counted = CountedRequest(self._limiter, permissions)
        except SteersmanError as error:
            await refuse(error, scope, receive, send)
            return
        scope[COUNTED] = counted
        address = scope["client"][0] if scope.get("client") else None
        enter(Caller(permissions, address, (headers.get("x-request-id") or "")[:128] or None))
        if permissions.name:
            METRICS.key_requests.labels(permissions.name).inc()
        try:
            if need == ADMIN and scope.get("method") != "GET":
                await _audited(self.app, scope, receive, send)
            else:
                await self.app(scope, receive, send)
        finally:
            counted.leave()

    def _admit(self, need: str | None, headers: Headers) -> KeyPermissions:
        """The permissions of the call. Raises `KeyInvalid` or `NotAllowed`."""
        if need == OFF:
            raise NotAllowed("this server does not offer this route", code="route_off")
        if self._keys is None:
            return OPEN
        if need == PUBLIC or (need == METRICS_SCOPE and self._keys.is_public("/metrics")):
            return OPEN
        permissions = self._keys.find(_key(headers))
        if permissions is None:
            raise KeyInvalid(
                "the API key is missing or not known here; send one as 'Authorization: Bearer KEY'"
            )
        if need is None:
            raise NotAllowed(
                "this route is closed on a server with keys: no scope covers it",
                code="route_off",
            )
        if need not in (ANY, NOWHERE, OTHERWISE) and not permissions.may(need):
            raise NotAllowed(
                f"this key may not do this; it needs the scope {need}", code="scope_missing"
            )
        return permissions


def _key(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    # Anthropic's SDK, for /v1/messages.
    return headers.get("x-api-key", "")


async def _audited(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the call pass, and write an audit line however it ends."""
    told = False

    async def tell(status: int | None) -> None:
        nonlocal told
        told = True
        await audit_line("admin.called", method=scope["method"], path=scope["path"], status=status)

    async def watching(message: Message) -> None:
        if message["type"] == "http.response.start":
            await tell(message["status"])
        await send(message)

    try:
        await app(scope, receive, watching)
    finally:
        if not told:
            # It raised, or was cancelled, and may have done half of it.
            await asyncio.shield(tell(None))
