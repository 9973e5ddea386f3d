"""Vectors in the bank without a scheduler's orders, and requests that never wait for them."""

from collections.abc import Callable, Collection, Mapping, Set

from torch import Tensor

from steersman.steering.plan.errors import VectorUnavailable
from steersman.steering.plan.plan import Plan, VectorRows
from steersman.steering.plan.wire.loads import keys_of
from steersman.steering.scheduler.loads import LoadBook
from steersman.steering.worker.loads.vector_bank import VectorBank
from steersman.vectors.tensors import HookPoint

Shelf = Callable[[str, list[HookPoint]], Mapping[HookPoint, Tensor]]
"""(digest, [(site, layer), ...]) -> the tensors; or `VectorUnavailable`."""


class AllThere(LoadBook):
    """A book of workers that hold every vector."""

    def __init__(self) -> None:
        super().__init__(0, 0.0)

    def want(self, request_id: str, wanted: Set[VectorRows], new: Collection[VectorRows]) -> None:
        pass


def place(bank: VectorBank, plan: Plan, shelf: Shelf) -> None:
    """Bring the vectors of a plan into the bank, but for those that cannot be read. Where there is
    no room, what no request uses goes."""
    named = [vector.digest for vector in plan.vectors]
    for digest in dict.fromkeys([*named, *(readout.digest for readout in plan.readouts)]):
        rows = {one for one in plan.row_sets if one[0] == digest}
        keys = [key for one in sorted(rows) for key in keys_of(one)]
        if all(key in bank.rows for key in keys):
            continue
        try:
            tensors = shelf(digest, sorted({HookPoint(site, layer) for _, site, layer, _ in rows}))
            if not bank.place(keys, tensors):
                bank.evict([*bank.rows.resident_keys()])
                bank.place(keys, tensors)
        except VectorUnavailable:
            pass
