"""The vector itself, checked when it is made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch

from steersman.vectors.defaults import (
    Positions,
    check_layers,
    check_number,
    check_positions,
    check_safe_range,
)
from steersman.vectors.digest import digest_of
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.operation import ADD, Operation
from steersman.vectors.parts import Rows, check_rows
from steersman.vectors.tensors import (
    HookPoint,
    check_one_hidden_size,
    check_shape,
    parse_tensor_name,
    tensor_name,
)


@dataclass(frozen=True)
class BaseModel:
    """The model on which a vector was made. `num_layers` counts blocks. All fields are optional."""

    id: str | None = None
    hidden_size: int | None = None
    num_layers: int | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class VectorFields:
    """The fields that every form of a vector has: the vector itself, its file's header, its library
    entry."""

    description: str = ""
    method: str | None = None
    """How it was made: a name out of `steersman.vectors.methods.METHODS`, or "imported"."""
    base_model: BaseModel | None = None
    coefficient: float = 1.0
    """Multiplies the tensors where a request names no coefficient."""
    layers: tuple[int, ...] = ()
    """Layers steered where a request names none, ascending."""
    positions: Positions = "generation"
    """Tokens steered where a request names none."""
    operation: Operation = ADD
    """What it does to the stream where a request names no operation."""
    safe_range: tuple[float, float] | None = None
    """Lowest and highest coefficient at which its maker found answers sound."""
    licence: str | None = None


@dataclass(frozen=True, eq=False)
class SteeringVector(VectorFields):
    """A steering vector: tensors by (site, layer), and the defaults of a request.

    `tensors` are float32, [hidden] or [steps, hidden] (one vector for each generated token), on the
    CPU; for operations with other tensors, rows and `numbers` (see `steersman.vectors.parts`).
    `layers` empty means every layer it has. `norms` maps tensor names to their lengths,
    `created_at` is a time in ISO 8601. Two vectors are the same if their `digest` is.

    Raises `VectorInvalid`, whose `param` names the field or tensor, for anything that the format
    does not allow.

    >>> import torch
    >>> from steersman import SteeringVector
    >>> glad = SteeringVector({("resid_post", 14): torch.ones(8)}, name="glad", coefficient=1.5)
    >>> glad.layers, glad.hidden_size
    ((14,), 8)
    """

    tensors: Mapping[HookPoint, torch.Tensor]
    name: str | None = None
    method_settings: Mapping[str, Any] = field(default_factory=dict)
    norms: Mapping[str, float] = field(default_factory=dict)
    created_at: str | None = None
    numbers: Mapping[HookPoint, torch.Tensor] = field(default_factory=dict)
    """Of the operation `feature`: biases and thresholds at each hook point, float32 [2, k]."""

    def __post_init__(self) -> None:
        # Callers may name hook points by plain tuples.
        tensors = {
            HookPoint(*key): _checked(key, self.tensors[key]) for key in sorted(self.tensors)
        }
        hidden = check_one_hidden_size({tensor_name(k): t.shape[-1] for k, t in tensors.items()})
        available = {layer for _, layer in tensors}
        layers = check_layers(self.layers or available, available)
        # `object.__setattr__` is how a frozen dataclass puts its fields in canonical form.
        put = object.__setattr__
        put(self, "tensors", MappingProxyType(tensors))
        put(self, "layers", layers)
        put(self, "numbers", MappingProxyType(_numbers(self.numbers, tensors)))
        for point, tensor in tensors.items():
            check_rows(self.operation, point, Rows(tensor, self.numbers.get(point)))
        put(self, "coefficient", check_number(self.coefficient, "coefficient"))
        put(self, "positions", check_positions(self.positions))
        put(self, "norms", {name: float(norm) for name, norm in self.norms.items()})
        if self.safe_range is not None:
            put(self, "safe_range", check_safe_range(self.safe_range))
        check_base_model(self.base_model, hidden, max(available))

    @property
    def hidden_size(self) -> int:
        """Number of elements of one vector: the width of the model's residual stream."""
        return next(iter(self.tensors.values())).shape[-1]

    @cached_property
    def digest(self) -> str:
        """`sha256:<64 hex>` over tensors, coefficient, layers, positions and operation: what it
        does, and not its name or description."""
        return digest_of(
            self.tensors,
            self.coefficient,
            self.layers,
            self.positions,
            self.operation,
            self.numbers,
        )


def check_base_model(base: BaseModel | None, hidden_size: int, last_layer: int) -> None:
    """Raise `VectorInvalid` if `base` cannot be the model of tensors with these sizes."""
    if base is None:
        return
    if base.hidden_size is not None and base.hidden_size != hidden_size:
        raise VectorInvalid(
            f"base_model has hidden size {base.hidden_size} and the tensors have {hidden_size}",
            param="base_model.hidden_size",
            code="wrong_hidden_size",
        )
    if base.num_layers is not None and last_layer >= base.num_layers:
        raise VectorInvalid(
            f"base_model has {base.num_layers} layers and there is a tensor for layer "
            f"{last_layer}; layers count from 0",
            param="base_model.num_layers",
            code="layer_out_of_range",
        )


def _numbers(
    numbers: Mapping[HookPoint, torch.Tensor], tensors: Mapping[HookPoint, torch.Tensor]
) -> dict[HookPoint, torch.Tensor]:
    """`numbers` of the hook points of `tensors`, in their canonical form."""
    found = {key: numbers[key].to("cpu", torch.float32) for key in tensors if key in numbers}
    for point, values in found.items():
        if not bool(torch.isfinite(values).all()):
            name = f"{tensor_name(point)}.bias"
            raise VectorInvalid(
                f"tensor {name!r} holds NaN or infinite values", param=name, code="not_finite"
            )
    return found


def _checked(key: HookPoint, tensor: torch.Tensor) -> torch.Tensor:
    name = tensor_name(key)
    parse_tensor_name(name)
    if tensor.dtype != torch.float32:
        raise VectorInvalid(
            f"tensor {name!r} is {str(tensor.dtype).removeprefix('torch.')}; vectors are float32: "
            "convert it with tensor.to(torch.float32)",
            param=name,
            code="wrong_dtype",
        )
    check_shape(name, tuple(tensor.shape))
    if not bool(torch.isfinite(tensor).all()):
        raise VectorInvalid(
            f"tensor {name!r} holds NaN or infinite values", param=name, code="not_finite"
        )
    return tensor.detach().to("cpu").contiguous()
