"""A job from its rows to the library, on an engine that is made up."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steersman.server.extraction.context import ExtractionContext
from steersman.server.extraction.job import Job
from steersman.server.extraction.pipeline import STEPWISE_AT_ONCE, run
from steersman.server.extraction.request import read_request
from steersman.server.extraction.samples import json_lines, samples_of
from steersman.vectors.errors import SteersmanError
from steersman.vectors.file.format import SteeringVector, read_vector
from steersman.vectors.tensors import HookPoint
from tests.support.server.extraction import LAYERS, Engine, make_context, stream_of


async def made(
    context: ExtractionContext, *lines: dict[str, Any], **request: Any
) -> tuple[Job, SteeringVector | None]:
    """The job and, if there is one, its vector."""
    wanted = read_request(json.dumps({"name": "x", **request}))
    found = json_lines("\n".join(map(json.dumps, lines)).encode()) if lines else None
    job = Job("job-1", wanted.method, wanted.name)
    await run(job, wanted, list(samples_of(wanted, found)), context)
    return job, read_vector(context.library.resolve("x").path.read_bytes())


async def test_a_bad_text_takes_its_counterpart_along(tmp_path: Path) -> None:
    """Of lines with one text each: the second positive and the fifth negative are bad, so that as
    many are left on each side, and would be paired wrongly."""
    glad, sad = [f"glad {n}" for n in range(6)], [f"sad {n}" for n in range(6)]
    glad[1] = sad[4] = ""
    lines = [{"text": text, "label": "positive"} for text in glad]
    lines += [{"text": text, "label": "negative"} for text in sad]
    job, vector = await made(make_context(tmp_path, Engine()), *lines, method="caa", tokens="last")
    assert [(bad["row"], bad["label"]) for bad in job.bad_rows] == [
        (2, "positive"), (11, "negative"),
    ]  # fmt: skip
    pairs = [(glad[n], sad[n]) for n in (0, 2, 3, 5)]
    expected = np.mean([stream_of(p) - stream_of(n) for p, n in pairs], axis=0)
    assert vector is not None
    for layer in range(LAYERS):
        found = vector.tensors[HookPoint("resid_post", layer)].numpy()
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
        await made(make_context(tmp_path, engine), **request_)
    assert caught.value.code == "too_few_rows"
    assert len(str(caught.value)) < 200
    assert not engine.asked


async def test_steps_that_do_not_go_into_memory(tmp_path: Path) -> None:
    engine = Engine()
    context = make_context(tmp_path, engine, most_activation_bytes=20_000)
    sides = {"positive": ["one", "two"], "negative": ["three", "four"]}
    with pytest.raises(SteersmanError, match="fewer layers or fewer steps") as caught:
        await made(context, method="per_step", steps=30, **sides)
    assert (caught.value.param, engine.asked) == ("steps", [])
    await made(context, method="per_step", steps=30, layers=[1], **sides)


async def test_texts_by_step_do_not_run_ahead_of_a_slow_one(tmp_path: Path) -> None:
    sides = {"positive": [f"glad {n}" for n in range(50)], "negative": ["sad 1", "sad 2"]}
    engine = Engine(slow=("glad 0",))
    job = asyncio.create_task(
        made(make_context(tmp_path, engine), method="per_step", steps=2, **sides)
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
        make_context(tmp_path, engine), method="mean_difference", pairs=pairs, tokens="last",
        reproducible=reproducible,
    )  # fmt: skip
    assert [p.skip_reading_prefix_cache for _, p in engine.asked] == [reproducible] * 4


async def test_a_job_shows_what_it_reads(tmp_path: Path) -> None:
    pairs = [[f"glad {n}.", f"sad and long {n}."] for n in range(5)]
    job, _ = await made(
        make_context(tmp_path, Engine()), method="mean_difference", tokens="last", pairs=pairs
    )
    assert [(s["row"], s["label"]) for s in job.samples] == [
        (n, side) for n in (1, 2, 3) for side in ("positive", "negative")
    ]
    assert job.samples[1] == {
        "row": 1, "label": "negative", "token": ".", "before": "d and long 0", "tokens": 1,
    }  # fmt: skip
    (said,) = [w for w in job.warnings if w["code"] == "same_token"]
    assert "100%" in said["message"]
    assert job.to_json()["samples"] == job.samples


def codes(job: Job) -> list[str]:
    return [warning["code"] for warning in job.warnings]


@pytest.mark.parametrize("sign", [". ", "!", " ?\t"])
async def test_texts_that_end_alike_are_warned_of(tmp_path: Path, sign: str) -> None:
    """Nine of ten are enough."""
    pairs = [[f"glad {n}{sign}", f"sad {n}{sign}"] for n in range(9)] + [["oh", "no"]]
    for method in ("mean_difference", "repe", "probe", "caa"):
        job, _ = await made(
            make_context(tmp_path / method, Engine()), method=method, tokens="last", pairs=pairs
        )
        assert "same_token" in codes(job), method
    styles = {f"s{n}": [f"{n} {text}{sign}" for text in ("a", "b", "c", "d")] for n in range(3)}
    wanted = read_request(json.dumps({"name": "x", "method": "style", "styles": styles}))
    job = Job("job-1", "style", "x")
    await run(job, wanted, list(samples_of(wanted, None)), make_context(tmp_path / "s", Engine()))
    assert "same_token" in codes(job)


@pytest.mark.parametrize(
    "pairs",
    [
        [[f"glad {n}.", f"sad {n}!"] for n in range(8)],
        [[f"glad {'.!?'[n % 3]}", f"sad {'!?;'[n % 3]}"] for n in range(9)],
        [[[{"role": "user", "content": f"{side} {n}"}] for side in ("a", "b")] for n in range(8)],
    ],
)
async def test_texts_that_end_differently_are_not(tmp_path: Path, pairs: list[Any]) -> None:
    """And chats that end with a question are all read at the template's end, as they should be."""
    job, _ = await made(
        make_context(tmp_path, Engine()), method="mean_difference", tokens="last", pairs=pairs
    )
    assert "same_token" not in codes(job)


