"""One extraction from its texts to the library."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from steersman.server.auth.library_view import View
from steersman.server.extraction.capture import Capturer
from steersman.server.extraction.examples import BadRow, Example, Reader
from steersman.server.extraction.fit import Place, fit, fit_steps
from steersman.server.extraction.jobs.job import Job, on_disk
from steersman.server.extraction.jobs.store import RowStore
from steersman.server.extraction.jobs.threads import Stop, in_thread
from steersman.server.extraction.look import samples, warnings
from steersman.server.extraction.pace import Pace
from steersman.server.extraction.request import SIDES, ExtractRequest, Row, settled
from steersman.steering.plan.step_clock import STEPS
from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.methods import ActivationsInvalid, StepMeans
from steersman.vectors.methods.rows import check_count

logger = logging.getLogger("vllm.steersman")

AT_ONCE = 64
"""Most texts in flight; `pace.py` has how many may be."""
STEPWISE_AT_ONCE = 16
"""The same for `per_step`, whose texts come with a row for each step."""


@dataclass(frozen=True)
class Bench:
    """What jobs run on."""

    engine: Any
    tokenizer: Any
    library: View
    """As whoever submitted the job sees it."""
    most_tokens: int
    """The model's context, in tokens."""
    most_row_bytes: int
    """Of a job's rows, on disk; of `per_step`'s, in memory."""
    scratch: Path
    extract_share: float
    """Of the engine, while others use it."""
    place: Callable[[str, tuple[int, ...]], Place]
    """(site, layers) -> what is known of it."""
    on_change: Callable[[str, str, str | None], None]
    max_steps: int | None = None
    """Most generation steps of a vector that the server takes."""
    chat_template: str | None = None
    """The server's own; None: the tokenizer's."""

    def reader(self, request: ExtractRequest) -> Reader:
        """Reads the texts of a request."""
        return Reader(request, self.tokenizer, self.most_tokens, self.chat_template)


class _Work(NamedTuple):
    """A job whose texts are read."""

    job: Job
    request: ExtractRequest
    examples: list[Example]
    capturer: Capturer
    place: Place
    bench: Bench


async def run(job: Job, request: ExtractRequest, rows: list[Row], bench: Bench) -> None:
    """Make the vector(s) and put their ids into `job.result`. Raises `VectorInvalid`,
    `ActivationsInvalid`, `CaptureFailed` and the library's errors."""
    request = settled(request, rows)
    place = bench.place(request.capture_site, tuple(request.layers or ()))
    await job.enter("reading")
    examples = await in_thread(job, partial(_readable, job, request, rows, bench.reader(request)))
    _check_labels(job, request, examples)
    job.samples = samples(examples, bench.tokenizer)
    job.warnings += warnings(request, examples, bench.tokenizer)
    job.total = len(examples)
    await job.enter("capturing")
    terms = tuple((place.site, layer) for layer in place.layers)
    capturer = Capturer(bench.engine, terms, request.reproducible)
    work = _Work(job, request, examples, capturer, place, bench)
    if request.method == "per_step":
        vectors = [await _stepwise(work)]
    else:
        vectors = await _rowwise(work)
    await job.enter("keeping")
    job.warnings += [said for vector in vectors if (said := _without_evidence(vector))]
    await in_thread(job, partial(_keep, job, vectors, bench))


def _without_evidence(vector: SteeringVector) -> dict[str, str] | None:
    quality = vector.method_settings["quality"]
    if quality["recommended"] is not None or vector.method == "per_step":
        return None
    return {
        "code": "not_recommended",
        "message": f"{vector.name}: no layer and no coefficient are recommended: "
        f"{quality['reason']}",
    }


def _keep(job: Job, vectors: list[SteeringVector], bench: Bench, stop: Stop) -> None:
    for vector in vectors:
        stop()
        entry, _ = bench.library.add(write_vector(vector))
        bench.on_change("created", entry.name, entry.digest)
        job.result.append(f"{entry.name}@{entry.digest.removeprefix('sha256:')[:12]}")


def _readable(
    job: Job, request: ExtractRequest, rows: Iterable[Row], reader: Reader, stop: Stop
) -> list[Example]:
    """Those that can be read; the others are named in `job`, and take their pair with them."""
    found, bad = [], set[tuple[str, int]]()
    for row in rows:
        stop()
        try:
            found.append(reader.read(row))
        except BadRow as error:
            bad.add(row.pair)
            job.bad_rows.append({"row": row.number, "label": row.label, "reason": str(error)})
    if request.how.paired:
        found = [example for example in found if example.pair not in bad]
        # However they were mixed, counterparts are at the same place among their side's.
        found.sort(key=lambda example: example.pair)
    return found


def _check_labels(job: Job, request: ExtractRequest, examples: list[Example]) -> None:
    """What the methods would find too little of, found before anything is captured."""
    try:
        _check_enough(request, examples)
    except (VectorInvalid, ActivationsInvalid) as error:
        if job.bad_rows:
            first = job.bad_rows[0]
            error.message += (
                f"; {len(job.bad_rows)} rows could not be read, the first of them row "
                f"{first['row']}, which {first['reason']}"
            )
            error.args = (error.message,)
        raise


