"""A stand-in for a server, which streams a dynamic answer to the playground at a steady speed."""

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from steersman.server.playground.routes import HEADERS, PAGE, PATH, read_files

PROPERTIES: Final = ("cheerful", "formal")
WORDS: Final = ("the", "lamp", "of", "a", "lighthouse", "went", "round", "all", "night")
_VECTOR: Final = {
    "id": "cheerful", "digest": "sha256:0", "description": "", "fits": True, "misfit": None,
    "coefficient": 1.0, "layers": [14], "positions": "generation", "safe_range": [-2, 2],
    "tensors": [], "bytes": 1, "versions": ["sha256:0"], "norms": {}, "method_settings": {},
}  # fmt: skip
_ANSWERS: Final[dict[str, Any]] = {
    "/v1/steering/capabilities": {
        "version": "0", "model": "replayed", "num_layers": 30, "hidden_size": 576, "sites": [],
        "aliases": [], "positions": ["generation"], "schedules": ["constant"],
        "dynamic": {"max_vectors": 8, "kl": ["mean", "sum"]}, "median_norms": None, "limits": {},
    },
    "/v1/steering/vectors": {"data": [_VECTOR], "last_id": "cheerful", "has_more": False},
    "/v1/steering/vectors/cheerful": _VECTOR,
    "/v1/steering/presets": {"data": []},
}  # fmt: skip


@contextmanager
def replaying(tokens: int, a_second: float) -> Iterator[str]:
    """Its address. Every chat is answered with `tokens` tokens, one a chunk, `a_second` of them."""
    files = read_files()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            file = files.get(path.removeprefix(PATH).strip("/") or PAGE)
            if path.startswith(PATH) and file is not None:
                self._send(file.plain, {**HEADERS, "Content-Type": file.kind})
            else:
                body = json.dumps(_ANSWERS.get(path, {})).encode()
                self._send(body, {"Content-Type": "application/json"})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            began = time.monotonic()
            for n, chunk in enumerate(chunks(tokens)):
                time.sleep(max(0.0, began + n / a_second - time.monotonic()))
                self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.write(b"data: [DONE]\n\n")

        def _send(self, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def chunks(tokens: int) -> Iterator[dict[str, Any]]:
    """The chunks of a chat's stream, as the server sends those of a dynamic request."""
    for n in range(tokens):
        found = {
            name: {"coefficients": [value], "divergences": [value]}
            for k, name in enumerate(PROPERTIES)
            for value in [0.75 + 0.75 * math.sin(n * (0.7 + k))]
        }
        text = f" {WORDS[n % len(WORDS)]}"
        yield {
            "choices": [{"index": 0, "delta": {"content": text}}],
            "steering": {"dynamic": found},
        }
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    yield {"choices": [], "usage": {"completion_tokens": tokens}}
