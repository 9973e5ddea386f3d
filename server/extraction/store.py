"""Activations on disk: temporary files, mapped into memory, removed with the store or its
process."""

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from steersman.vectors.library.disk import disk_errors

_Map = np.memmap[tuple[int, ...], np.dtype[np.float32]]


class ActivationStore:
    """Activations of each label, float32 [layers, hidden] for each sample. The number of samples is
    given in advance."""

    def __init__(self, folder: Path, counts: Mapping[str, int], shape: tuple[int, int]) -> None:
        """Raises `LibraryError`."""
        with disk_errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._maps = {
                label: _mapped(folder, (count, *shape)) for label, count in counts.items()
            }
        self._kept: dict[str, list[int]] = {label: [] for label in counts}

    def put(self, label: str, place: int, activation: NDArray[np.float32]) -> None:
        """Store the activations of one sample at its index among its label's."""
        self._maps[label][place] = activation
        self._kept[label].append(place)

    def activations(self, label: str) -> torch.Tensor:
        """float32 [samples, layers, hidden] of a label, in the order of their indices; only those
        that were put."""
        kept = sorted(self._kept[label])
        mapped = self._maps[label]
        whole = len(kept) == len(mapped)
        return torch.from_numpy(mapped if whole else mapped[kept])

    def close(self) -> None:
        """Remove the files."""
        self._maps.clear()


def _mapped(folder: Path, shape: tuple[int, ...]) -> _Map:
    # The file has no name, so that nothing is left of it whatever ends the process.
    with tempfile.TemporaryFile(dir=folder) as file:
        # On a disk that is full, a write into the map of a file with holes would kill the process.
        os.posix_fallocate(file.fileno(), 0, 4 * math.prod(shape))
        return np.memmap(file, np.float32, "r+", shape=shape)
