"""Errors of the room.

ValueError
└── PlanInvalid          the request is wrong; vLLM turns a ValueError into a 400 on every route
RuntimeError
├── VectorUnavailable    a worker cannot steer one request, which ends in error
├── NotComposed          the coefficients of a dynamic answer cannot be found; it ends in error
└── NotInstrumentable    a worker cannot steer this model or way of running; the start ends
"""


class PlanInvalid(ValueError):
    """A plan that cannot be carried out as written.

    `param` is the path of the wrong key in the request, `code` a machine-readable word.
    """

    def __init__(self, message: str, *, param: str = "steering", code: str = "invalid_steering"):
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class VectorUnavailable(RuntimeError):
    """A worker cannot bring a planned vector into its bank: its file is gone, or no row is free."""


class NotComposed(RuntimeError):
    """The coefficients of a token of a dynamic answer cannot be found."""


class NotInstrumentable(RuntimeError):
    """Steersman cannot steer the model or the way of running; the message says why."""
