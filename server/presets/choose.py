"""Whether the request itself says how it is steered, or the model name that it asks for."""

from collections.abc import Collection
from typing import Any, NamedTuple

from steersman.server.chat.steered_request import REQUEST, Origin, in_time
from steersman.server.errors import ModelNotFound
from steersman.server.presets.model_name import ModelName, short_form, split, unknown
from steersman.server.presets.view import PresetView
from steersman.steering.plan import PlanInvalid
from steersman.vectors.errors import (
    PresetNotFound,
    SteersmanError,
    VectorInvalid,
    VectorNotFound,
)
from steersman.vectors.library.names import is_name


class Chosen(NamedTuple):
    """How a request is steered."""

    steering: Any
    """The value of its field, its own or another's; None: it is not steered."""
    model: Any
    """The served name to ask vLLM for."""
    origin: Origin = REQUEST
    """What says so."""

    def explained(self, error: PlanInvalid | SteersmanError) -> Exception:
        """`error`, raised for this `steering`, as the client can understand it."""
        if self.origin == REQUEST:
            return error
        if self.origin.preset is not None and error.code in (
            "vector_not_found",
            "layer_not_in_vector",
        ):
            return ModelNotFound(
                f"preset {self.origin.preset!r} names a vector that is not there any more "
                f"({error.message})",
                param="model",
                code="preset_broken",
            )
        error.param = "model"
        return error


async def choose(
    steering: Any, model: Any, *, given: bool, served: Collection[str], presets: PresetView
) -> Chosen:
    """How a request for `model` with the field `steering` is steered. `given`: the request has the
    field, if only as null, which turns a preset off. Raises `ModelNotFound` for a suffix that
    names nothing, and `PlanInvalid` for one that cannot be read."""
    named = split(model, served)
    if named is None:
        return Chosen(steering, model)
    found = await in_time(presets.context, _by_name, model, named, presets)
    return Chosen(steering, named.base) if given else found


def _by_name(model: str, named: ModelName, presets: PresetView) -> Chosen:
    if is_name(named.suffix):
        try:
            preset = presets.get(named.suffix)
        except PresetNotFound:
            pass  # It may be a vector.
        except VectorInvalid as error:
            error.param = "model"
            raise
        else:
            return Chosen(preset.now.as_asked(), named.base, Origin("model", preset.name))
    steering = short_form(named.suffix)
    for use in steering["vectors"]:
        try:
            presets.library.resolve(use["id"])
        except (VectorInvalid, VectorNotFound):
            vectors = presets.library.names()
            raise unknown(model, named.suffix, presets.all(), vectors) from None
    return Chosen(steering, named.base, Origin("model"))
