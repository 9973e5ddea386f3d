"""Runs all cells of a grid: the unsteered one first, then the others, with few requests at a
time."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from steersman.client.errors import CliError, Refused
from steersman.client.sweep.ask import Answer, Asker, perplexity, repetition
from steersman.client.sweep.grid import UNSTEERED, Cell, grid
from steersman.client.sweep.measures import Measure


@dataclass(frozen=True)
class Scored:
    """An answer, its measure, and its log-probabilities under the unsteered model."""

    answer: Answer
    measure: float | None
    log_probabilities: tuple[float, ...]


@dataclass(frozen=True)
class CellResult:
    """Means over the prompts. All numbers of a cell that the server refused are NaN."""

    cell: Cell
    measure: float = math.nan
    error: float = math.nan
    """Standard error of `measure`, over prompts; NaN with fewer than two."""
    gain: float = math.nan
    """Mean difference from the unsteered answers to the same prompts."""
    gain_error: float = math.nan
    """Standard error of `gain`; NaN with fewer than three prompts that both were measured at."""
    perplexity: float = math.nan
    repetition: float = math.nan
    tokens: int = 0
    unmeasured: int = 0
    """Answers to which the measure gave no number; `measure` leaves them out."""
    relative_dose: Mapping[str, float] | None = None
    refused: str | None = None
    answers: Sequence[Scored] = field(default=(), repr=False)


async def sweep(
    asker: Asker,
    measure: Measure,
    layer_sets: Sequence[tuple[int, ...]],
    coefficients: Sequence[float],
    prompts: Sequence[str],
    *,
    parallel: int = 16,
    on_answer: Callable[[], None] = lambda: None,
    on_unsteered: Callable[[float, int], None] = lambda _seconds, _answers: None,
) -> list[CellResult]:
    """Every cell, the unsteered one first. `on_answer` is called when an answer is done with,
    `on_unsteered` when the first cell is, with the seconds that it took and how many answers there
    are still to come; what it raises ends the sweep.

    A cell whose dose the server does not allow is refused and the others go on. Raises `CliError`
    for whatever else goes wrong.
    """
    cells = grid(layer_sets, coefficients)
    turns = asyncio.Semaphore(parallel)
    refused: dict[Cell, str] = {}

    async def one(cell: Cell, prompt: str) -> Scored | None:
        async with turns:
            try:
                if cell not in refused:
                    return await _scored(asker, measure, cell, prompt)
            except Refused as error:
                if cell == UNSTEERED or not _is_about_steering(error):
                    raise
                refused[cell] = error.message
            finally:
                on_answer()
            return None

    try:
        await measure.prepare(asker.tokenize)
        began = time.monotonic()
        tasks: dict[Cell, list[asyncio.Task[Scored | None]]] = {}
        for some in ([UNSTEERED], cells[1:]):
            async with asyncio.TaskGroup() as group:
                for cell in some:
                    tasks[cell] = [group.create_task(one(cell, p)) for p in prompts]
            if some == [UNSTEERED]:
                on_unsteered(time.monotonic() - began, (len(cells) - 1) * len(prompts))
    except* CliError as errors:
        raise _first(errors) from None
    finally:
        await measure.close()
    found = {cell: [s for t in tasks[cell] if (s := t.result()) is not None] for cell in cells}
    return [
        CellResult(cell, refused=refused[cell])
        if cell in refused
        else _summary(cell, found[cell], found[UNSTEERED])
        for cell in cells
    ]


async def _scored(asker: Asker, measure: Measure, cell: Cell, prompt: str) -> Scored:
    answer = await asker.answer(prompt, cell, **measure.fields)
    log_probabilities = await asker.log_probabilities(answer)
    return Scored(answer, await measure.of(answer), tuple(log_probabilities))


def _summary(cell: Cell, answers: Sequence[Scored], unsteered: Sequence[Scored]) -> CellResult:
    before = {scored.answer.prompt: scored.measure for scored in unsteered}
    gains = [
        scored.measure - own
        for scored in answers
        if scored.measure is not None and (own := before.get(scored.answer.prompt)) is not None
    ]
    values = [scored.measure for scored in answers if scored.measure is not None]
    return CellResult(
        cell,
        measure=fmean(values) if values else math.nan,
        error=stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan,
        gain=fmean(gains) if gains else math.nan,
        gain_error=stdev(gains) / math.sqrt(len(gains)) if len(gains) > 2 else math.nan,
        perplexity=perplexity(scored.log_probabilities for scored in answers),
        repetition=fmean(repetition(scored.answer.tokens) for scored in answers),
        tokens=sum(len(scored.answer.tokens) for scored in answers),
        unmeasured=len(answers) - len(values),
        relative_dose=answers[0].answer.relative_dose,
        answers=tuple(answers),
    )


def _is_about_steering(error: Refused) -> bool:
    return error.status == 400 and (error.param or "").startswith("steering")


def _first(group: BaseExceptionGroup[CliError]) -> CliError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
