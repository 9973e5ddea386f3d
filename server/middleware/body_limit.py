"""How large a body may be, and how long the server waits for it."""

import asyncio
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steersman.server.error_response import refuse
from steersman.server.errors import BodyTooSlow
from steersman.server.routing import is_ours
from steersman.vectors.errors import SteersmanError, VectorTooLarge

DEFAULT_MAX_BYTES: Final = 64 << 20
DEFAULT_SECONDS: Final = 60.0


class BodyLimit:
    """Pure ASGI middleware: a body over its path's limit is a 413, one that takes longer than
    `seconds` to arrive a 408.

    A body whose length is announced is refused before its first byte is read. Any other is counted
    as it passes, and not kept.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_upload_bytes: int = DEFAULT_MAX_BYTES,
        max_bytes: int = DEFAULT_MAX_BYTES,
        seconds: float = DEFAULT_SECONDS,
    ) -> None:
        self.app = app
        self._uploads = max_upload_bytes
        self._others = max_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the call pass, and count the bytes of its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        ours = is_ours(scope)
        max_bytes = self._uploads if ours else self._others
        if _announced(scope) > max_bytes:
            await refuse(_too_much(max_bytes, ours), scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self._seconds
        received = 0
        arrived = started = False
        refusal: SteersmanError | None = None

        async def watching_receive() -> Message:
            nonlocal received, arrived, refusal
            if arrived:
                # The next message says that the client is gone, whenever that is.
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                refusal = _too_slow(self._seconds)
                raise refusal from None
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                arrived = not message.get("more_body", False)
                if received > max_bytes:
                    refusal = _too_much(max_bytes, ours)
                    raise refusal
            return message

        async def watching_send(message: Message) -> None:
            nonlocal started
            # Whatever the application makes of the broken-off body, the client gets the reason.
            if refusal is not None and not started:
                return
            started = True
            await send(message)

        try:
            await self.app(scope, watching_receive, watching_send)
        except SteersmanError as error:
            if error is not refusal or started:
                raise
        if refusal is not None and not started:
            await refuse(refusal, scope, receive, send)


def too_large(max_bytes: int) -> VectorTooLarge:
    """The error for an upload over `max_bytes`."""
    return VectorTooLarge(
        f"the upload is over this server's limit of {max_bytes} bytes; a vector is small (layers x "
        "hidden size x 4 bytes): send only its tensors, or raise the limit with --max-upload-bytes",
        param="file",
    )


def _too_much(max_bytes: int, ours: bool) -> VectorTooLarge:
    if ours:
        return too_large(max_bytes)
    return VectorTooLarge(
        f"the body is over this server's limit of {max_bytes} bytes; send less, or raise the limit "
        "with --max-body-bytes",
        param="body",
        code="body_too_large",
    )


def _too_slow(seconds: float) -> BodyTooSlow:
    return BodyTooSlow(
        f"the body did not arrive within {seconds:g} s, this server's limit (--body-timeout)"
    )


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
