"""How much of a captured prompt a step takes, in vLLM's own scheduler."""

from pathlib import Path
from typing import Any

import pytest

from steersman.steering.plan.capture import STEP_KEY, Capture
from steersman.vectors.tensors import HookPoint
from tests.support.steering.hashing import Ask
from tests.support.steering.scheduling import Loop, Setup

PROMPT = tuple(n % 5 for n in range(20))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


def text(name: str, portion: int, most: int = 1, prompt: tuple[int, ...] = PROMPT) -> Ask:
    capture = Capture(
        name, (HookPoint("resid_post", 1),), len(prompt) - 1, len(prompt), portion=portion
    )
    return Ask(name, prompt, most, capture=capture)


def other(name: str, most: int = 30, length: int = 3) -> Ask:
    return Ask(name, (1, 2, 3, 4, 2, 1, 3)[:length], most)


def loop_of(folder: Path, **how: Any) -> Loop:
    return Loop(folder, Setup(blocks=200, seats=30, caching=False, **how))


def said(outputs: list[Any]) -> list[Any]:
    """What the outputs say of captures in their step."""
    found = [(one.kv_transfer_params or {}).get(STEP_KEY) for one in outputs]
    return [one for one in found if one is not None]


@pytest.mark.parametrize("v2", [False, True])
def test_beside_others_a_prompt_goes_in_portions(folder: Path, v2: bool) -> None:
    loop = loop_of(folder, v2=v2)
    loop.add(other("a"))
    loop.step()
    loop.add(text("t", 8))
    taken, counts = [], []
    while "t" not in loop.ended:
        counts.append(said(loop.step()))
        taken.append(loop.scheduled["t"])
        assert loop.scheduled["a"] == 1, "others go on in every step"
    assert taken == [8, 8, 4]
    assert counts == [[[8, 0]], [[8, 0]], [[4, 0]]], "one output a step says so"
    assert said(loop.step()) == []
    loop.finish()
    loop.check_answers()
    assert not loop.scheduler.steering_captured


def test_texts_share_a_portion_and_each_gets_on(folder: Path) -> None:
    loop = loop_of(folder)
    loop.add(other("a", most=60))
    loop.step()
    for n in range(3):
        loop.add(text(f"t{n}", 8))
    taken = []
    while len(loop.ended) < 3:
        loop.step()
        taken.append([loop.scheduled.get(f"t{n}", 0) for n in range(3)])
    # Those that come in a step get one token of it, so that who waits behind them is let in.
    assert taken[0] == [8, 1, 1]
    rest = [(8, 0, 0), (4, 4, 0), (0, 8, 0), (0, 7, 1), (0, 0, 8), (0, 0, 8), (0, 0, 2)]
    assert [tuple(one) for one in taken[1:]] == rest
    assert [sum(column) for column in zip(*taken, strict=True)] == [20, 20, 20]


def test_who_comes_behind_a_text_is_let_in_with_it(folder: Path) -> None:
    loop = loop_of(folder)
    loop.add(other("a"))
    loop.step()
    for n in range(3):
        loop.add(text(f"t{n}", 4))
    loop.add(other("b", length=7))
    loop.step()
    assert loop.scheduled["b"] == 7, "others' prompts are not divided"


def test_alone_and_with_no_portion_a_prompt_is_whole(folder: Path) -> None:
    loop = loop_of(folder)
    loop.add(text("t", 8))
    loop.add(text("u", 8))
    loop.step()
    assert loop.scheduled == {"t": 20, "u": 20}
    loop.add(other("a"))
    loop.add(text("whole", 0))
    loop.step()
    assert loop.scheduled["whole"] == 20


def test_others_who_come_meanwhile_bring_portions_and_who_leave_end_them(folder: Path) -> None:
    loop = loop_of(folder, tokens=10)
    loop.add(text("t", 2))
    loop.step()
    assert loop.scheduled["t"] == 10
    loop.add(other("a", most=2))
    loop.step()
    assert loop.scheduled["t"] == 2
    loop.step()
    assert "a" in loop.ended
    loop.step()
    assert loop.scheduled["t"] == 6


def test_a_captured_sequence_behind_its_prompt_is_counted_as_one(folder: Path) -> None:
    loop = loop_of(folder)
    loop.add(other("a"))
    loop.step()
    loop.add(text("t", 0, most=3))
    assert [said(loop.step()) for _ in range(4)] == [[[20, 0]], [[0, 1]], [[0, 1]], []]


def test_who_is_aborted_in_the_middle_is_forgotten(folder: Path) -> None:
    loop = loop_of(folder)
    loop.add(other("a"))
    loop.add(text("t", 4))
    loop.step()
    loop.abort("t")
    assert not loop.scheduler.steering_captured
    loop.finish()
    loop.check_empty()


def test_speculative_decoding_and_whole_prefills_divide_nothing(folder: Path) -> None:
    loop = loop_of(folder)
    loop.scheduler.steering_divides = False
    loop.add(other("a"))
    loop.add(text("t", 4))
    loop.step()
    assert loop.scheduled["t"] == 20
    assert not loop.scheduler.need_mamba_block_aligned_split
