"""What says how a request is steered: the request itself, the model name that it asks for, its key,
or the server, in this order."""

from collections.abc import Collection
from typing import Any, NamedTuple

from steersman.server.chat.steered_request import REQUEST, Origin, SteeringContext
from steersman.server.errors import DefaultMissing, ModelNotFound
from steersman.server.library.in_time import in_time
from steersman.server.presets.default import Default
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

_GONE = ("vector_not_found", "layer_not_in_vector")


class Chosen(NamedTuple):
    """How a request is steered."""

    steering: Any
    """The value of its field, its own or another's; None: it is not steered."""
    model: Any
    """The served name to ask vLLM for."""
    context: SteeringContext
    """What it is resolved with."""
    origin: Origin = REQUEST
    """What says so."""
    default: Default | None = None
    """The default that says so."""

    def explained(self, error: PlanInvalid | SteersmanError) -> Exception:
        """`error`, raised for this `steering`, as the client can understand it."""
        if self.default is not None:
            if error.code in _GONE:
                return _unusable(self.default, error.message)
            error.param = "steering"
            return self.blamed(error)
        if self.origin == REQUEST:
            return error
        if self.origin.preset is not None and error.code in _GONE:
            return ModelNotFound(
                f"preset {self.origin.preset!r} names a vector that is not there any more "
                f"({error.message})",
                param="model",
                code="preset_broken",
            )
        error.param = "model"
        return error

    def blamed(self, error: PlanInvalid | SteersmanError) -> Exception:
        """`error`; if a default steers the request, its message has that and what turns it off."""
        if self.default is not None:
            error.message = (
                f"{error.message} ({self.default.whose} steers this request; {self.default.off})"
            )
        return error


async def choose(
    steering: Any, model: Any, *, given: bool, served: Collection[str], presets: PresetView
) -> Chosen:
    """How a request for `model` with the field `steering` is steered. `given`: the request has the
    field, if only as null, which turns a preset off. Raises `ModelNotFound` for a suffix that
    names nothing, `PlanInvalid` for one that cannot be read, `NotAllowed` where the key is bound to
    a preset, and `DefaultMissing`."""
    named, default = split(model, served), presets.default
    base = model if named is None else named.base
    if default is not None and default.locked:
        if given:
            raise default.bound("steering")
        if named is not None and named.suffix != default.preset:
            raise default.bound("model")
    else:
        found = None
        if named is not None:
            found = await in_time(presets.context.load_timeout, _by_name, model, named, presets)
        if given:
            return Chosen(steering, base, presets.context)
        if found is not None:
            return found
    if default is None:
        return Chosen(None, base, presets.context)
    return await in_time(presets.context.load_timeout, _by_default, base, default, presets)


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
            origin = Origin("model", preset.name)
            return Chosen(preset.now.as_asked(), named.base, presets.context, origin)
    steering = short_form(named.suffix)
    for use in steering["vectors"]:
        try:
            presets.library.resolve(use["id"])
        except (VectorInvalid, VectorNotFound):
            vectors = presets.library.names()
            raise unknown(model, named.suffix, presets.all(), vectors) from None
    return Chosen(steering, named.base, presets.context, Origin("model"))


def _by_default(base: Any, default: Default, presets: PresetView) -> Chosen:
    try:
        preset = presets.of_operator(default.preset)
    except (PresetNotFound, VectorInvalid) as error:
        raise _unusable(default, error.message) from None
    origin = Origin(default.source, preset.name)
    return Chosen(preset.now.as_asked(), base, presets.operators, origin, default)


def _unusable(default: Default, why: str) -> DefaultMissing:
    return DefaultMissing(
        f"{default.whose} steers this request, and cannot be used: {why}. The operator has to make "
        f"it; {default.off}",
        param="steering",
    )