async def test_plain_texts_are_read_as_a_whole_and_questions_at_their_end(tmp_path: Path) -> None:
    for method in ("mean_difference", "repe", "probe"):
        plain = [[f"glad {n}.", f"sad {n}."] for n in range(4)]
        job, vector = await made(
            make_context(tmp_path / method, Engine()), method=method, pairs=plain
        )
        assert vector is not None
        assert vector.method_settings["tokens"] == "mean"
        assert job.samples[0]["token"] == "lad 0."
        asked = [
            [[{"role": "user", "content": f"{side} {n}"}] for side in ("glad", "sad")]
            for n in range(4)
        ]
        _, vector = await made(
            make_context(tmp_path / f"{method}-asked", Engine()), method=method, pairs=asked
        )
        assert vector is not None
        assert vector.method_settings["tokens"] == "last"


async def test_pairs_of_one_text_are_warned_of(tmp_path: Path) -> None:
    pairs = [[f"glad {n}", f"sad {n}"] for n in range(5)] + [["same", "same"]]
    job, _ = await made(make_context(tmp_path, Engine()), method="caa", tokens="last", pairs=pairs)
    (said,) = [w for w in job.warnings if w["code"] == "identical_pairs"]
    assert "1 of 6" in said["message"]


async def test_noise_is_not_recommended_and_the_job_says_so(tmp_path: Path) -> None:
    """The made-up stream has nothing to do with the side that a text is on."""
    pairs = [[f"glad {n}", f"sad {n}"] for n in range(8)]
    job, vector = await made(
        make_context(tmp_path, Engine()), method="mean_difference", pairs=pairs
    )
    assert vector is not None
    quality = vector.method_settings["quality"]
    assert quality["recommended"] is None
    (said,) = [w for w in job.warnings if w["code"] == "not_recommended"]
    assert quality["reason"] in said["message"]
    assert "shuffled" in quality["reason"]
    assert vector.safe_range is None


async def test_too_few_texts_name_a_row_that_could_not_be_read(tmp_path: Path) -> None:
    pairs = [["glad", "x" * 200], ["gladder", "y" * 200], ["gladdest", "sad"]]
    with pytest.raises(SteersmanError, match="at most 99 fit") as caught:
        await made(make_context(tmp_path, Engine()), method="repe", pairs=pairs)
    assert caught.value.code == "too_few_rows"
