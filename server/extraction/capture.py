"""Sends texts through the engine and captures their residual streams."""

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from steersman.server.extraction.context import ExtractionContext
from steersman.server.extraction.examples import Example
from steersman.server.extraction.fit import Place
from steersman.server.extraction.job import Job, in_thread, on_disk
from steersman.server.extraction.pace import Pace
from steersman.server.extraction.request import ExtractRequest
from steersman.server.extraction.store import ActivationStore
from steersman.steering.plan.capture import CAPTURE_KEY, Capture, CaptureResult
from steersman.steering.plan.inbox import CAPTURES, STEPS
from steersman.steering.plan.step_clock import CAPTURE_PREFIX
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.tensors import HookPoint

logger = logging.getLogger("vllm.steersman")

AT_ONCE: Final = 64
"""Most texts in flight; `pace.py` has how many may be."""


class CaptureFailed(RuntimeError):
    """The engine did not capture all tokens."""


@dataclass
class CaptureClient:
    """Captures through one engine (vLLM's `AsyncLLM`)."""

    engine: Any
    terms: tuple[HookPoint, ...]
    reproducible: bool = False
    in_flight: int = 0
    portion: int = 0
    """Most tokens of a text in a step beside others; 0: all."""

    def others_in_flight(self) -> int:
        """Number of requests of this API server's clients that the engine has not finished."""
        waiting: int = self.engine.output_processor.get_num_unfinished_requests()
        return waiting - self.in_flight

    async def capture(self, example: Example, *, each: bool = False) -> CaptureResult:
        """What the example's tokens have at each of `terms`: float32, see `CaptureResult`. Raises
        `CaptureFailed`."""
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        receipt = f"{CAPTURE_PREFIX}{secrets.token_hex(8)}"
        # Cut up, a text does not come out to the last bit what it is whole.
        portion = 0 if self.reproducible else self.portion
        wanted = Capture(receipt, self.terms, example.start, example.stop, each, portion)
        end = len(example.tokens)
        params = SamplingParams(
            temperature=0.0,
            max_tokens=max(1, example.stop - end + 1),
            extra_args={CAPTURE_KEY: wanted.to_json()},
            # The last token is always computed, the others are not if the cache has them; and
            # behind what the cache has, the last is not to the last bit what it is without.
            skip_reading_prefix_cache=self.reproducible or example.start < end - 1,
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=False,
        )
        CAPTURES.open(wanted)
        self.in_flight += 1
        final = None
        try:
            prompt = {"prompt_token_ids": list(example.tokens)}
            async for output in self.engine.generate(prompt, params, receipt):
                final = output
        finally:
            self.in_flight -= 1
            found = CAPTURES.close(receipt)
        expected = example.stop - example.start
        if final is not None and example.stop > end:
            expected = len(final.outputs[0].token_ids)
        if found is None or found.tokens != expected:
            raise CaptureFailed(
                f"{found.tokens if found else 0} of {expected} tokens were captured; the server's "
                "log has the reason"
            )
        return found


class Work(NamedTuple):
    """A job whose texts have been read; also what an activations request has captured."""

    job: Job
    request: ExtractRequest
    examples: list[Example]
    client: CaptureClient
    place: Place
    context: ExtractionContext


@asynccontextmanager
async def stored(work: Work, positions: int = 0) -> AsyncIterator[ActivationStore]:
    """Capture all of the job's texts: float32 [layers, hidden] for each; with `positions`, all of
    its tokens, of which there are so many: [positions * layers, hidden]. Raises `VectorInvalid` if
    that is more than is kept, and `CaptureFailed`."""
    job, _, examples, client, place, context = work
    hidden = place.base_model.hidden_size or 0
    shape = (max(1, positions) * len(place.layers), hidden)
    size = 4 * len(examples) * shape[0] * hidden
    if size > context.most_activation_bytes:
        raise VectorInvalid(
            f"{len(examples)} texts at {len(place.layers)} layers take {size >> 20} MiB, at most "
            f"{context.most_activation_bytes >> 20} are kept: name fewer layers or send fewer "
            "texts",
            param="layers",
            code="too_many_rows",
        )
    counts: Counter[str] = Counter()
    places = []
    for example in examples:
        places.append(counts[example.label])
        counts[example.label] += 1
    store = await in_thread(job, lambda _: ActivationStore(context.scratch, counts, shape))
    with closing(store):

        async def take(n: int) -> None:
            found = await client.capture(examples[n], each=positions > 0)
            await on_disk(store.put, examples[n].label, places[n], found.values.reshape(shape))

        await take_all(work, take, AT_ONCE)
        yield store


async def take_all(
    work: Work, take: Callable[[int], Coroutine[Any, Any, None]], at_once: int
) -> None:
    """Capture all of the job's texts, at most `at_once` at a time, and only a share of the engine
    while other requests run."""
    job, client = work.job, work.client
    at_once = 1 if work.request.reproducible else at_once
    pace = Pace(work.context.extract_share, STEPS, client.others_in_flight, at_once)
    running: dict[asyncio.Task[None], float] = {}
    """What each is to cost the engine, in seconds."""

    async def one(n: int) -> None:
        began = time.monotonic()
        await take(n)
        pace.took(work.examples[n], time.monotonic() - began)

    async def wait(seconds: float | None) -> None:
        """Wait for the next text to end, at most `seconds`."""
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
                client.portion = pace.portion()
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
