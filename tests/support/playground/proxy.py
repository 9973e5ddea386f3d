"""A proxy before a server that can die: to a browser, the server's death."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class MortalProxy:
    """Carries bytes between its own port and the server's, until `die`."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open: list[socket.socket] = []
        self._listener = self._listen(0)
        self.port: int = self._listener.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def die(self) -> None:
        """Cut all connections, in the middle of what they carry, and take no more."""
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                # A reset, as when a process is killed; not the orderly end of a stream.
                connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
                )
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def live_again(self) -> None:
        """Take connections again, on the same port."""
        self._listener = self._listen(self.port)

    def _listen(self, port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_carry, args=(source, sink), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def mortal(url: str) -> Iterator[MortalProxy]:
    """A `MortalProxy` before the server at `url`."""
    made = MortalProxy(int(url.rsplit(":", 1)[1]))
    try:
        yield made
    finally:
        made.die()
