"""Vectors of the library on their way into a worker: read whole, on all ranks or on none."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from steersman.steering.plan.errors import VectorUnavailable
from steersman.vectors.file.format import read_vector
from steersman.vectors.tensors import HookPoint, tensor_name


def object_path(library: Path, digest: str) -> Path:
    """Path of the file of `digest`: the library keeps immutable files, named by digest."""
    return library / "objects" / f"{digest.removeprefix('sha256:')}.safetensors"


class VectorFiles:
    """Reads vectors of one hidden size from the library in `folder`."""

    def __init__(self, folder: Path, hidden: int) -> None:
        self._folder = folder
        self._hidden = hidden

    def load(self, digest: str, keys: Sequence[HookPoint]) -> Mapping[HookPoint, Tensor]:
        """The tensors at `keys`, float32 [hidden] or [steps, hidden], out of the file of `digest`.
        Raises `VectorUnavailable`."""
        try:
            tensors = _read_whole(object_path(self._folder, digest), digest, keys)
        except Exception as error:
            # Whatever is wrong with one file ends one request, never the engine.
            raise VectorUnavailable(f"{digest[:19]}: {error}") from error
        for key, tensor in tensors.items():
            if tensor.shape[-1] != self._hidden:
                raise VectorUnavailable(
                    f"{digest[:19]} {tensor_name(key)} has shape {tuple(tensor.shape)}, this model "
                    f"steers [{self._hidden}]"
                )
        return tensors


def _read_whole(path: Path, digest: str, keys: Sequence[HookPoint]) -> dict[HookPoint, Tensor]:
    """All of the file is read: a bit that has turned over on the disk makes another vector."""
    vector = read_vector(path)
    if vector.digest != digest:
        raise VectorUnavailable("its file is damaged; delete the vector and upload it again")
    return {key: vector.tensors[key] for key in keys}


def failed_anywhere(failed: bool) -> bool:
    """Whether `failed` is true on any tensor-parallel rank. All ranks must call it alike."""
    from vllm.distributed import get_tp_group

    group = get_tp_group()
    if group.world_size == 1:
        return failed
    flag = torch.tensor([int(failed)])
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group.cpu_group)
    return bool(flag.item())
