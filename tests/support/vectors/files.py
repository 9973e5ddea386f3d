"""Files of other tools for the tests, each written in a line: 30 blocks, a hidden size of 16."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFValueType, GGUFWriter
from safetensors.torch import save_file

from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import SteeringVector
from steersman.vectors.formats import load

BLOCKS = 30
HIDDEN = 16
EYE = torch.eye(HIDDEN)


def unit(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(HIDDEN, generator=generator)
    length: torch.Tensor = values.norm()
    return values / length


def gguf(path: Path, metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    writer = GGUFWriter(path, "controlvector")
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:  # `add_string` leaves out an empty one.
            writer.add_key_value(key, value, GGUFValueType.STRING)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def safetensors(path: Path, metadata: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path, metadata={key: str(value) for key, value in metadata.items()})
    return path


def refused(path: Path, **options: Any) -> VectorInvalid:
    with pytest.raises(VectorInvalid) as caught:
        load(path, num_layers=BLOCKS, **options)
    assert caught.value.message.startswith(f"{path.name}: ")
    return caught.value


def names(vector: SteeringVector) -> list[str]:
    return [f"{site}.{layer}" for site, layer in vector.tensors]


def note(vector: SteeringVector) -> dict[str, Any]:
    return dict(vector.method_settings["imported"])


STACK = torch.stack([unit(n) for n in range(BLOCKS)])


def stored(path: Path, value: torch.Tensor) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, value.numpy())
        case ".npz":
            np.savez(path, value.numpy())
        case ".safetensors":
            save_file({"v": value.contiguous()}, path)
        case _:
            torch.save(value.clone(), path)
    return path


# 1.17: one dispatcher
