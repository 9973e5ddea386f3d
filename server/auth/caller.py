"""Whose request runs. `steersman.server.middleware.auth` sets it for the length of a request; a job
that the request starts keeps it, as asyncio's tasks keep the context they are made in."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from steersman.server.auth.permissions import OPEN, KeyPermissions


@dataclass(frozen=True)
class Caller:
    """One request's: whose it is, and where from."""

    permissions: KeyPermissions = OPEN
    address: str | None = None
    request_id: str | None = None


_CALLER: Final[ContextVar[Caller]] = ContextVar("caller")


def caller() -> Caller:
    """Whose request runs; without the middleware, everybody's."""
    return _CALLER.get(Caller())


def enter(who: Caller) -> None:
    """Set `who` as the caller for the rest of this task."""
    _CALLER.set(who)
