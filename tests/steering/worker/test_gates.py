"""Gates in the layers of a tiny model. Its tokens do not see each other: each is steered or not."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steersman.steering.plan import PLAN_KEY, Plan, PlannedVector
from steersman.steering.plan.receipt import GateCount, StepReport
from steersman.steering.plan.when.gates import MEASURES, PlannedGate
from steersman.steering.worker.loads.vector_bank import VectorBank
from steersman.steering.worker.requests import SteeredRequests
from steersman.vectors.tensors import HookPoint
from tests.steering.worker.test_reading import LAYERS, Reading, decoder
from tests.support.steering.make import digest, limits
from tests.support.steering.tiny import HIDDEN

POINT = HookPoint("resid_post", 0)
TOKENS = 12
PROMPT = 9
DIRECTION = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(4))
STREAM = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(5))


def content(name: str, point: HookPoint) -> Tensor:
    if name == digest(9):
        return DIRECTION
    generator = torch.Generator().manual_seed(int(name[-4:], 16) * 10 + point.layer)
    return torch.randn(HIDDEN, generator=generator)


class Worker:
    """Everything of a worker but vLLM."""

    def __init__(self) -> None:
        self.reading = Reading(decoder(), always=False, entries=16)
        self.tables = self.reading.tables
        self.bank = VectorBank(self.tables)
        self.requests = SteeredRequests(
            self.tables,
            limits(num_layers=LAYERS, bank_rows=6, max_terms=4),
            self.reading.slots,
            self.bank,
            own_slots=self.reading.own,
        )

    def start(self, name: str, plan: Plan) -> None:
        for one in {key[0] for key in plan.bank_keys}:
            points = {key[1:3] for key in plan.bank_keys if key[0] == one}
            tensors = {HookPoint(*p): content(one, HookPoint(*p)) for p in points}
            assert self.bank.place([k for k in plan.bank_keys if k[0] == one], tensors)
        self.requests.start(name, {PLAN_KEY: plan.to_json()}, PROMPT)
        assert not self.requests.failed

    def step(self, **batch: tuple[int, int]) -> tuple[dict[str, Tensor], StepReport]:
        """Compute the tokens [first, stop) of some requests: their final states, and the report."""
        self.requests.sync_batch({name: n for n, name in enumerate(batch)})
        offset, spans, parts = 0, [], []
        for name, (first, stop) in batch.items():
            if name in self.requests.live:
                spans.append((name, offset, stop - first, first))
            parts.append(STREAM[first:stop])
            offset += stop - first
        self.requests.step(spans, offset)
        self.reading.active.set(self.requests.active_slots)
        out = self.reading.model(torch.cat(parts))
        report = self.requests.take_report()
        assert report is not None
        measured = self.tables.gates.take()
        for name, counts in measured.read().items() if measured else ():
            report.gates[name] = tuple(counts.values())
        sizes = [stop - first for first, stop in batch.values()]
        return dict(zip(batch, out.split(sizes), strict=True)), report


def use(gate: PlannedGate | None, positions: str = "all") -> PlannedVector:
    terms = (HookPoint("resid_post", 1), HookPoint("resid_post", 2))
    return PlannedVector(digest(1), 0.5, terms, positions, gate=gate)


def whole(plan: Plan | None) -> Tensor:
    worker = Worker()
    if plan is not None:
        worker.start("r", plan)
    return worker.step(r=(0, TOKENS))[0]["r"]


def at_point() -> Tensor:
    """The stream at the gate's hook point: [tokens, hidden]."""
    found: list[Tensor] = []
    model = decoder()
    model.layers[0].register_forward_hook(lambda _m, _i, out: found.append(out[0] + out[1]))
    model(STREAM)
    return found[0]


def value(h: Tensor, measure: str) -> float:
    v = DIRECTION
    if measure == "projection":
        return float(h @ v / v.norm())
    other = v if measure == "cosine" else torch.tanh(torch.outer(v, v) @ h / (v @ v))
    return float(torch.cosine_similarity(h, other, dim=0))


def between(values: Sequence[float]) -> float:
    a, b = sorted(values)[len(values) // 2 - 1 : len(values) // 2 + 1]
    return (a + b) / 2


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("below", [False, True])
def test_each_token_is_steered_or_untouched(measure: str, below: bool) -> None:
    values = [value(h, measure) for h in at_point()]
    gate = PlannedGate(digest(9), POINT, measure, between(values), below)  # type: ignore[arg-type]
    plain, always = whole(None), whole(Plan((use(None),)))
    worker = Worker()
    worker.start("r", Plan((use(gate),)))
    worker.start("s", Plan((use(None),)))
    passed = [(one < gate.threshold) if below else (one > gate.threshold) for one in values]
    found = []
    for first, stop in ((0, 5), (5, 6), (6, 12)):
        out, report = worker.step(r=(first, stop), s=(first, stop), plain=(first, stop))
        found.append(out["r"])
        assert report.gates["r"] == (GateCount(stop, sum(passed[:stop])),)
        assert torch.equal(out["plain"], plain[first:stop])
        assert torch.allclose(out["s"], always[first:stop], atol=1e-6)
    assert 0 < sum(passed) < TOKENS
    for token, one in enumerate(torch.cat(found)):
        if passed[token]:
            assert torch.allclose(one, always[token], atol=1e-6)
        else:
            assert torch.equal(one, plain[token])


CHUNKS = [
    [(0, 12)],
    [(0, 3), (3, 9), (9, 10), (10, 12)],
    [(0, 8), (8, 9), (9, 12)],
    # Preempted in the prompt, and behind it.
    [(0, 4), (0, 2), (2, 9), (9, 11), (0, 12)],
    [(0, 4), (3, 9), (9, 11), (8, 12)],
]


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("over", ["prompt_last", "prompt_mean"])
@pytest.mark.parametrize("passes", [False, True])
def test_what_the_prompt_decides_holds(
    over: str, passes: bool, chunks: list[tuple[int, int]]
) -> None:
    h = at_point()[:PROMPT]
    told = value(h[-1] if over == "prompt_last" else h.mean(0), "cosine")
    threshold = told - 0.01 if passes else told + 0.01
    gate = PlannedGate(digest(9), POINT, "cosine", threshold, over=over)  # type: ignore[arg-type]
    plan = Plan((use(None, "prompt"), use(gate, "generation")))
    closed = Plan((use(None, "prompt"),))
    always = Plan((use(None, "prompt"), use(None, "generation")))
    wanted = whole(always if passes else closed)
    worker = Worker()
    worker.start("r", plan)
    out = torch.full_like(wanted, torch.nan)
    for first, stop in chunks:
        found, report = worker.step(r=(first, stop))
        out[first:stop] = found["r"]
    assert torch.allclose(out, wanted, atol=1e-5)
    (count,) = report.gates["r"]
    tokens = TOKENS - PROMPT + 1
    assert count[:3] == (tokens, passes * tokens, passes)
    assert count.value == pytest.approx(told, abs=1e-5)


def test_a_prompt_out_of_a_cache_decides_nothing() -> None:
    gate = PlannedGate(digest(9), POINT, "cosine", 0.0, over="prompt_mean")
    for over, first in (("prompt_mean", 4), ("prompt_last", 9)):
        worker = Worker()
        worker.start("r", Plan((use(replace(gate, over=over), "generation"),)))  # type: ignore[arg-type]
        _, report = worker.step(r=(first, 10))
        assert report.failed.keys() == {"r"}
