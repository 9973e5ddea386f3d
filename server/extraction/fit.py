"""From activations to vectors: the method's own function, and the quality of its result."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from steersman.server.extraction.job import Stop
from steersman.server.extraction.request import ExtractRequest
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import BaseModel, SteeringVector
from steersman.vectors.methods import (
    ActivationsInvalid,
    StepMeans,
    mean_difference,
    step_difference,
)
from steersman.vectors.methods.activations import check_differ
from steersman.vectors.methods.quality import (
    DOSE,
    measure,
    measure_condition,
    middle_layer,
    norm_measures,
)
from steersman.vectors.methods.split import Sides
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint, tensor_name

Fit = Callable[[Tensor, Tensor], Tensor]
"""From the samples of two sides to what the vector holds."""


_OVER: Final = {"prompt": "prompt_mean", "last": "prompt_last"}
"""What a gate measures, by the token rule of the samples that it was made of."""


class Place(NamedTuple):
    """Where the activations were read, and on which model."""

    site: str
    layers: tuple[int, ...]
    median_norms: tuple[float, ...] | None
    """Median ||h|| of the residual stream at each of `layers`; None if it was not measured."""
    base_model: BaseModel


def fit(
    request: ExtractRequest, activations: Mapping[str, Tensor], place: Place, stop: Stop
) -> list[SteeringVector]:
    """Make one vector, or one for each style. `activations`: for each label float32 [samples,
    layers, hidden]. Calls `stop` at each layer. Raises `ActivationsInvalid`, `VectorInvalid`, and
    what `stop` raises."""
    how = request.how
    assert how.fit is not None
    function = _stopping(partial(how.fit, **request.settings), stop)
    if how.inputs != "styles":
        return [
            _fitted(
                request,
                request.name,
                function,
                activations["positive"],
                activations["negative"],
                place,
                stop,
            )
        ]
    found = []
    for style in activations:
        others = torch.cat([stack for other, stack in activations.items() if other != style])
        name = f"{request.name}-{style}"
        found.append(_fitted(request, name, function, activations[style], others, place, stop))
    return found


def fit_steps(
    request: ExtractRequest, sides: Mapping[str, StepMeans], place: Place
) -> SteeringVector:
    """The vector of the method `per_step`. Raises `ActivationsInvalid`."""
    found = step_difference(sides["positive"], sides["negative"], request.steps)
    alive = {"positive": list(found.alive_positive), "negative": list(found.alive_negative)}
    vectors = _dosed(found.vectors, request.unit_dose, place)
    quality = {
        "alive": alive,
        "recommended": None,
        "reason": "quality by step is not measured here; `steersman sweep` measures it",
        **norm_measures(vectors, place.layers, place.median_norms, place.site),
    }
    tensors = {HookPoint(place.site, n): vectors[:, i] for i, n in enumerate(place.layers)}
    return _vector(request, request.name, tensors, quality, place)


def trials_vector(
    request: ExtractRequest,
    tensors: dict[HookPoint, Tensor],
    quality: dict[str, Any],
    place: Place,
) -> SteeringVector:
    """The vector of a method that tries what it made. `tensors`: [hidden] at each hook point."""
    return _vector(request, request.name, tensors, {"norms": {}, **quality}, place)


def _stopping(make: Fit, stop: Stop) -> Fit:
    """`make`, after a call of `stop`."""

    def function(positive: Tensor, negative: Tensor) -> Tensor:
        stop()
        return make(positive, negative)

    return function


def _fitted(
    request: ExtractRequest,
    name: str,
    function: Fit,
    positive: Tensor,
    negative: Tensor,
    place: Place,
    stop: Stop,
) -> SteeringVector:
    sides = Sides(positive, negative)
    rows = _by_layer(function, sides)
    if request.how.gates:
        return _condition(request, name, rows, sides, function, place)
    # What maps take along is judged by the shift of their means, which is a direction.
    moves = request.how.operation == "transport"
    judged = _stopping(mean_difference, stop) if moves else function
    directions = _by_layer(judged, sides) if moves else _dosed(rows, request.unit_dose, place)
    quality = measure(
        directions,
        *sides,
        judged,
        layers=place.layers,
        num_layers=place.base_model.num_layers or len(place.layers),
        median_norms=place.median_norms,
        site=place.site,
        paired=request.how.paired,
        seed=request.seed,
    )
    rows = rows if moves else directions
    tensors = {HookPoint(place.site, n): rows[i] for i, n in enumerate(place.layers)}
    return _vector(request, name, tensors, quality, place)


def _condition(
    request: ExtractRequest,
    name: str,
    directions: Tensor,
    sides: Sides,
    function: Fit,
    place: Place,
) -> SteeringVector:
    """A vector that a gate measures with, and the gate in its `method_settings`."""
    quality = measure_condition(
        directions,
        *sides,
        function,
        layers=place.layers,
        median_norms=place.median_norms,
        over=_OVER[request.token_rule],
        site=place.site,
        seed=request.seed,
    )
    tensors = {HookPoint(place.site, n): directions[i] for i, n in enumerate(place.layers)}
    return _vector(request, name, tensors, quality, place)


def _by_layer(function: Fit, sides: Sides) -> Tensor:
    """Apply `function` to one layer after another, so that it can stop in between. Raises a single
    error for all layers at which the sides do not differ."""
    found: list[Tensor] = []
    differs = torch.ones(sides.positive.shape[1], dtype=torch.bool)
    for layer in range(len(differs)):
        try:
            found.append(function(*sides.at(layer)))
        except ActivationsInvalid as error:
            if error.code != "identical_sides":
                raise
            differs[layer] = False
    check_differ(differs)
    return torch.cat(found)


def _dosed(directions: Tensor, dose: float | None, place: Place) -> Tensor:
    """Scale `directions` [..., layers, hidden] so that coefficient 1 has the relative dose `dose`
    at each layer; for vectors with steps, at the longest step."""
    if dose is None:
        return directions
    if place.median_norms is None:
        raise VectorInvalid(
            "unit_dose needs the model's median norms, which this server has not measured",
            param="unit_dose",
            code="not_calibrated",
        )
    lengths = directions.double().norm(dim=-1)
    longest = lengths.amax(0) if lengths.ndim == 2 else lengths
    wanted = dose * torch.tensor(place.median_norms, dtype=torch.float64)
    scaled: Tensor = directions * (wanted / longest)[:, None]
    return scaled.float()


def _vector(
    request: ExtractRequest,
    name: str,
    tensors: dict[HookPoint, Tensor],
    quality: dict[str, Any],
    place: Place,
) -> SteeringVector:
    """The vector, with the recommended coefficient and layers if there are any. It has no safe
    range: what text is like at a coefficient is measured by `steersman sweep`."""
    norms = quality.pop("norms")
    gate = quality.pop("gate", None)
    operation = Operation(request.how.operation)
    coefficient, layers = 1.0, tuple[int, ...]()
    if gate is not None:
        layers = (gate["layer"],)
    elif not request.how.trials:
        coefficient, layers = _defaults(quality, norms, place)
    if not operation.adds:
        coefficient, norms = 1.0, {}
    return SteeringVector(
        tensors={key: tensor.contiguous() for key, tensor in tensors.items()},
        name=name,
        description=request.description,
        method=request.method,
        method_settings={
            "tokens": request.token_rule,
            "prompt": request.prompt,
            "unit_dose": request.unit_dose,
            **request.settings,
            **({} if gate is None else {"gate": gate}),
            "quality": quality,
        },
        base_model=place.base_model,
        coefficient=coefficient,
        layers=layers,
        operation=operation,
        positions="all" if request.method == "style" or not operation.adds else "generation",
        norms=norms,
        licence=request.licence,
        created_at=request.created_at or datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _defaults(
    quality: Mapping[str, Any], norms: Mapping[str, float], place: Place
) -> tuple[float, tuple[int, ...]]:
    """The default coefficient and layers (an empty list: all layers). If none are recommended: a
    mild dose at the middle layer, because a vector needs defaults, and coefficient 1 at every layer
    breaks text."""
    advice = quality["recommended"]
    if advice is not None:
        return advice["coefficient"], (advice["layer"],)
    if place.median_norms is None or quality.get("alive"):
        return 1.0, ()
    lengths = [norms[tensor_name((place.site, layer))] for layer in place.layers]
    num_layers = place.base_model.num_layers or len(place.layers)
    middle = middle_layer(lengths, layers=place.layers, num_layers=num_layers)
    return DOSE * place.median_norms[middle] / lengths[middle], (place.layers[middle],)
