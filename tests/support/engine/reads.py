"""Requests that read their stream, and what Hugging Face says that they read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from steersman.steering.plan import Plan, PositionRule, WorkerNote
from steersman.steering.plan.positions import said
from steersman.steering.plan.wire.readouts import Measure, ReadChunk, Readout, Tokens
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.engine.conftest import Shelf
from tests.reference.reference import ReferenceModel, Term
from tests.support.engine.engine import Answer, Ask

MIDDLE, MID = 900, (HookPoint("resid_mid", 1),)
CLOSE = 1e-4
"""Largest difference of a cosine, and of a projection as a share of the stream's norm."""


@dataclass(frozen=True)
class Case:
    """A request that reads, and what it adds, in the words of the reference."""

    ask: Ask
    terms: tuple[Term, ...] = ()

    @property
    def plan(self) -> Plan:
        assert self.ask.plan is not None
        return self.ask.plan

    @property
    def without_reads(self) -> Ask:
        plan = replace(self.plan, readouts=())
        return replace(self.ask, plan=plan if plan.vectors else None)


def read(
    shelf: Shelf,
    seed: int,
    points: Sequence[tuple[str, int]],
    measure: Measure = "projection",
    tokens: Tokens = "answer",
) -> Readout:
    terms = tuple(sorted(HookPoint(*point) for point in points))
    return Readout(shelf.vector(seed).digest, terms, measure, tokens)


def _mid(shelf: Shelf) -> str:
    """The digest of a vector at the site between attention and MLP."""
    if MIDDLE not in shelf.vectors:
        row = torch.randn(shelf.hidden, generator=torch.Generator().manual_seed(MIDDLE))
        shelf.vectors[MIDDLE] = SteeringVector({MID[0]: row})
        shelf.library.add(write_vector(shelf.vectors[MIDDLE]), "middle")
    return shelf.vectors[MIDDLE].digest


def cases(shelf: Shelf, prompts: Sequence[tuple[int, ...]], tokens: int = 5) -> list[Case]:
    """Alone and beside additions, at the layers behind, before and where these are done."""
    last = len(shelf.norms["resid_post"]) - 1
    ends = (("resid_post", 0), ("resid_post", last))
    branches = (("attn_out", 1), ("mlp_out", 1), ("resid_post", 1))

    def adding(
        n: int, site: str, layer: int, rule: PositionRule, *readouts: Readout
    ) -> tuple[Plan, tuple[Term, ...]]:
        added = shelf.planned(n, 0.6, (layer,), rule, site)
        vector = shelf.vector(n).tensors[HookPoint(site, layer)]
        term = Term(site, layer, added.coefficient, vector, said(rule))
        return Plan((added,), readouts=readouts), (term,)

    plans: list[tuple[Plan, tuple[Term, ...]]] = [
        (Plan((), readouts=(read(shelf, 1, ends, tokens="prompt"),)), ()),
        (Plan((), readouts=(read(shelf, 1, branches, "cosine"),)), ()),
        (Plan((), readouts=(read(shelf, 2, ends, tokens="last"),)), ()),
        (
            Plan(
                (),
                readouts=(
                    read(shelf, 1, ends, "cosine", "prompt"),
                    read(shelf, 2, ends[1:], tokens="answer"),
                    read(shelf, 2, ends[1:], "cosine", "last"),
                ),
            ),
            (),
        ),
        adding(
            2, "attn_out", 1, "all", Readout(_mid(shelf), MID, "projection", "prompt"),
            read(shelf, 2, branches[2:]),
        ),
        adding(
            1, "resid_post", 1, "all", read(shelf, 1, branches[2:]),
            read(shelf, 2, ends, "cosine", "prompt"),
        ),
        adding(2, "resid_post", 1, "generation", read(shelf, 2, branches[2:], "cosine")),
        adding(1, "attn_out", 1, "prompt", read(shelf, 1, branches, tokens="prompt")),
        adding(2, "mlp_out", 1, "all", read(shelf, 2, branches, tokens="prompt")),
    ]  # fmt: skip
    return [
        Case(Ask(prompt, plan, tokens), terms)
        for (plan, terms), prompt in zip(plans, prompts, strict=False)
    ]


def check(
    reference: ReferenceModel, shelf: Shelf, case: Case, answer: Answer, note: WorkerNote
) -> float:
    """Assert that every token was read once, in order, and is close. Returns the worst
    difference."""
    vectors = {shelf.vector(n).digest: shelf.vector(n).tensors for n in (1, 2, MIDDLE)}
    return furthest_read(reference, case, answer.tokens, note.reads, vectors)


def furthest_read(
    reference: ReferenceModel,
    case: Case,
    tokens: Sequence[int],
    chunks: Sequence[ReadChunk],
    vectors: Mapping[str, Mapping[HookPoint, torch.Tensor]],
) -> float:
    """The same for an answer of these tokens, by the tensors of each digest."""
    prompt = case.ask.prompt
    # The last token of an answer is sampled, never computed.
    text = [*prompt, *tokens[:-1]]
    worst = 0.0
    for n, readout in enumerate(case.plan.readouts):
        start, stop = readout.span(len(prompt))
        stop = min(stop, len(text))
        found = _values(chunks, n, len(readout.terms), start)
        assert found.shape == (len(readout.terms), stop - start)
        streams = reference.streams(text, readout.terms, len(prompt), case.terms).double().numpy()
        for k, point in enumerate(readout.terms):
            v = vectors[readout.digest][point].double().numpy()
            stream = streams[k, start:stop]
            along, norm = stream @ v / np.linalg.norm(v), np.linalg.norm(stream, axis=-1)
            wanted = along / norm if readout.measure == "cosine" else along
            off = np.abs(found[k] - wanted)
            worst = max(worst, float((off if readout.measure == "cosine" else off / norm).max()))
    assert worst <= CLOSE
    return worst


def _values(chunks: Sequence[ReadChunk], n: int, terms: int, start: int) -> NDArray[np.float32]:
    """All that a readout read: float32 [terms, tokens]."""
    parts = []
    for chunk in chunks:
        if chunk.readout == n:
            parts.append(np.frombuffer(chunk.values, np.float32).reshape(terms, -1))
            assert chunk.first == start
            start += parts[-1].shape[1]
    return np.concatenate(parts, axis=1)
