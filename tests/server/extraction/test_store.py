"""Rows on disk: back as they were put, and nothing left of them."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from steersman.server.extraction.store import ActivationStore
from steersman.vectors.errors import LibraryError


def test_rows_come_back_in_their_order(tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "jobs", {"a": 3, "b": 2}, (2, 4))
    activations = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    for place in (2, 0, 1):
        store.put("a", place, activations[place])
    assert torch.equal(store.activations("a"), torch.from_numpy(activations))
    store.put("b", 1, activations[1])
    assert torch.equal(store.activations("b"), torch.from_numpy(activations[1:2]))
    # A process that is killed now leaves nothing behind.
    assert not list((tmp_path / "jobs").iterdir())
    store.close()


def test_a_full_disk_is_an_error_before_a_row_is_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int, _start: int, size: int) -> None:
        assert size == 4 * 3 * 2 * 4
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(LibraryError, match="disk is full"):
        ActivationStore(tmp_path, {"a": 3}, (2, 4))
    assert not list(tmp_path.iterdir())
