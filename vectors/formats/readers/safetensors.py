"""safetensors: our own files, GLP's, and others whose tensors are named by their place.

Names understood: `<site>.N` in any float type, TransformerLens' `blocks.N.hook_<site>`, and
`direction.N`, which is a block's output as in GGUF. A single tensor of another name needs a layer.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import read_vector
from steersman.vectors.file.glp import read_glp, refuse_hidden_meaning
from steersman.vectors.file.header import MAX_IMPORTED_HEADER_BYTES, open_tensors
from steersman.vectors.file.metadata import METADATA_KEY
from steersman.vectors.file.operation import check_operations
from steersman.vectors.formats.conventions import TENSORS, FormatRule, made_by
from steersman.vectors.formats.imported import ImportedFile, Options
from steersman.vectors.formats.placement import (
    named_parts,
    place_of,
    refuse_autoencoder,
    unknown_name,
)
from steersman.vectors.formats.readers.glp_parts import check_content, glp_found
from steersman.vectors.parts import is_our_name
from steersman.vectors.tensors import SITES
from steersman.vectors.vector import SteeringVector


def read_safetensors(path: Path, options: Options) -> ImportedFile | SteeringVector:
    """Read a safetensors file; one in our own format comes back as it is.

    `options.numbers` place a file's only tensor, if its name has no place. Raises
    `VectorInvalid`.
    """
    tensors, metadata = _tensors(path)
    check_operations(metadata)
    glp = read_glp(metadata)
    if glp is not None and any(name.startswith("direction.") for name in tensors):
        return glp_found(glp, tensors, _rule(metadata))
    check_content(glp, tensors)
    sites = {place[0] for name in tensors if (place := place_of(name))}
    refuse_hidden_meaning(metadata, sites)
    ours = all(name.partition(".")[0] in SITES for name in tensors)
    if METADATA_KEY in metadata or (
        ours and {t.dtype for t in tensors.values()} == {torch.float32}
    ):
        return read_vector(path, max_header_bytes=MAX_IMPORTED_HEADER_BYTES)
    return named_parts(tensors, TENSORS, options)


def _rule(metadata: Mapping[str, str]) -> FormatRule:
    generator = next((v for k, v in metadata.items() if k.lower() == "glp.generator"), None)
    return made_by(TENSORS, generator[:128]) if generator else TENSORS


def _tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with open_tensors(path, MAX_IMPORTED_HEADER_BYTES) as file:
        names = list(file.keys())
        if not names or len(names) > 10_000:
            raise VectorInvalid(f"there are {len(names)} tensors in it", code="no_tensors")
        if not all(map(is_our_name, names)):
            refuse_autoencoder(sorted(names))
        known = any(is_our_name(n) or place_of(n) or n.startswith("direction.") for n in names)
        if not known and len(names) > 1:
            raise unknown_name(names[0])
        return {n: file.get_tensor(n).clone() for n in names}, file.metadata() or {}
