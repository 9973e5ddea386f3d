"""Rows on disk: a temporary file, mapped into memory, that goes when the store is closed."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray


class RowStore:
    """Rows [layers, hidden] float32 by label, as many as are announced."""

    def __init__(self, folder: Path, counts: Mapping[str, int], shape: tuple[int, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(dir=folder, prefix="rows-")
        self._maps: dict[str, np.memmap[tuple[int, ...], np.dtype[np.float32]]] = {
            label: np.memmap(
                Path(self._folder.name) / str(n), np.float32, "w+", shape=(count, *shape)
            )
            for n, (label, count) in enumerate(counts.items())
        }
        self._kept: dict[str, list[int]] = {label: [] for label in counts}

    def put(self, label: str, place: int, row: NDArray[np.float32]) -> None:
        """Keep a row at its place among its label's."""
        self._maps[label][place] = row
        self._kept[label].append(place)

    def rows(self, label: str) -> torch.Tensor:
        """[rows, layers, hidden], those that were put, in the order of their places."""
        kept = sorted(self._kept[label])
        mapped = self._maps[label]
        whole = len(kept) == len(mapped)
        return torch.from_numpy(mapped if whole else mapped[kept])

    def close(self) -> None:
        """Let the rows go."""
        self._maps.clear()
        self._folder.cleanup()
