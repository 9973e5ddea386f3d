"""The uses with a gate or a marker of live requests, and what they are told of a step."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from steersman.steering.plan.when.gates import PlannedGate
from steersman.steering.worker.gating.counting import Tally
from steersman.steering.worker.gating.search import MarkerSearch


class StepTokens(NamedTuple):
    """All tokens of a step's batch, as they enter the model. On the device: the host need not know
    them yet."""

    ids: Tensor
    """[>= tokens] int32 or int64."""
    positions: Tensor
    """[>= tokens] int64: the index of each in its request."""

    def part(self, start: int, stop: int) -> "StepTokens":
        """Tokens [start, stop) of the batch."""
        return StepTokens(self.ids[start:stop], self.positions[start:stop])


class Part(NamedTuple):
    """The tokens of a request that a step computes."""

    offset: int
    """Index in the batch of the first."""
    first: int
    """Its index in the request; where it is guessed, the highest that it may be."""
    stop: int
    """Behind the index of the last one."""
    prompt_tokens: int
    tokens: StepTokens | None
    """Of the whole batch; None where a runner does not give them, and then nothing is guessed."""
    guessed: bool = False
    """Whether the device alone knows which index the first has."""


@dataclass
class GatedUse:
    """A use with a gate or a marker of one live request."""

    index: int
    """Of the vector in the plan."""
    column: int
    """Its own in the register, from 1 on."""
    gate: PlannedGate | None
    slot: int
    """Of the gate's hook point."""
    search: MarkerSearch | None
    """For the marker of its positions."""
    span: tuple[int, int]
    """Half-open interval of the token indices that the use steers."""
    decision: Tensor | None = None
    """float32 [2], of a gate that is decided once: 1 if it passed, else 0, and what it measured.
    None before the prompt's last token."""
    total: Tensor | None = None
    """float64 [hidden]: the sum of the stream over the prompt's first `summed` tokens."""
    summed: int = 0
    tally: Tally = field(default_factory=Tally)
    """Up to the last step that is over."""
