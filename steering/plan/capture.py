"""A request that is captured: which part of its residual stream, and in what form it comes back.

A capture travels as a plan does, in `SamplingParams.extra_args`. The worker's sums come back on the
request's outputs, step by step, and are added up here. Nothing holds the stream of a whole prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from steersman.steering.plan.errors import PlanInvalid
from steersman.vectors.tensors import HookPoint

STEP_KEY: Final = "steersman_captured"
"""The key of `EngineCoreOutput.kv_transfer_params` with the captured part of the step: [tokens of
captured prompts, captured sequences behind their prompt]."""

CAPTURE_KEY: Final = "steersman_capture"
"""The key of `SamplingParams.extra_args` that holds the capture as a JSON string, and the key of
`EngineCoreOutput.kv_transfer_params` that holds what was captured."""


@dataclass(frozen=True)
class Capture:
    """Captures the residual stream of tokens [start, stop) of one request, at each hook point of
    `terms`."""

    receipt: str
    """Name of its entry in the `CaptureInbox`."""
    terms: tuple[HookPoint, ...]
    start: int
    """Token index, counted from the start of the request."""
    stop: int
    """May lie behind the end of the request."""
    each: bool = False
    """True: each token by itself; False: the mean over the tokens."""
    portion: int = 0
    """Most tokens of the prompt that a step takes while other requests run; 0: no limit."""

    def to_json(self) -> str:
        """The JSON string that `of` reads."""
        wire = self.receipt, self.terms, self.start, self.stop, self.each, self.portion
        return msgspec.json.encode(wire).decode()

    @classmethod
    def of(cls, extra_args: Mapping[str, Any] | None) -> Self | None:
        """The capture in a request's `extra_args`, if there is one. Raises `PlanInvalid`."""
        if not extra_args or CAPTURE_KEY not in extra_args:
            return None
        try:
            found = cls(*_READER.decode(extra_args[CAPTURE_KEY]))
        except (msgspec.MsgspecError, TypeError) as error:
            raise PlanInvalid(f"not a capture: {error!s:.200}") from error
        if not found.terms or not 0 <= found.start < found.stop:
            raise PlanInvalid("a capture must name at least one hook point and one token")
        if found.portion < 0:
            raise PlanInvalid("a capture's portion must be 0 or more")
        return found


_READER: Final = msgspec.json.Decoder(tuple[str, tuple[HookPoint, ...], int, int, bool, int])


class CaptureChunk(NamedTuple):
    """What one or several steps captured of one request."""

    receipt: str
    tokens: int
    """Number of tokens in this chunk."""
    values: bytes
    """float32 [n, terms, hidden]: one for each token if `each`, else their sum."""

    def to_wire(self) -> list[Any]:
        """A list of plain values, for vLLM's message encoding."""
        return list(self)


class CaptureResult(NamedTuple):
    """All that was captured of one request."""

    tokens: int
    values: NDArray[np.float32]
    """[terms, hidden], the mean over the tokens; or [tokens, terms, hidden] if `each`."""
