"""What can be wrong with the activations that a method is given."""

from collections.abc import Iterable
from typing import ClassVar

from steersman.vectors.errors import SteersmanError


class ActivationsInvalid(SteersmanError, ValueError):
    """No direction can be made of these activations; the message says why.

    `samples` are the 0-based samples at fault and `layers` the places at fault along the layers'
    axis: leave them out and call again. Codes: `bad_shape`, `wrong_dtype`, `not_finite`,
    `too_few_rows`, `unpaired`, `identical_sides`, `not_converged`, `bad_setting`.
    """

    default_code: ClassVar[str] = "invalid_activations"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        param: str | None = None,
        samples: Iterable[int] = (),
        layers: Iterable[int] = (),
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.samples = tuple(samples)
        self.layers = tuple(layers)
