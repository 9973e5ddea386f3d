"""How strong an imported vector is, relative to the stream that it is added to."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from steersman.vectors.tensors import tensor_name
from steersman.vectors.vector import SteeringVector

USUAL: Final = (0.05, 1.0)
"""Relative doses, summed over layers, at which vectors act and leave text fluent."""
AIM: Final = 0.3


class Dose(NamedTuple):
    """`total`: the sum over layers of ||coefficient * v|| / median ||h||, at the default
    coefficient. `better`: the coefficient at which the total would be `AIM`; None if there is
    none."""

    total: float
    layers: int
    better: float | None

    @property
    def usual(self) -> bool:
        """Whether the total is within `USUAL`."""
        return USUAL[0] <= self.total <= USUAL[1]


def summed_dose(vector: SteeringVector, medians: Mapping[str, float]) -> Dose | None:
    """The dose of `vector` at its default layers; None if a layer's median is not known.

    `medians` maps `resid_post.<layer>` to the median length of the stream there, as a server's
    capabilities have it. Of a [steps, hidden] tensor the longest step counts.
    """
    at_one = 0.0
    for key, tensor in vector.tensors.items():
        if key[1] not in vector.layers:
            continue
        median = medians.get(tensor_name(("resid_post", key[1])))
        if not median:
            return None
        at_one += float(tensor.double().norm(dim=-1).max()) / median
    sign = -1.0 if vector.coefficient < 0 else 1.0
    better = sign * float(f"{AIM / at_one:.2g}") if at_one else None
    return Dose(abs(vector.coefficient) * at_one, len(vector.layers), better)


def unit_length(vector: SteeringVector) -> bool:
    """Whether all tensors have length 1, so that the file has directions and not strengths."""
    lengths = [float(tensor.double().norm(dim=-1).max()) for tensor in vector.tensors.values()]
    return all(abs(length - 1.0) < 1e-2 for length in lengths)
