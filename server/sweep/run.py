"""All cells of a grid at once, with a bounded number of answers in flight."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from server.cli.errors import CliError, Refused
from server.sweep.ask import Answer, Asker
from server.sweep.fluency import perplexity, repetition
from server.sweep.grid import UNSTEERED, Cell, grid
from server.sweep.measures import Measure


@dataclass(frozen=True)
class Scored:
    """An answer, its measure, and its log-probabilities under the unsteered model."""

    answer: Answer
    measure: float | None
    log_probabilities: tuple[float, ...]


@dataclass(frozen=True)
class CellResult:
    """Means over the prompts. Of a cell that the server refused all numbers are NaN."""

    cell: Cell
    measure: float = math.nan
    error: float = math.nan
    """Standard error of `measure`, over prompts; NaN with fewer than two."""
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
) -> list[CellResult]:
    """Every cell, the unsteered one first. `on_answer` is called when an answer is done with.

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
        async with asyncio.TaskGroup() as group:
            tasks = {cell: [group.create_task(one(cell, p)) for p in prompts] for cell in cells}
    except* CliError as errors:
        raise _first(errors) from None
    finally:
        await measure.close()
    return [
        CellResult(cell, refused=refused[cell])
        if cell in refused
        else _summary(cell, [scored for t in tasks[cell] if (scored := t.result()) is not None])
        for cell in cells
    ]


async def _scored(asker: Asker, measure: Measure, cell: Cell, prompt: str) -> Scored:
    answer = await asker.answer(prompt, cell, **measure.fields)
    log_probabilities = await asker.log_probabilities(answer)
    return Scored(answer, await measure.of(answer), tuple(log_probabilities))


def _summary(cell: Cell, answers: Sequence[Scored]) -> CellResult:
    values = [scored.measure for scored in answers if scored.measure is not None]
    return CellResult(
        cell,
        measure=fmean(values) if values else math.nan,
        error=stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan,
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
