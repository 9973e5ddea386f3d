"""`GET /playground`: the page and its files.

They are public, and so are the same for everybody; what the page calls is not. The page's
Content-Security-Policy lets nothing in that is not a file of this folder, and no request out to
another host. Trusted Types are allowed to nobody: making HTML of a text raises in the browser.
"""

import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from steersman.server.errors import RouteNotFound

PATH: Final = "/playground"
BUILT: Final = Path(__file__).parent / "built"
PAGE: Final = "index.html"
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}
_POLICY: Final = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "font-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
HEADERS: Final = {
    "Content-Security-Policy": "; ".join(f"{key} {value}" for key, value in _POLICY.items()),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, and asked for anew each time: a server that is upgraded has another page.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}
_ALREADY_SMALL: Final = frozenset({".woff2"})


class File(NamedTuple):
    """A file of the page, as it is sent."""

    kind: str
    """Its Content-Type."""
    plain: bytes
    zipped: bytes | None
    """With gzip; None for a file that is compressed already."""
    etag: str


def read_files(folder: Path = BUILT) -> dict[str, File]:
    """The files of the page by name. Raises RuntimeError if the page was not built."""
    found = {path.name: _read(path) for path in sorted(folder.iterdir()) if path.suffix in TYPES}
    if PAGE not in found:
        raise RuntimeError(
            f"the page of /playground is not in {folder}: run `make playground`, or start with "
            "--no-playground"
        )
    return found


def build_router(files: Mapping[str, File]) -> APIRouter:
    """The routes that send `files`."""
    router = APIRouter(prefix=PATH, include_in_schema=False)

    async def page(request: Request) -> Response:
        """The page."""
        return _send(files[PAGE], request)

    async def part(file: str, request: Request) -> Response:
        """A file of the page."""
        if not file:
            # Relative, so that a proxy may have put a path before ours.
            return RedirectResponse(f"..{PATH}", 308, HEADERS)
        if file not in files:
            raise RouteNotFound(f"the page has no such file; it is at {PATH}")
        return _send(files[file], request)

    router.add_api_route("", page, methods=["GET", "HEAD"])
    router.add_api_route("/{file:path}", part, methods=["GET", "HEAD"])
    return router


def _read(path: Path) -> File:
    plain = path.read_bytes()
    # No time in it: every server of one version sends the same bytes.
    zipped = None if path.suffix in _ALREADY_SMALL else gzip.compress(plain, 9, mtime=0)
    return File(TYPES[path.suffix], plain, zipped, hashlib.sha256(plain).hexdigest()[:32])


def _send(file: File, request: Request) -> Response:
    zips = file.zipped is not None and "gzip" in request.headers.get("accept-encoding", "")
    # Two encodings are two representations, so two tags.
    etag = f'"{file.etag}-gzip"' if zips else f'"{file.etag}"'
    headers = {**HEADERS, "ETag": etag}
    known = request.headers.get("if-none-match", "")
    if etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    if zips:
        headers["Content-Encoding"] = "gzip"
    body = file.zipped if zips else file.plain
    return Response(body, headers=headers, media_type=file.kind)
