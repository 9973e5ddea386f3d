"""Reads vectors from the library into a worker: whole files, on all ranks or on none."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from steersman.steering.plan.errors import VectorUnavailable
from steersman.vectors.digest import short
from steersman.vectors.errors import SteersmanError
from steersman.vectors.file.format import read_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint, tensor_name

logger = logging.getLogger("vllm.steersman")


def object_path(library: Path, digest: str) -> Path:
    """Path of the file of `digest` in the library, which keeps immutable files named by digest."""
    return library / "objects" / f"{digest.removeprefix('sha256:')}.safetensors"


class VectorFiles:
    """Reads vectors of one hidden size from the library in `folder`."""

    def __init__(self, folder: Path, hidden: int) -> None:
        self._folder = folder
        self._hidden = hidden

    def load(self, digest: str, keys: Sequence[HookPoint]) -> Mapping[HookPoint, Tensor]:
        """The tensors of vector `digest` at the hook points `keys`: float32 [hidden] or [steps,
        hidden]. Raises `VectorUnavailable`."""
        try:
            tensors = _read_whole(object_path(self._folder, digest), digest, keys)
        except Exception as error:
            # Whatever is wrong with one file ends one request, never the engine.
            raise VectorUnavailable(f"vector {short(digest)}: {error}") from error
        for key, tensor in tensors.items():
            if tensor.shape[-1] != self._hidden:
                raise VectorUnavailable(
                    f"{tensor_name(key)} of vector {short(digest)} has shape "
                    f"{tuple(tensor.shape)}, but this model's hidden size is {self._hidden}; use a "
                    "vector made for this model"
                )
        return tensors


def _read_whole(path: Path, digest: str, keys: Sequence[HookPoint]) -> dict[HookPoint, Tensor]:
    """Read the whole file and compare its digest, because a file that was damaged on disk is
    another vector."""
    vector = read_vector(path)
    if vector.digest != digest:
        raise VectorUnavailable("its file is damaged; delete the vector and upload it again")
    return {key: vector.tensors[key] for key in keys}


def sites_asked(folder: Path, hidden: int, layers: int) -> frozenset[str]:
    """The sites at which the library's vectors act, counting only vectors that fit a model with
    this hidden size and number of `layers`. Empty if the library cannot be read."""
    try:
        entries = Library(folder, hidden_size=hidden, num_layers=layers).list()
    except SteersmanError as error:
        logger.warning(
            "The library cannot be read: %s. Sites that its vectors need are not compiled in; name "
            "them with --sites.",
            error,
        )
        return frozenset()
    return frozenset(site for one in entries if one.misfit is None for site, _ in one.tensors)


def anywhere(here: bool) -> bool:
    """Whether `here` is true on at least one tensor-parallel rank. All ranks must call it
    together."""
    from vllm.distributed import get_tp_group

    group = get_tp_group()
    if group.world_size == 1:
        return here
    flag = torch.tensor([int(here)])
    torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group.cpu_group)
    return bool(flag.item())
