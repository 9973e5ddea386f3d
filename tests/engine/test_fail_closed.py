"""Invariant 6: what cannot be steered rightly is refused, at the start or at the request."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt

from steersman.steering.plan import Plan
from steersman.vectors.tensors import HookPoint
from tests.engine.conftest import Shelf
from tests.support.engine.engine import Ask, Engine, answer, parameters

START = """
import sys
from vllm import LLM
LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=64, block_size=32,
    max_num_seqs=4, kv_cache_memory_bytes=2**26)
print("STARTED")
"""

FORGETFUL = """
import steersman.steering.vllm.worker.worker as seam
instrument = seam.instrument
def forgetful(blocks, *rest):
    instrument(blocks, *rest)
    for module in (blocks[7].module, blocks[12].attn):
        del module.forward
seam.instrument = forgetful
"""

OTHER_VERSION = """
import vllm
vllm.__version__ = "0.34.0"
"""


def start(model: Path, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Start an engine in a process of its own, after running the code `before`."""
    return subprocess.run(
        [sys.executable, "-c", before + START, str(model)],
        env={
            **os.environ,
            "VLLM_PLUGINS": "steersman",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_USE_V2_MODEL_RUNNER": "0",
            **environment,
        },
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def assert_refused(ended: subprocess.CompletedProcess[str], *reasons: str) -> None:
    assert ended.returncode != 0
    assert "STARTED" not in ended.stdout
    for reason in reasons:
        assert reason in ended.stderr, ended.stderr[-3000:]


def test_layers_that_lost_their_addition_stop_the_start(model: Path) -> None:
    ended = start(model, FORGETFUL)
    assert_refused(ended, "did not reach the residual stream at attn_out.12, resid_post.7\n")


def test_another_version_of_vllm_stops_the_start(model: Path) -> None:
    ended = start(model, OTHER_VERSION)
    assert_refused(ended, "0.33.*, this is 0.34.0, which Steersman was not tested")


def test_a_wrong_setting_stops_the_start(model: Path) -> None:
    wrong = START.replace("max_num_seqs=4", 'additional_config={"steersman": {"bank_row": 5}}')
    ended = start(model, f"exec({wrong!r})\n")
    assert_refused(ended, "unknown steersman setting 'bank_row'")


def test_a_vector_that_vanishes_ends_its_request_and_no_other(
    engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    prompts = [tuple(text_ids[n : n + 30]) for n in range(4)]
    plan = shelf.plan(1, 0.5, (9,), "all")

    others = [Ask(prompts[0], tokens=8), Ask(prompts[1], plan, 8), Ask(prompts[3], tokens=8)]
    engine.ask(others[1])  # Its vector is there from now on, so that both batches are the same.
    engine.forget()
    expected = engine.ask(*others)
    engine.forget()
    doomed = Ask(prompts[2], shelf.plan(50, 0.5, (9,)), tokens=8)
    with shelf.vanishing(50) as vanish:
        asks = [*others[:2], doomed, others[2]]
        engine.llm.enqueue(
            [TokensPrompt(prompt_token_ids=list(ask.prompt)) for ask in asks],
            [parameters(ask) for ask in asks],
            use_tqdm=False,
        )
        vanish()
        outputs = [answer(output) for output in engine.llm.wait_for_completion(use_tqdm=False)]
    assert outputs[2].finish_reason == "error"
    assert outputs[2].tokens == ()
    assert [outputs[n] for n in (0, 1, 3)] == expected
    assert engine.ask(doomed)[0].finish_reason == "length"


def test_a_vector_that_is_not_there_is_refused_at_the_door(
    engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    shelf.vector(51)
    with shelf.vanishing(51) as vanish:
        vanish()
        with pytest.raises(VLLMValidationError, match=r"no vector [0-9a-f]{12} in the library"):
            engine.ask(Ask(tuple(text_ids[:9]), shelf.plan(51, 0.5, (9,))))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"coefficient": float("nan")}, "coefficient"),
        ({"coefficient": 1e30}, "over this server's limit"),
        ({"layers": (30,)}, "layer 30 does not exist"),
        ({"positions": (9, 12)}, "outside the prompt"),
        ({"site": "resid_pre"}, "cannot be steered here"),
    ],
)
def test_plans_are_checked_whoever_wrote_them(
    engine: Engine, shelf: Shelf, text_ids: list[int], change: dict[str, object], reason: str
) -> None:
    fields = {"seed": 1, "coefficient": 0.5, "layers": (9,), **change}
    with pytest.raises(VLLMValidationError, match=reason):
        engine.ask(Ask(tuple(text_ids[:9]), shelf.plan(**fields)))


def test_a_request_that_no_bank_could_hold_is_refused(
    cramped: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    with pytest.raises(VLLMValidationError, match="needs 25 bank rows, the bank has 24"):
        cramped.ask(Ask(tuple(text_ids[:9]), shelf.plan(1, 0.01, tuple(range(25)))))


def test_a_bank_in_use_makes_the_newcomer_wait(
    cramped: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    prompt = tuple(text_ids[:5])
    layers = tuple(range(10))
    # 3 x 10 rows do not fit 24; any two do.
    asks = [Ask(prompt, shelf.plan(60 + n, 0.02, layers), 6) for n in range(3)]
    asks += [Ask(prompt, None, 6), asks[0]]
    alone = [cramped.ask(ask)[0] for ask in asks]
    assert [a.tokens for a in cramped.ask(*asks)] == [a.tokens for a in alone]
    assert cramped.rows_taken() == (0, 0)


def test_a_plan_that_is_wrong_about_a_vectors_steps_is_refused_not_followed(
    engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    """The plan says that there is one tensor for all steps."""
    digest = shelf.stepped(1, 4).digest
    plan = shelf.plan(1, 0.5, (9,))
    stepped = Plan(
        (type(plan.vectors[0])(digest, 0.5, (HookPoint("resid_post", 9),), "generation"),)
    )
    ended, neighbour = engine.ask(Ask(tuple(text_ids[:9]), stepped), Ask(tuple(text_ids[:9]), plan))
    assert (ended.finish_reason, ended.tokens) == ("error", ())
    assert neighbour.finish_reason == "length"
