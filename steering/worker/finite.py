"""Checks whether the results of a step are finite, for the requests that it steers.

An addition is bounded (`steersman.steering.plan.limits`), but a model may still overflow on a
residual stream that is unusual for it. A token whose stream is not finite leaves NaN among the keys
and values of the cache. An attention kernel multiplies what lies behind the end of a sequence by
zero, and zero times NaN is NaN, so the next owner of the block would get wrong answers. Independent
of vLLM.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Watched(NamedTuple):
    """The part of a step that belongs to one request whose numbers are checked."""

    request_id: str
    offset: int
    """Index in the batch of its first token."""
    tokens: int
    """How many of its tokens the step computes."""


class FiniteCheck:
    """Finds the watched requests of a step that have a hidden state or a logit that is not finite.

    The constructor does not wait for the device: on CUDA it queues two reductions and the copy of
    their results to pinned memory. `ill` waits for that copy, which is queued before the copy of
    the step's sampled tokens.
    """

    def __init__(
        self,
        watched: Sequence[Watched],
        hidden: Tensor,
        index_of: Mapping[str, int],
        logits: Tensor | None,
    ) -> None:
        """`hidden` [>= tokens of the step, hidden]: final hidden states. `logits` [requests,
        vocabulary]: the logits from which next tokens are sampled; None if a request may have no
        row or several. Both of any float dtype. `index_of`: the row of each request in the
        logits."""
        self._watched = watched
        # Now: the runner's own map is of the next step when vLLM comes to wait for this one.
        self._indices = [index_of.get(one.request_id) for one in watched]
        self._tokens = max((w.offset + w.tokens for w in watched), default=0)
        # The sum of finite numbers as a norm makes them is finite, and takes one pass.
        parts = [hidden[: self._tokens].sum(-1, dtype=torch.float32)]
        if logits is not None:
            # The largest: vocabulary that a model rules out has minus infinity.
            parts.append(logits.amax(-1).float())
        self._values = sent(torch.cat(parts))

    def ill(self) -> list[str]:
        """Ids of the requests with a number that is not finite."""
        finite = torch.isfinite(self._values())
        if bool(finite.all()):
            return []
        hidden, logits = finite[: self._tokens], finite[self._tokens :]
        found = []
        for one, index in zip(self._watched, self._indices, strict=True):
            fine = bool(hidden[one.offset : one.offset + one.tokens].all())
            if not fine or (index is not None and len(logits) and not bool(logits[index])):
                found.append(one.request_id)
        return found


def sent(values: Tensor) -> Callable[[], Tensor]:
    """Queue the copy of `values` to the host. Returns a function that waits for the copy and
    returns it."""
    if values.device.type == "cpu":
        return lambda: values
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    copied.record()

    def wait() -> Tensor:
        copied.synchronize()
        return host

    return wait
