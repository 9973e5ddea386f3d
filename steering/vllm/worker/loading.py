"""Reads vectors from the library: whole files, in threads of `steersman.steering.worker.loads`."""

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from steersman.steering.plan.errors import VectorUnavailable
from steersman.steering.worker.loads.vector_bank import numbers_point
from steersman.vectors.digest import short
from steersman.vectors.errors import SteersmanError
from steersman.vectors.file.format import read_vector
from steersman.vectors.library.library import Library
from steersman.vectors.library.sent import sent_path
from steersman.vectors.tensors import HookPoint

logger = logging.getLogger("vllm.steersman")


def object_path(library: Path, digest: str) -> Path:
    """Path of the file of `digest` in the library, which keeps immutable files named by digest; or
    of the one that a request has sent, where the library has none."""
    path = library / "objects" / f"{digest.removeprefix('sha256:')}.safetensors"
    if not path.exists() and (sent := sent_path(library, digest)).exists():
        return sent
    return path


class VectorFiles:
    """Reads vectors from the library in `folder`. Threads may share one instance."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._parsing = threading.Lock()
        """Many threads may wait for a disk; one at a time competes with the step for Python."""

    def read(self, digest: str) -> Mapping[HookPoint, Tensor]:
        """The tensors of vector `digest`: float32 [hidden] or [steps, hidden], and its numbers
        under `numbers_point`. The whole file is read and its digest compared, because a file that
        was damaged on disk is another vector. Raises `VectorUnavailable`."""
        try:
            data = object_path(self._folder, digest).read_bytes()
            with self._parsing:
                vector = read_vector(data)
                if vector.digest != digest:
                    raise VectorUnavailable(
                        "its file is damaged; delete the vector and upload it again"
                    )
        except FileNotFoundError:
            raise VectorUnavailable(
                f"vector {short(digest)} has no file in the library; upload it again"
            ) from None
        except Exception as error:
            # Whatever is wrong with one file ends one request, never the engine.
            raise VectorUnavailable(f"vector {short(digest)}: {error}") from error
        numbers = {numbers_point(point): found for point, found in vector.numbers.items()}
        return {**vector.tensors, **numbers}


def sites_asked(folder: Path, hidden: int, layers: int, *, reading: bool = False) -> frozenset[str]:
    """The sites at which the library's vectors act, counting only vectors that fit a model with
    this hidden size and number of `layers`, and if `reading`, only those whose operation reads the
    stream. Empty if the library cannot be read."""
    try:
        entries = Library(folder, hidden_size=hidden, num_layers=layers).list()
    except SteersmanError as error:
        logger.warning(
            "The library cannot be read: %s. Sites that its vectors need are not compiled in; name "
            "them with --sites.",
            error,
        )
        return frozenset()
    fitting = (one for one in entries if one.misfit is None)
    counted = (one for one in fitting if not (reading and one.operation.adds))
    return frozenset(site for one in counted for site, _ in one.tensors)


def lowest(values: Sequence[int]) -> Sequence[int]:
    """Element by element, the lowest value on any rank of the model: of all stages of a pipeline,
    and tensor parallel within them. All ranks must call it alike.

    In a step, call it behind the forward pass. Before it a stage waits for what the one before it
    sends behind its own, and neither could wait for the other's word.
    """
    from vllm.distributed import get_pp_group, get_tp_group

    for group in (get_tp_group(), get_pp_group()):
        if group.world_size > 1:
            found = torch.tensor(values)
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN, group.cpu_group)
            values = found.tolist()
    return values


def on_any_rank(here: bool) -> bool:
    """Whether `here` is true on at least one rank of the model. As `lowest`."""
    return not lowest([not here])[0]
