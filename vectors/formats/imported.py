"""What a reader returns of a file, before it is one of our vectors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.formats.conventions import FormatRule

LayersAre = Literal["blocks", "hidden-states"]


@dataclass(frozen=True)
class Options:
    """Options of an import, for what a file may lack.

    `numbers` are blocks as the file counts them, `num_layers` counts the blocks of the model that
    the vector is for, `model` chooses in a CAA folder of several models. `layers_are` is what a
    file's bare numbers count: "blocks", or "hidden-states", of which N is the output of block N-1.
    """

    numbers: tuple[int, ...] | None = None
    num_layers: int | None = None
    model: str | None = None
    layers_are: LayersAre | None = None


@dataclass(frozen=True)
class ImportedTensor:
    """One vector of a file. `number` is the file's own layer number, `tensor` float32 [hidden], or
    a basis, [rank, hidden], to be projected out.

    `name` is what the file calls it; `dtype` is what it was stored as; `site` is where the file
    puts it, `resid_post` if it names none.
    """

    number: int
    name: str
    tensor: torch.Tensor
    dtype: str
    site: str = "resid_post"


@dataclass(frozen=True)
class ImportedFile:
    """All of a file. `details` is what else is in it, kept in the metadata.

    `num_layers` counts the blocks of the model that it was made on. `coefficient` is the default
    one, `operation` what its vectors do; `warnings` are for the user who imports it. `counted`: its
    layers are bare numbers, and `Options.layers_are` is what they count.
    """

    rule: FormatRule
    tensors: tuple[ImportedTensor, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    num_layers: int | None = None
    coefficient: float = 1.0
    operation: str = "add"
    warnings: tuple[str, ...] = ()
    model: str | None = None
    licence: str | None = None
    counted: bool = False


def imported_tensor(
    number: int, name: str, value: object, site: str = "resid_post"
) -> ImportedTensor:
    """Check one vector of a file; raises `VectorInvalid` naming it as the file does."""
    if not isinstance(value, torch.Tensor):
        raise _bad(name, f"is not a tensor but {type(value).__name__}", "bad_tensor")
    check_floats(name, value)
    if value.dim() != 1 or value.numel() < 1:
        raise _bad(
            name,
            f"has shape {list(value.shape[:8])}; it must be one vector, [hidden], and not be empty",
            "bad_shape",
        )
    tensor = value.detach().to("cpu", torch.float32).contiguous()
    if not bool(torch.isfinite(tensor).all()):
        raise _bad(name, "holds NaN or infinite values, or some beyond float32", "not_finite")
    return ImportedTensor(number, name, tensor, _dtype(value), site)


def check_floats(name: str, value: torch.Tensor) -> None:
    """Raise `VectorInvalid` if `value` is not dense and floating point."""
    if not value.is_floating_point() or value.layout is not torch.strided:
        raise _bad(name, f"is {_dtype(value)}; a vector is dense and floating point", "wrong_dtype")


def layer_number(name: str, digits: str) -> int:
    """The layer of tensor `name`, whose name has it as `digits`. Raises `VectorInvalid` if it is
    not a layer's number."""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 4):
        raise _bad(name, f"should end in a layer's number, not {shown(digits)}", "unknown_tensor")
    return int(digits)


def _dtype(value: torch.Tensor) -> str:
    kind = str(value.dtype).removeprefix("torch.")
    return kind if value.layout is torch.strided else f"{kind}, {value.layout}"


def _bad(name: str, reason: str, code: str) -> VectorInvalid:
    return VectorInvalid(f"tensor {shown(name)} {reason}", param=name[:128], code=code)
