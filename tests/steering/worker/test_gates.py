"""Gates in the layers of a tiny model. Its tokens do not see each other: each is steered or not."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steersman.steering.plan import PLAN_KEY, Plan, PlannedVector
from steersman.steering.plan.receipt import GateCount, StepReport
from steersman.steering.plan.when.gates import MEASURES, PlannedGate
from steersman.steering.worker.gating.uses import StepTokens
from steersman.steering.worker.loads.vector_bank import VectorBank
from steersman.steering.worker.requests import SteeredRequests
from steersman.vectors.tensors import HookPoint
from tests.reference import interventions as slow
from tests.steering.worker.test_reading import LAYERS, Reading, decoder
from tests.support.steering.make import digest, limits
from tests.support.steering.tiny import HIDDEN

POINT = HookPoint("resid_post", 0)
TOKENS = 12
PROMPT = 9
DIRECTION = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(4))
TEXT = (5, 3, 3, 5, 0, 1, 2, 3, 4, 8, 7, 6)
STREAM = torch.randn(TOKENS, HIDDEN, generator=torch.Generator().manual_seed(5))


def content(name: str, point: HookPoint) -> Tensor:
    if name == digest(9):
        return DIRECTION
    generator = torch.Generator().manual_seed(int(name[-4:], 16) * 10 + point.layer)
    return torch.randn(HIDDEN, generator=generator)


class Worker:
    """Everything of a worker but vLLM."""

    def __init__(self, *, always: bool = False) -> None:
        self.reading = Reading(decoder(), always=always, entries=16)
        self.counts: dict[str, tuple[GateCount, ...]] = {}
        """Of each request, up to its last step."""
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
        self.requests.start(name, {PLAN_KEY: plan.to_json()}, PROMPT, TEXT[:PROMPT])
        assert not self.requests.failed

    def step(
        self, text: tuple[int, ...] = TEXT, late: int = 0, **batch: tuple[int, int]
    ) -> tuple[dict[str, Tensor], StepReport]:
        """Compute the tokens [first, stop) of some requests, whose ids `text` has: their final
        states, and the report. `late`: by how much the host believes a request further on than it
        is."""
        self.requests.sync_batch({name: n for n, name in enumerate(batch)})
        offset, spans, parts = 0, [], []
        ids: list[int] = []
        positions: list[int] = []
        for name, (first, stop) in batch.items():
            if name in self.requests.live:
                spans.append((name, offset, stop - first, first + late))
            parts.append(STREAM[first:stop])
            ids += text[first:stop]
            positions += range(first, stop)
            offset += stop - first
        inputs = StepTokens(torch.tensor(ids, dtype=torch.int32), torch.tensor(positions))
        self.tables.guessed.positions = inputs.positions
        self.requests.step(spans, offset, inputs)
        self.reading.active.set(self.requests.active_slots)
        out = self.reading.model(torch.cat(parts))
        report = self.requests.take_report()
        assert report is not None
        measured = self.tables.gates.take()
        for name, counts in measured.read().items() if measured else ():
            report.gates[name] = tuple(counts.values())
            self.counts[name] = tuple(one.total for one in counts.values())
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
@pytest.mark.parametrize("always", [False, True], ids=["python", "graphs"])
def test_each_token_is_steered_or_untouched(measure: str, below: bool, always: bool) -> None:
    values = [value(h, measure) for h in at_point()]
    gate = PlannedGate(digest(9), POINT, measure, between(values), below)  # type: ignore[arg-type]
    plain, steered = whole(None), whole(Plan((use(None),)))
    worker = Worker(always=always)
    worker.start("r", Plan((use(gate),)))
    worker.start("s", Plan((use(None),)))
    passed = [(one < gate.threshold) if below else (one > gate.threshold) for one in values]
    found = []
    for first, stop in ((0, 5), (5, 6), (6, 12)):
        out, _ = worker.step(r=(first, stop), s=(first, stop), plain=(first, stop))
        found.append(out["r"])
        assert worker.counts["r"] == (GateCount(stop, sum(passed[:stop])),)
        assert torch.equal(out["plain"], plain[first:stop])
        assert torch.allclose(out["s"], steered[first:stop], atol=1e-6)
    assert 0 < sum(passed) < TOKENS
    for token, one in enumerate(torch.cat(found)):
        if passed[token]:
            assert torch.allclose(one, steered[token], atol=1e-6)
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
@pytest.mark.parametrize("graphs", [False, True])
def test_what_the_prompt_decides_holds(
    over: str, passes: bool, graphs: bool, chunks: list[tuple[int, int]]
) -> None:
    h = at_point()[:PROMPT]
    told = value(h[-1] if over == "prompt_last" else h.mean(0), "cosine")
    threshold = told - 0.01 if passes else told + 0.01
    gate = PlannedGate(digest(9), POINT, "cosine", threshold, over=over)  # type: ignore[arg-type]
    plan = Plan((use(None, "prompt"), use(gate, "generation")))
    closed = Plan((use(None, "prompt"),))
    always = Plan((use(None, "prompt"), use(None, "generation")))
    wanted = whole(always if passes else closed)
    worker = Worker(always=graphs)
    worker.start("r", plan)
    out = torch.full_like(wanted, torch.nan)
    for first, stop in chunks:
        found, _ = worker.step(r=(first, stop))
        out[first:stop] = found["r"]
    assert torch.allclose(out, wanted, atol=1e-5)
    (count,) = worker.counts["r"]
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


MARKERS = ("3", "3,4", "4,8", "8,7", "4,8,7", "6", "9", "5,3")
"""In the prompt, over its end, in the answer, at the end, and nowhere."""


def is_at(rule: str, text: tuple[int, ...], t: int) -> bool:
    side, _, ids = rule.partition(":")
    return slow.is_at(t, PROMPT, {side: [*map(int, ids.split(","))]}, text)


@pytest.mark.parametrize("ids", MARKERS)
@pytest.mark.parametrize("side", ["after", "until"])
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_markers_however_the_tokens_come(side: str, ids: str, graphs: bool, gated: bool) -> None:
    rule = f"{side}:{ids}"
    values = [value(h, "cosine") for h in at_point()]
    gate = PlannedGate(digest(9), POINT, "cosine", between(values)) if gated else None
    plain, steered = whole(None), whole(Plan((use(None),)))
    acts = [
        is_at(rule, TEXT, t) and (gate is None or values[t] > gate.threshold) for t in range(TOKENS)
    ]
    for chunks in CHUNKS:
        worker = Worker(always=graphs)
        worker.start("r", Plan((use(gate, rule),)))
        out = torch.full_like(plain, torch.nan)
        for first, stop in chunks:
            found, _ = worker.step(r=(first, stop))
            out[first:stop] = found["r"]
        for t in range(TOKENS):
            if acts[t]:
                assert torch.allclose(out[t], steered[t], atol=1e-6)
            else:
                assert torch.equal(out[t], plain[t])
        named = sum(is_at(rule, TEXT, t) for t in range(TOKENS))
        assert worker.counts["r"] == (GateCount(named, sum(acts)),)


@pytest.mark.parametrize("ids", ["7", "8,7", "7,7", "6", "4,7"])
@pytest.mark.parametrize("side", ["after", "until"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_rejected_drafts_leave_nothing(side: str, ids: str, asynchronous: bool) -> None:
    """A marker that ended in a draft was not there, and no such token is counted."""
    rule = f"{side}:{ids}"
    drafted = (*TEXT[:PROMPT], 7, 7, 6)
    values = [value(h, "cosine") for h in at_point()]
    gate = PlannedGate(digest(9), POINT, "cosine", between(values))
    plain, steered = whole(None), whole(Plan((use(None),)))
    worker = Worker()
    worker.requests.guessed = 3 if asynchronous else 0
    worker.start("r", Plan((use(None, rule), use(gate, "generation"))))
    worker.step(r=(0, PROMPT))
    # Two drafts behind the first new token, all of them wrong; then one at a time.
    _, report = worker.step(drafted, r=(PROMPT, TOKENS))
    marked, by_gate = report.gates["r"]
    true = [is_at(rule, drafted, t) for t in range(TOKENS)]
    assert marked.upto(TOKENS).tokens == sum(true)
    assert marked.upto(PROMPT + 1).tokens == sum(true[: PROMPT + 1])
    assert by_gate.upto(PROMPT + 1).tokens == 2
    rewritten = (*TEXT[:PROMPT], 8, 7, 6)
    late = 2 if asynchronous else 0
    for first in range(PROMPT, TOKENS):
        found, report = worker.step(rewritten, late, r=(first, first + 1))
        marked, by_gate = report.gates["r"]
        now = [is_at(rule, rewritten, t) for t in range(first + 1)]
        assert marked.upto(first + 1).tokens == sum(now)
        assert marked.total.passed == sum(now)
        assert by_gate.total.tokens == first + 2 - PROMPT
        passed = sum(one > gate.threshold for one in values[PROMPT - 1 : first + 1])
        assert by_gate.total.passed == passed
        acts = now[first] + (values[first] > gate.threshold)
        if acts == 1:
            assert torch.allclose(found["r"][0], steered[first], atol=1e-6)
        elif not acts:
            assert torch.equal(found["r"][0], plain[first])
