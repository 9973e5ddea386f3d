"""What the routes of `/v1/steering` work on; each names the part that it needs, as a `Host`."""

from typing import Any

from starlette.requests import Request


def host(request: Request) -> Any:
    """`app.state.steersman`: for `Depends`."""
    return request.app.state.steersman
