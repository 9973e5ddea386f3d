"""Clients that send a byte a second."""

import asyncio
import contextlib
import time
from dataclasses import dataclass


@dataclass
class Trickle:
    """One of them: sends `at_once`, then a byte of `rest` a second, and reads what it is told."""

    port: int
    at_once: bytes
    rest: bytes
    sent: int = 0
    said: bytes = b""
    """What the server answered."""
    lasted: float | None = None
    """Seconds until the server ended it; None if the client did."""

    async def run(self) -> None:
        """Until the server ends it, or the task is cancelled."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        began = time.monotonic()
        sending = asyncio.create_task(self._send(writer))
        try:
            with contextlib.suppress(ConnectionError):
                while more := await reader.read(4096):
                    self.said += more
            self.lasted = time.monotonic() - began
        finally:
            sending.cancel()
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(self.at_once)
            await writer.drain()
            for byte in self.rest:
                await asyncio.sleep(1)
                writer.write(bytes([byte]))
                await writer.drain()
                self.sent += 1
