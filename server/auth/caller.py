"""Who is calling. Set by the gate for the length of a request; a job that a request starts keeps
it, as asyncio's tasks keep the context they were made in."""

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
    """Who is calling; without a gate, everybody."""
    return _CALLER.get(Caller())


def enter(who: Caller) -> None:
    """From here on, in this task, `who` is calling."""
    _CALLER.set(who)
