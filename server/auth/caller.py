"""The caller of the request that runs, as a context variable.

`steersman.server.middleware.auth` sets it for the duration of a request. A job that the request
starts keeps it, because asyncio's tasks keep the context in which they are made.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from steersman.server.auth.permissions import OPEN, KeyPermissions


@dataclass(frozen=True)
class Caller:
    """The caller of one request: the key, its permissions, and where the request comes from."""

    permissions: KeyPermissions = OPEN
    address: str | None = None
    request_id: str | None = None


_CALLER: Final[ContextVar[Caller]] = ContextVar("caller")


def caller() -> Caller:
    """The caller of the request that runs; without the middleware, a caller with all
    permissions."""
    return _CALLER.get(Caller())


def enter(who: Caller) -> None:
    """Set `who` as the caller for the rest of this task."""
    _CALLER.set(who)