def _check_enough(request: ExtractRequest, examples: list[Example]) -> None:
    labels = Counter(example.label for example in examples)
    if request.how.inputs == "styles":
        if len(labels) < 2:
            raise VectorInvalid(
                "there are texts of fewer than two styles", param="styles", code="too_few_rows"
            )
    elif labels.keys() != set(SIDES):
        raise VectorInvalid(
            f"{request.method} needs texts that are positive and negative; there are "
            f"{shown(', '.join(sorted(labels))) if labels else 'none'}",
            param="pairs",
            code="too_few_rows",
        )
    for label, count in labels.items():
        check_count(count, label)


async def _rowwise(work: _Work) -> list[SteeringVector]:
    job, request, examples, capturer, place, bench = work
    hidden = place.base_model.hidden_size or 0
    size = 4 * len(examples) * len(place.layers) * hidden
    if size > bench.most_row_bytes:
        raise VectorInvalid(
            f"{len(examples)} texts at {len(place.layers)} layers take {size >> 20} MiB, at most "
            f"{bench.most_row_bytes >> 20} are kept: name fewer layers or send fewer texts",
            param="layers",
            code="too_many_rows",
        )
    counts: Counter[str] = Counter()
    places = []
    for example in examples:
        places.append(counts[example.label])
        counts[example.label] += 1
    shape = (len(place.layers), hidden)
    store = await in_thread(job, lambda _: RowStore(bench.scratch, counts, shape))
    with closing(store):

        async def take(n: int) -> None:
            found = await capturer.capture(examples[n])
            await on_disk(store.put, examples[n].label, places[n], found.values)

        await _take_all(work, take, AT_ONCE)
        await job.enter("fitting")

        def fitted(stop: Stop) -> list[SteeringVector]:
            return fit(request, {label: store.rows(label) for label in counts}, place, stop)

        return await in_thread(job, fitted)


async def _stepwise(work: _Work) -> SteeringVector:
    job, request, examples, capturer, place, bench = work
    one = 4 * request.steps * len(place.layers) * (place.base_model.hidden_size or 0)
    # Four more: the means are kept in float64, of two sides.
    size = one * (STEPWISE_AT_ONCE + 4)
    if size > bench.most_row_bytes:
        raise VectorInvalid(
            f"{request.steps} steps at {len(place.layers)} layers take {size >> 20} MiB of memory, "
            f"at most {bench.most_row_bytes >> 20} are allowed: name fewer layers or fewer steps",
            param="steps",
            code="too_many_steps",
        )
    sides = {label: StepMeans(label) for label in SIDES}
    captured: dict[int, torch.Tensor] = {}
    counted = 0
    # No text runs further ahead of those that count: what waits for a slow one is in memory.
    ahead = asyncio.Semaphore(STEPWISE_AT_ONCE)

    async def take(n: int) -> None:
        nonlocal counted
        await ahead.acquire()
        found = await capturer.capture(examples[n], each=True)
        captured[n] = torch.from_numpy(found.values)
        # In their order, whichever ends first: sums of floats depend on it.
        while counted in captured:
            sides[examples[counted].label].add(captured.pop(counted))
            counted += 1
            ahead.release()

    await _take_all(work, take, STEPWISE_AT_ONCE)
    await job.enter("fitting")
    return await in_thread(job, lambda _: fit_steps(request, sides, place))


async def _take_all(
    work: _Work, take: Callable[[int], Coroutine[Any, Any, None]], at_once: int
) -> None:
    """Take all of the job's texts: `at_once` at most, and beside others only a share of the
    engine."""
    job, capturer = work.job, work.capturer
    at_once = 1 if work.request.reproducible else at_once
    pace = Pace(work.bench.extract_share, STEPS, capturer.others_in_flight, at_once)
    running: dict[asyncio.Task[None], float] = {}
    """What each is to cost the engine, in seconds."""

    async def one(n: int) -> None:
        began = time.monotonic()
        await take(n)
        pace.took(work.examples[n], time.monotonic() - began)

    async def wait(seconds: float | None) -> None:
        """For the next text to end, at most so long."""
        done, _ = await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            del running[task]
            task.result()
            await job.advance()

    try:
        with STEPS.watch():
            for n, example in enumerate(work.examples):
                await on_disk(job.check)
                while pause := pace.pause(
                    cost := pace.cost(example), len(running), sum(running.values())
                ):
                    await (wait(pause) if running else asyncio.sleep(pause))
                pace.spend(cost)
                capturer.portion = pace.portion()
                running[asyncio.create_task(one(n))] = cost
            while running:
                await wait(None)
            logger.debug(
                "%s: %d texts read; s a step without them %s, a token of theirs %s",
                job.id, job.total, STEPS.plain, STEPS.by_token,
            )  # fmt: skip
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
