"""Accepts no new call once the server is about to stop (`steersman.server.drain`)."""

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steersman.server.auth.route_scopes import WHILE_DRAINING, route_need
from steersman.server.drain import Drain
from steersman.server.error_response import refuse
from steersman.server.errors import Draining


class DrainGate:
    """Pure ASGI middleware: counts the calls that run, and refuses those that arrive too late."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self.app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the call pass, or answer 503."""
        if scope["type"] not in ("http", "websocket") or route_need(scope) in WHILE_DRAINING:
            await self.app(scope, receive, send)
            return
        if self._drain.draining:
            late = Draining("this server is about to stop; try again, and another one will answer")
            await refuse(late, scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None
        self._drain.enter(task)
        try:
            await self.app(scope, receive, self._closing(send))
        finally:
            self._drain.leave(task)

    def _closing(self, send: Send) -> Send:
        """`send` with a header that makes the client open another connection for its next
        request."""

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.draining:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        return closing
