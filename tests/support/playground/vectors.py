"""Vectors for the demo model."""

import torch

from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint

HIDDEN = 576


def random_vector(seed: int) -> bytes:
    """A file of one tensor at layer 14; the same seed gives the same bytes."""
    v = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))
    return write_vector(SteeringVector({HookPoint("resid_post", 14): v * (30 / v.norm())}))
