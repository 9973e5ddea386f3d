"""Errors of the engine room. `ValueError` is what vLLM itself turns into a 400 on every route."""


class PlanInvalid(ValueError):
    """A plan that cannot be carried out as written.

    `param` names the offending key of the request, `code` is a machine-readable word.
    """

    def __init__(self, message: str, *, param: str = "steering", code: str = "invalid_steering"):
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class VectorUnavailable(RuntimeError):
    """A worker could not bring a planned vector into its bank (file gone, or no free row)."""
