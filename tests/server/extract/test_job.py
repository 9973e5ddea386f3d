"""A job from its rows to the library, on an engine that is made up."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.extract.job import STEPWISE_AT_ONCE, Bench, run
from server.extract.request import json_lines, read_request, rows_of
from server.extract.state import Job
from tests.server.extract.fakes import LAYERS, Engine, make_bench, stream_of
from vectors.errors import SteersmanError
from vectors.format import SteeringVector, read_vector


async def made(
    bench: Bench, *lines: dict[str, Any], **request: Any
) -> tuple[Job, SteeringVector | None]:
    """The job and, if there is one, its vector."""
    wanted = read_request(json.dumps({"name": "x", **request}))
    found = json_lines("\n".join(map(json.dumps, lines)).encode()) if lines else None
    job = Job("job-1", wanted.method, wanted.name)
    await run(job, wanted, list(rows_of(wanted, found)), bench)
    return job, read_vector(bench.library.resolve("x").path.read_bytes())


async def test_a_bad_text_takes_its_counterpart_along(tmp_path: Path) -> None:
    """Of lines with one text each: the second positive and the fifth negative are bad, so that as
    many are left on each side, and would be paired wrongly."""
    glad, sad = [f"glad {n}" for n in range(6)], [f"sad {n}" for n in range(6)]
    glad[1] = sad[4] = ""
    lines = [{"text": text, "label": "positive"} for text in glad]
    lines += [{"text": text, "label": "negative"} for text in sad]
    job, vector = await made(make_bench(tmp_path, Engine()), *lines, method="caa", tokens="last")
    assert [(bad["row"], bad["label"]) for bad in job.bad_rows] == [
        (2, "positive"), (11, "negative"),
    ]  # fmt: skip
    pairs = [(glad[n], sad[n]) for n in (0, 2, 3, 5)]
    expected = np.mean([stream_of(p) - stream_of(n) for p, n in pairs], axis=0)
    for layer in range(LAYERS):
        found = vector.tensors["resid_post", layer].numpy()
        np.testing.assert_allclose(found, expected[layer], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "caa", "tokens": "last", "pairs": [["glad", "sad"], ["glad", ""]]},
        {"method": "mean_difference", "positive": ["one", "two"], "negative": ["three"]},
        {"method": "per_step", "positive": ["one"], "negative": ["three", "four"]},
        {"method": "style", "styles": {"a": ["one", "two"], "b": ["three", "four"], "c": ["five"]}},
        {"method": "mean_difference", "styles": {"y" * 100: ["one", "two"]}},
    ],
)
async def test_too_few_rows_are_found_before_anything_is_captured(
    tmp_path: Path, request_: dict[str, Any]
) -> None:
    engine = Engine()
    with pytest.raises(SteersmanError) as caught:
        await made(make_bench(tmp_path, engine), **request_)
    assert caught.value.code == "too_few_rows"
    assert len(str(caught.value)) < 200
    assert not engine.asked


async def test_steps_that_do_not_go_into_memory(tmp_path: Path) -> None:
    engine = Engine()
    bench = make_bench(tmp_path, engine, most_row_bytes=20_000)
    sides = {"positive": ["one", "two"], "negative": ["three", "four"]}
    with pytest.raises(SteersmanError, match="fewer layers or fewer steps") as caught:
        await made(bench, method="per_step", steps=30, **sides)
    assert (caught.value.param, engine.asked) == ("steps", [])
    await made(bench, method="per_step", steps=30, layers=[1], **sides)


async def test_texts_by_step_do_not_run_ahead_of_a_slow_one(tmp_path: Path) -> None:
    sides = {"positive": [f"glad {n}" for n in range(50)], "negative": ["sad 1", "sad 2"]}
    engine = Engine(slow=("glad 0",))
    job = asyncio.create_task(
        made(make_bench(tmp_path, engine), method="per_step", steps=2, **sides)
    )
    await asyncio.wait_for(engine.waits.wait(), 10)
    await asyncio.sleep(0.2)
    assert len(engine.asked) == STEPWISE_AT_ONCE
    engine.go.set()
    await job
    assert len(engine.asked) == 52


@pytest.mark.parametrize("reproducible", [False, True])
async def test_reproducible_reads_nothing_from_the_cache(
    tmp_path: Path, reproducible: bool
) -> None:
    engine = Engine()
    pairs = [["glad 1", "sad 1"], ["glad 2", "sad 2"]]
    await made(
        make_bench(tmp_path, engine), method="mean_difference", pairs=pairs,
        reproducible=reproducible,
    )  # fmt: skip
    assert [p.skip_reading_prefix_cache for _, p in engine.asked] == [reproducible] * 4
