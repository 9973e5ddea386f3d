"""One extraction from its texts to the library."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from functools import partial

import torch

from steersman.server.extraction.capture import CaptureClient, Work, stored, take_all
from steersman.server.extraction.context import ExtractionContext
from steersman.server.extraction.examples import BadSample, Example, Reader, shown_samples, warnings
from steersman.server.extraction.fit import fit, fit_steps
from steersman.server.extraction.job import Job, Phase, Stop, in_thread
from steersman.server.extraction.request import ExtractRequest
from steersman.server.extraction.samples import SIDES, Sample, settled
from steersman.server.extraction.trials.ablation import by_trials
from steersman.vectors.digest import short
from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.methods import ActivationsInvalid, StepMeans
from steersman.vectors.methods.activations import check_count
from steersman.vectors.tensors import HookPoint

STEPWISE_AT_ONCE = 16
"""Most texts in flight for `per_step`, whose texts come with a row for each step."""


async def run(
    job: Job, request: ExtractRequest, samples: list[Sample], context: ExtractionContext
) -> None:
    """Make the vectors and put their ids into `job.result`. Raises `VectorInvalid`,
    `ActivationsInvalid`, `CaptureFailed` and the library's errors."""
    request = settled(request, samples)
    place = context.place(request.capture_site, tuple(request.layers or ()))
    reader = context.reader(request)
    await job.enter(Phase.READING)
    examples = await in_thread(job, partial(_readable, job, request, samples, reader))
    _check_labels(job, request, examples)
    job.samples = shown_samples(examples, context.tokenizer)
    job.warnings += warnings(request, examples, context.tokenizer)
    job.total = len(examples)
    await job.enter(Phase.CAPTURING)
    terms = tuple(HookPoint(place.site, layer) for layer in place.layers)
    client = CaptureClient(context.engine, terms, request.reproducible)
    work = Work(job, request, examples, client, place, context)
    if request.method == "per_step":
        vectors = [await _by_step(work)]
    elif request.how.trials:
        vectors = [await by_trials(work)]
    else:
        vectors = await _by_sample(work)
    await job.enter(Phase.KEEPING)
    job.warnings += [said for vector in vectors if (said := _without_evidence(vector))]
    await in_thread(job, partial(_keep, job, vectors, context))


def _without_evidence(vector: SteeringVector) -> dict[str, str] | None:
    quality = vector.method_settings["quality"]
    if quality["recommended"] is not None or vector.method == "per_step":
        return None
    return {
        "code": "not_recommended",
        "message": f"{vector.name}: no layer and no "
        f"{'threshold' if 'gate' in vector.method_settings else 'coefficient'} are recommended: "
        f"{quality['reason']}",
    }


def _keep(job: Job, vectors: list[SteeringVector], context: ExtractionContext, stop: Stop) -> None:
    for vector in vectors:
        stop()
        entry, _ = context.library.add(write_vector(vector))
        context.on_change("created", entry.name, entry.digest)
        job.result.append(f"{entry.name}@{short(entry.digest)}")


def _readable(
    job: Job, request: ExtractRequest, samples: Iterable[Sample], reader: Reader, stop: Stop
) -> list[Example]:
    """The samples that can be read. The others are listed in `job`, and their counterparts are left
    out too."""
    found, bad = [], set[tuple[str, int]]()
    for sample in samples:
        stop()
        try:
            found.append(reader.read(sample))
        except BadSample as error:
            bad.add(sample.pair)
            job.bad_rows.append({"row": sample.number, "label": sample.label, "reason": str(error)})
    if request.how.paired:
        found = [example for example in found if example.pair not in bad]
        # However they were mixed, counterparts are at the same place among their side's.
        found.sort(key=lambda example: example.pair)
    return found


def _check_labels(job: Job, request: ExtractRequest, examples: list[Example]) -> None:
    """Raise, before anything is captured, if the method would find too few texts."""
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


async def _by_sample(work: Work) -> list[SteeringVector]:
    job, request, examples, _, place, _ = work
    async with stored(work) as store:
        await job.enter(Phase.FITTING)
        labels = dict.fromkeys(example.label for example in examples)

        def fitted(stop: Stop) -> list[SteeringVector]:
            return fit(request, {label: store.activations(label) for label in labels}, place, stop)

        return await in_thread(job, fitted)


async def _by_step(work: Work) -> SteeringVector:
    job, request, examples, client, place, context = work
    one = 4 * request.steps * len(place.layers) * (place.base_model.hidden_size or 0)
    # Four more: the means are kept in float64, of two sides.
    size = one * (STEPWISE_AT_ONCE + 4)
    if size > context.most_activation_bytes:
        raise VectorInvalid(
            f"{request.steps} steps at {len(place.layers)} layers take {size >> 20} MiB of memory, "
            f"at most {context.most_activation_bytes >> 20} are allowed: name fewer layers or "
            "fewer steps",
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
        found = await client.capture(examples[n], each=True)
        captured[n] = torch.from_numpy(found.values)
        # In their order, whichever ends first: sums of floats depend on it.
        while counted in captured:
            sides[examples[counted].label].add(captured.pop(counted))
            counted += 1
            ahead.release()

    await take_all(work, take, STEPWISE_AT_ONCE)
    await job.enter(Phase.FITTING)
    return await in_thread(job, lambda _: fit_steps(request, sides, place))
