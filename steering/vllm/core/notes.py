"""Notes on the outputs of requests, on their way from the worker to the front end.

They travel in `EngineCoreOutput.kv_transfer_params`, the one free-form field that reaches the front
end: the notes of steered requests, what was captured of a request, how much of the step was
captured, and the refusal of a request that ends in error.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from steersman.steering.plan.capture import CAPTURE_KEY, STEP_KEY
from steersman.steering.plan.plan import PLAN_KEY
from steersman.steering.plan.receipt import (
    WAITING_KEY,
    GateCount,
    Pace,
    StepReport,
    Waiting,
    WorkerNote,
)
from steersman.steering.scheduler.loads import LoadBook
from steersman.steering.vllm.core.request import keep_reads, noted, plan_of, take_reads

if TYPE_CHECKING:
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
    from vllm.v1.request import Request

Ended = list[tuple[int, "EngineCoreOutput"]]
"""Last outputs of requests that were ended, as (client index, output)."""


class Loaded(NamedTuple):
    """What was loaded for a request first."""

    vectors_resident: int
    load_seconds: tuple[float, ...]
    """As in `WorkerNote`."""


def loads_of(book: LoadBook, requests: Iterable[str]) -> dict[str, Loaded]:
    """What was loaded for each of some requests first, where anything was. Call before they
    end."""
    found = book.seconds_of(requests)
    resident = book.vectors if found else -1
    return {name: Loaded(resident, seconds) for name, seconds in found.items()}


def attach(
    outputs: "Mapping[int, EngineCoreOutputs]",
    report: StepReport,
    requests: "Mapping[str, Request | None]",
    paces: Mapping[str, Pace],
    loads: Mapping[str, Loaded],
) -> None:
    """Put the notes and captures of `report` on the step's outputs.

    `outputs`: by client index. `requests`: vLLM's request for each steered id, looked up before the
    end of the step removes those that ended in it. `paces`: the paces of dynamic answers, by
    request id. `loads`: what was loaded for requests, by id; it goes with their first note.
    """
    for name, chunks in report.read.items():
        if (reader := requests.get(name)) is not None:
            keep_reads(reader, chunks)
    for client in outputs.values():
        for output in client.outputs:
            name = output.request_id
            request = requests.get(name)
            if request is not None:
                first, reads = not noted(request), take_reads(request)
                news = first or output.finished or name in report.choices or name in paces
                # What a gate passes cannot be counted in advance.
                news = news or bool(reads) or name in report.gates
                note = note_of(report, request) if news else None
                if note is not None:
                    note = note._replace(pace=paces.get(name, note.pace), reads=tuple(reads))
                    if first and name in loads:
                        note = note._replace(**loads[name]._asdict())
                    put(output, PLAN_KEY, note.to_wire())
            if name in report.captured:
                put(output, CAPTURE_KEY, report.captured[name])


def attach_captured(outputs: "Mapping[int, EngineCoreOutputs]", captured: tuple[int, int]) -> None:
    """Put the counts of captured tokens and sequences in the step on the first output of each
    client."""
    for client in outputs.values():
        for output in client.outputs[:1]:
            put(output, STEP_KEY, list(captured))


def attach_waiting(outputs: "dict[int, EngineCoreOutputs]", now: Waiting, before: Waiting) -> None:
    """Add to the outputs of the first client how many requests wait, if others did `before`: on an
    output of its own, because those that wait have none."""
    from vllm.v1.engine import EngineCoreOutput

    if now != before:
        output = EngineCoreOutput(WAITING_KEY, [], kv_transfer_params={WAITING_KEY: list(now)})
        append(outputs, [(0, output)])


def append(outputs: "dict[int, EngineCoreOutputs]", ended: Ended) -> None:
    """Add the last outputs of requests that were ended to a step's outputs."""
    from vllm.v1.engine import EngineCoreOutputs

    for client_index, output in ended:
        outputs.setdefault(client_index, EngineCoreOutputs()).outputs.append(output)


def note_of(report: StepReport, request: "Request") -> WorkerNote | None:
    """The note on a steered request, or None for a request without a plan. Tokens that the report
    counts and the request does not have are taken off: drafts that were rejected or lie behind the
    answer's end, and the last token, which is sampled but not computed yet."""
    name, last = request.request_id, request.num_tokens - 1
    plan = plan_of(request)
    if plan is None:
        return None
    spans = plan.layout(request.num_prompt_tokens).spans
    reach, choices = report.reach[name], report.choices.get(name, ())
    counts = list(report.counts[name])
    gates: tuple[GateCount, ...] = ()
    if plan.conditional:
        spans = tuple((0, 0) if n in plan.conditional else span for n, span in enumerate(spans))
        gates = tuple(step.upto(last) for step in report.gates.get(name, ()))
        # In the place of the tokens of a use's positions, those at which its gate passed.
        for n, gate in zip(plan.conditional, gates, strict=False):
            counts[n] = gate.passed
    note = WorkerNote(plan.receipt, tuple(counts), -1, (), choices, reach=reach, spans=spans,
                      gates=gates)  # fmt: skip
    return note.advanced(last - reach) if reach > last else note


def put(output: "EngineCoreOutput", key: str, wire: Any) -> None:
    """Add `wire` to an output under `key`. `wire` has only types that vLLM's message encoding
    accepts."""
    output.kv_transfer_params = {**(output.kv_transfer_params or {}), key: wire}
