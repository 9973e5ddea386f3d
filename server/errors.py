"""Exceptions of the server, beside those of `steersman.vectors.errors` and of plans.

    Exception
        BankFull, LibrarySlow           the engine cannot steer now
        NotSteered                      it could not
        SteersmanError
            KeyInvalid, NotAllowed, RouteNotFound, TooManyRequests     the caller or the route
            ModelNotFound                                              a model name's suffix
            DefaultMissing                                             the operator's preset
            Misplaced, BodyTooSlow                                     the request
            TooManyJobs, ServerBusy, Draining                          not now
            JobLost                                                    in a job's state
            Unsaid                                                     no worker confirms it

`steersman.server.error_response` maps them to HTTP.
"""

from typing import ClassVar

from steersman.vectors.errors import SteersmanError


class BankFull(Exception):
    """Too many requests wait for the vector bank; try again in `retry_after` seconds."""

    retry_after = 1


class LibrarySlow(Exception):
    """A vector was not read in time; try again in `retry_after` seconds."""

    retry_after = 5


class TooManyJobs(SteersmanError):
    """As many jobs run or wait as may; try again in `retry_after` seconds."""

    default_code = "too_many_jobs"
    retry_after = 30


class TooManyRequests(SteersmanError):
    """A key exceeds its limits; try again in `retry_after` seconds."""

    default_code = "rate_limit_exceeded"

    def __init__(self, message: str, *, code: str | None = None, retry_after: int = 1) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class JobLost(SteersmanError):
    """The server that ran a job was stopped, or could not write the job's state."""

    default_code = "job_lost"


class ServerBusy(SteersmanError):
    """The allowed number of calls of one kind run or wait already; try again in `retry_after`
    seconds."""

    default_code = "server_busy"
    retry_after = 2


class KeyInvalid(SteersmanError):
    """The request has no key, or an unknown one."""

    default_code = "invalid_api_key"
    headers: ClassVar = {"WWW-Authenticate": "Bearer"}


class RouteNotFound(SteersmanError):
    """No route fits the path."""

    default_code = "route_not_found"


class ModelNotFound(SteersmanError):
    """The model name ends in something that names no preset and no vector."""

    default_code = "model_not_found"


class DefaultMissing(SteersmanError):
    """The preset that the operator has chosen for such requests cannot be used."""

    default_code = "default_preset_missing"


class NotAllowed(SteersmanError):
    """This key may not do this, or no key may."""

    default_code = "not_allowed"


class BodyTooSlow(SteersmanError):
    """The body did not arrive in time."""

    default_code = "body_timeout"
    headers: ClassVar = {"Connection": "close"}


class Draining(SteersmanError):
    """The server is about to stop and accepts nothing new."""

    default_code = "draining"
    retry_after = 1
    headers: ClassVar = {"Connection": "close"}
    websocket_close = 1012
    """Service restart, by RFC 6455's registry."""


class Misplaced(SteersmanError):
    """The request means to be steered, in a way that would be ignored."""

    default_code = "misplaced_steering"


class NotSteered(Exception):
    """The engine could not steer a request, for a reason that is not in the request."""


class Unsaid(SteersmanError):
    """No worker has reported that it steered an answer."""

    default_code = "not_steered"

    def __init__(self, message: str) -> None:
        super().__init__(message, param="steering")
