"""What a request reads of its residual stream, and the values on their way back.

A `Readout` is part of the plan. The worker reduces the stream to one number a token; `ReadChunk`s
travel with the request's notes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal, NamedTuple

from msgspec import Meta, Struct

from steersman.steering.plan.errors import PlanInvalid
from steersman.steering.plan.positions import END
from steersman.vectors.tensors import HookPoint

if TYPE_CHECKING:
    from steersman.steering.plan.limits import Limits

Measure = Literal["projection", "cosine"]
Tokens = Literal["answer", "prompt", "last"]
MAX_READS: Final = 64
"""Entries of a request's `read`."""


class Readout(Struct, frozen=True, forbid_unknown_fields=True):
    """One vector that the stream is compared with, at each hook point of `terms`.

    With u = v / ||v||, `projection` is h . u, in the stream's own units, and `cosine` is
    h . u / ||h||, where h is the sum of hidden states and residual, in float32, behind what the
    request itself changes at the hook point.
    """

    digest: Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
    terms: Annotated[tuple[HookPoint, ...], Meta(min_length=1)]
    """(site, layer) pairs, ascending."""
    measure: Measure
    tokens: Tokens

    def span(self, prompt_tokens: int) -> tuple[int, int]:
        """Half-open interval of the token indices that are read.

        Of the answer, token i (counted from 0) is made from the stream at index P - 1 + i, with P
        the length of the prompt: that is its value.
        """
        if self.tokens == "prompt":
            return 0, prompt_tokens
        return prompt_tokens - 1, prompt_tokens if self.tokens == "last" else END

    @property
    def reads_prompt(self) -> bool:
        """Whether tokens are read that a prefix cache may have: all of the prompt's but the
        last."""
        return self.tokens == "prompt"

    def count(self, prompt_tokens: int, new_tokens: int) -> int:
        """How many values it has for a prompt and an answer of these lengths."""
        tokens = {"prompt": prompt_tokens, "last": 1, "answer": new_tokens}[self.tokens]
        return tokens * len(self.terms)


class ReadChunk(NamedTuple):
    """What one step reads by one readout."""

    readout: int
    """Index into `Plan.readouts`."""
    first: int
    """Token index of the first value."""
    values: bytes
    """float32 [terms, tokens]."""


def check_readouts(
    readouts: Sequence[Readout], limits: "Limits", prompt_tokens: int, new_tokens: int
) -> None:
    """Raise `PlanInvalid` for readouts at hook points that cannot be read, or with more values than
    a request may have."""
    if len(readouts) > MAX_READS:
        raise PlanInvalid(
            f"the request has {len(readouts)} reads, at most {MAX_READS} are allowed; name fewer",
            param="steering.read",
            code="too_many_reads",
        )
    for n, readout in enumerate(readouts):
        for site, layer in readout.terms:
            limits.check_layer(layer, f"steering.read[{n}].layers")
            if site not in limits.readout_sites:
                raise PlanInvalid(
                    f"the stream cannot be read at {site}; it can at "
                    f"{', '.join(limits.readout_sites)}: name a vector for one of these",
                    param=f"steering.read[{n}].id",
                    code="site_not_supported",
                )
    total = sum(readout.count(prompt_tokens, new_tokens) for readout in readouts)
    if total > limits.max_read_values:
        raise PlanInvalid(
            f"the reads have up to {total} values, one for each token and hook point; at most "
            f"{limits.max_read_values} are allowed (--max-read-values); name fewer layers or "
            "tokens, or lower the request's token limit",
            param="steering.read",
            code="too_many_reads",
        )
