"""How much body the vector routes read."""

from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import response
from vectors.errors import VectorTooLarge

DEFAULT_MAX_BYTES: Final = 64 << 20
PREFIX: Final = "/v1/steering"


class BodyLimit:
    """Pure ASGI middleware: a body over `max_bytes` to a path under `prefix` is a 413.

    A body that announces its length is refused before a byte of it is read; any other is counted as
    it passes, never kept.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int = DEFAULT_MAX_BYTES, prefix: str = PREFIX
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on, watching its body."""
        if scope["type"] != "http" or not self._concerns(scope):
            await self.app(scope, receive, send)
            return
        refusal = too_large(self.max_bytes)
        if _announced(scope) > self.max_bytes:
            await response(refusal)(scope, receive, send)
            return
        received = 0
        over = started = False

        async def counting_receive() -> Message:
            nonlocal received, over
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self.max_bytes:
                    over = True
                    raise refusal
            return message

        async def watching_send(message: Message) -> None:
            nonlocal started
            # Whatever the application makes of the broken-off body, the client hears the reason.
            if over and not started:
                return
            started = True
            await send(message)

        try:
            await self.app(scope, counting_receive, watching_send)
        except VectorTooLarge as error:
            if error is not refusal or started:
                raise
        if over and not started:
            await response(refusal)(scope, receive, send)

    def _concerns(self, scope: Scope) -> bool:
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        return path == self.prefix or path.startswith(f"{self.prefix}/")


def too_large(max_bytes: int) -> VectorTooLarge:
    """The error for a body over `max_bytes`."""
    return VectorTooLarge(
        f"the upload is over this server's limit of {max_bytes} bytes; a vector is small (layers x "
        "hidden size x 4 bytes): send only its tensors, or raise the limit with --max-upload-bytes",
        param="file",
    )


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
