"""A vector's identity: a digest of what it does, without its name or description."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from steersman.vectors.defaults import Positions
from steersman.vectors.operation import ADD, Operation
from steersman.vectors.tensors import HookPoint, tensor_name

if TYPE_CHECKING:
    import torch

DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def digest_of(
    tensors: "Mapping[HookPoint, torch.Tensor]",
    coefficient: float,
    layers: tuple[int, ...],
    positions: Positions,
    operation: Operation = ADD,
    numbers: "Mapping[HookPoint, torch.Tensor] | None" = None,
) -> str:
    """`sha256:<64 hex>` over the canonical form of tensors and defaults.

    That form is, for each tensor in order of (site, layer), one line of JSON `[name, shape]` and
    its values as little-endian float32; then one line of JSON with the coefficient as a C99 hex
    float, the layers and the positions. Defaults that a file leaves out count as if written.
    Another operation than `add` is in that line, too, with its settings; the `numbers` of features
    are lines like tensors.
    """
    hasher = hashlib.sha256(b"steersman vector 1\n")
    for key in sorted(tensors):
        tensor = tensors[key]
        hasher.update(_line([tensor_name(key), list(tensor.shape)]))
        hasher.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    for key, values in sorted((numbers or {}).items()):
        hasher.update(_line([f"{tensor_name(key)}.numbers", list(values.shape)]))
        hasher.update(values.numpy().astype("<f4", copy=False).tobytes())
    defaults = {"coefficient": coefficient.hex(), "layers": layers, "positions": positions}
    hasher.update(_line(defaults | operation.said()))
    return f"sha256:{hasher.hexdigest()}"


def short(digest: str, digits: int = 12) -> str:
    """The first hex digits of `digest`, as ids have them after `@`, and messages show them."""
    return digest.removeprefix("sha256:")[:digits]


def _line(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"
