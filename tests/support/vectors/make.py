"""Vectors and hostile files for tests."""

import json
from typing import Any

import torch

from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint

HIDDEN = 16


def vector(
    seed: int = 0, *, hidden: int = HIDDEN, layers: tuple[int, ...] = (3, 5), **fields: Any
) -> SteeringVector:
    """A vector at `resid_post` of `layers`; another seed is other content."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        HookPoint("resid_post", layer): torch.randn(hidden, generator=generator) for layer in layers
    }
    return SteeringVector(tensors, **fields)


def vector_file(seed: int = 0, **fields: Any) -> bytes:
    return write_vector(vector(seed, **fields))


def raw_file(
    header: Any, data: bytes = b"", *, metadata: Any = None, announced: int | None = None
) -> bytes:
    """A safetensors file written by hand, so that it can be wrong in any way."""
    if metadata is not None:
        header = {"__metadata__": metadata, **header}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if announced is None else announced
    return length.to_bytes(8, "little") + text + data


def tensor_entry(name: str = "resid_post.3", size: int = HIDDEN, **changes: Any) -> dict[str, Any]:
    """The header of a file with one tensor."""
    return {name: {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size], **changes}}


def with_metadata(text: str) -> bytes:
    """A sound file whose `steersman` metadata is `text`."""
    return raw_file(tensor_entry(), b"\0" * 4 * HIDDEN, metadata={"steersman": text})
