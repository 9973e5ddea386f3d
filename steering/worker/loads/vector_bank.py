"""The bank with its rows filled: what `Tables.bank` holds, and how large it is."""

from collections.abc import Collection, Iterable, Mapping

import numpy as np
from torch import Tensor

from steersman.steering.ops.terms import Direction
from steersman.steering.plan.errors import VectorUnavailable
from steersman.steering.plan.plan import EVERY_STEP, BankKey
from steersman.steering.worker.bank import ZERO_ROW, RowAllocator
from steersman.steering.worker.tables import Tables
from steersman.vectors.digest import short
from steersman.vectors.tensors import HookPoint, tensor_name


class VectorBank:
    """The vectors of one worker. Only what is ordered comes into it, and only that goes."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.rows = RowAllocator(tables.sizes.bank_rows)
        self.largest = [0.0] * (1 + tables.sizes.bank_rows)
        """Largest absolute element of each bank row."""
        self.directions = [Direction(ZERO_ROW, 0.0)] * (1 + tables.sizes.bank_rows)
        """What is known of each bank row, for operations that read the stream."""

    def place(self, keys: Collection[BankKey], tensors: Mapping[HookPoint, Tensor]) -> bool:
        """Fill a row with each of `keys` out of a vector's `tensors`, [hidden] or [steps, hidden]
        f32, and numbers under `numbers_point`. Returns False, and does nothing, where too few rows
        are free yet. Raises `VectorUnavailable`, with none of them filled, for tensors that do not
        fit."""
        if not self.rows.has_room(keys):
            return False
        self.rows.place(keys, lambda row, key: self._fill(row, key, tensors))
        return True

    def evict(self, keys: Iterable[BankKey]) -> None:
        """Free the rows of those of `keys` that are there."""
        self.rows.evict(keys)

    def _fill(self, row: int, key: BankKey, tensors: Mapping[HookPoint, Tensor]) -> None:
        digest, site, layer, step = key
        name, hidden = tensor_name(HookPoint(site, layer)), self._tables.sizes.hidden
        tensor = tensors.get(HookPoint(site, layer))
        if tensor is None:
            raise VectorUnavailable(f"vector {short(digest)} has no tensor {name}")
        if tensor.shape[-1] != hidden:
            raise VectorUnavailable(
                f"{name} of vector {short(digest)} has shape {tuple(tensor.shape)}, but this "
                f"model's hidden size is {hidden}; use a vector made for this model"
            )
        steps = tensor if tensor.dim() == 2 else tensor[None]
        if step >= len(steps) or (step == EVERY_STEP and len(steps) > 1):
            raise VectorUnavailable(
                f"vector {short(digest)} {name} has a tensor for each of {len(steps)} steps, and "
                "the plan has another number; send the request again"
            )
        self._tables.fill_bank(row, steps[step])
        values = steps[step].numpy()
        self.largest[row] = float(np.abs(values).max())
        self.directions[row] = Direction(
            row, float(np.linalg.norm(values.astype(np.float64))), *_numbers(key, tensors)
        )


def numbers_point(point: HookPoint) -> HookPoint:
    """The key of a hook point's numbers (`steersman.vectors.parts`) among a vector's tensors."""
    return HookPoint(f"{point.site}.numbers", point.layer)


def _numbers(key: BankKey, tensors: Mapping[HookPoint, Tensor]) -> tuple[float, float]:
    """The bias and the threshold of the feature whose encoder `key` names; 0 for any other row."""
    numbers = tensors.get(numbers_point(HookPoint(key[1], key[2])))
    if numbers is None or not 0 <= key[3] < numbers.shape[1]:
        return 0.0, 0.0
    bias, threshold = numbers[:, key[3]].tolist()
    return bias, threshold
