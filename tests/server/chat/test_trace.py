"""Which sequence makes which choice, and what a receipt says of its tokens."""

from collections.abc import Iterator

import pytest

from steersman.server.chat.trace import Answers, Trace
from steersman.steering.plan import RECEIPTS, Choice, WorkerNote

PARENT = "cmpl-1_a-7-12345678"
"""What a client calls its request is free, and may look like what vLLM adds."""


@pytest.fixture
def receipt() -> Iterator[str]:
    RECEIPTS.open("t")
    yield "t"
    RECEIPTS.close("t")


def deliver(name: str, *tokens: tuple[float, ...]) -> None:
    """A note on some more tokens, with these coefficients; divergences are ten times them."""
    choices = tuple(Choice(token, tuple(10 * c for c in token)) for token in tokens)
    RECEIPTS.deliver(name, WorkerNote("t", (0,), -1, (), choices))


@pytest.mark.parametrize(
    ("answers", "name", "choice"),
    [
        (Answers(), PARENT, 0),
        (Answers(), "chatcmpl-x", 0),
        (Answers(n=3), f"2_{PARENT}", 2),
        (Answers(prompts=9), PARENT, 7),
        (Answers(prompts=9), "cmpl-a-3-12345678-7-0a0b0c0d", 7),
        (Answers(prompts=20), "cmpl-a-17-12345678", 17),
        (Answers(prompts=20), "chatcmpl-a_17-0a0b0c0d", 17),
        (Answers(n=3, prompts=9), f"1_{PARENT}", 22),
        # VLLM_DISABLE_REQUEST_ID_RANDOMIZATION
        (Answers(prompts=9), "cmpl-12345678-7", 7),
        (Answers(n=2, prompts=9), "1_cmpl-a-b-7", 15),
        (Answers(n=2), "a name of another make", None),
        (Answers(prompts=2), "a name of another make", None),
    ],
)
def test_a_name_says_which_choice_it_is(answers: Answers, name: str, choice: int | None) -> None:
    assert answers.choice_of(name) == choice


def test_the_names_are_vllms() -> None:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.engine.parallel_sampling import ParentRequest

    request = EngineCoreRequest(
        request_id="cmpl-5_x-1", prompt_token_ids=[1], mm_features=None,
        sampling_params=SamplingParams(n=3), pooling_params=None, arrival_time=0,
        lora_request=None, cache_salt=None, data_parallel_rank=None,
    )  # fmt: skip
    InputProcessor.assign_request_id(request)
    assert request.request_id != "cmpl-5_x-1"
    assert Answers(prompts=2).choice_of(request.request_id) == 1
    child, _ = ParentRequest(request).get_child_info(2)
    assert Answers(n=3, prompts=2).choice_of(child) == 5


def test_one_answer(receipt: str) -> None:
    trace = Trace(receipt, ["glad", "calm"], Answers())
    assert trace.whole() == {
        "glad": {"coefficients": [], "divergences": []},
        "calm": {"coefficients": [], "divergences": []},
    }
    deliver("x", (1.0, 0.5))
    deliver("x", (2.0, 0.25), (0.0, 0.125))
    assert trace.whole() == {
        "glad": {
            "coefficients": [1.0, 2.0, 0.0], "divergences": [10.0, 20.0, 0.0],
            "mean_coefficient": 1.0,
        },
        "calm": {
            "coefficients": [0.5, 0.25, 0.125], "divergences": [5.0, 2.5, 1.25],
            "mean_coefficient": pytest.approx(0.875 / 3),
        },
    }  # fmt: skip
    assert trace.part(0, 1, 2) == {
        "glad": {"coefficients": [2.0], "divergences": [20.0]},
        "calm": {"coefficients": [0.25], "divergences": [2.5]},
    }


@pytest.mark.parametrize("divided", [True, False])
def test_what_hardly_steered_says_so(receipt: str, divided: bool) -> None:
    trace = Trace(receipt, ["glad", "calm"], Answers(), divided=divided)
    deliver("x", (0.0, 0.5), (0.01, 0.5))
    said = trace.whole()
    assert isinstance(said, dict)
    assert said["glad"]["mean_coefficient"] == 0.005
    assert ("note" in said["glad"]) is divided
    assert "note" not in said["calm"]
    if divided:
        assert '"kl": "sum"' in said["glad"]["note"]


def test_a_response_that_goes_on_after_a_tool_is_one_answer(receipt: str) -> None:
    trace = Trace(receipt, ["a"], Answers())
    deliver("resp_x_0-00000000", (1.0,), (2.0,))
    assert trace.part(0, 0, None)["a"]["coefficients"] == [1.0, 2.0]
    deliver("resp_x_1-00000000", (3.0,))
    assert trace.part(0, 1, None)["a"]["coefficients"] == [2.0, 3.0]


def test_the_same_vector_several_times(receipt: str) -> None:
    trace = Trace(receipt, ["a", "b", "a", "a"], Answers())
    deliver("x", (1.0, 2.0, 3.0, 4.0))
    said = trace.part(0, 0, None)
    assert {key: part["coefficients"] for key, part in said.items()} == {
        "a": [1.0], "b": [2.0], "a#2": [3.0], "a#3": [4.0],
    }  # fmt: skip


def test_several_answers_are_a_list_in_the_order_of_choices(receipt: str) -> None:
    trace = Trace(receipt, ["a"], Answers(n=2, prompts=2))
    deliver("1_cmpl-x-1-00000000", (4.0,))
    deliver("0_cmpl-x-0-00000000", (1.0,))
    deliver("1_cmpl-x-0-00000000", (2.0,), (2.5,))
    whole = trace.whole()
    assert isinstance(whole, list)
    assert [one["a"]["coefficients"] for one in whole] == [[1.0], [2.0, 2.5], [], [4.0]]
    deliver("0_cmpl-x-1-00000000", (3.0,))
    assert trace.part(2, 0, 1)["a"]["coefficients"] == [3.0]
    assert trace.part(1, 1, 2)["a"]["coefficients"] == [2.5]
