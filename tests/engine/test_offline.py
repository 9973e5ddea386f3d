"""`steersman.offline(llm)` on a real `LLM`: the server's field, presets, checks and receipts."""

import base64
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm import SamplingParams

import steersman
from steersman.server.offline.steer import OfflineSteering
from steersman.steering.plan import RECEIPTS
from steersman.vectors.errors import PresetConflict
from steersman.vectors.file.format import write_vector
from steersman.vectors.tensors import HookPoint
from steersman.vectors.vector import SteeringVector
from tests.engine.conftest import Shelf
from tests.support.engine.engine import Ask, Engine

PARAMS = SamplingParams(temperature=0, max_tokens=4, min_tokens=4, ignore_eos=True)


@pytest.fixture(scope="module")
def steer(engine: Engine, shelf: Shelf) -> OfflineSteering:
    shelf.vector(1)
    shelf.vector(2)
    return steersman.offline(engine.llm)


@pytest.fixture
def preset(steer: OfflineSteering) -> Iterator[str]:
    steer.add_preset("off", {"vectors": [{"id": "v1", "coefficient": 0.5, "layers": [10]}]})
    yield "off"
    with contextlib.suppress(steersman.SteersmanError):
        steer.delete_preset("off")


def tokens(outputs: list[Any]) -> list[tuple[int, ...]]:
    return [tuple(output.outputs[0].token_ids) for output in outputs]


def test_the_field_does_what_its_plan_does(
    steer: OfflineSteering, engine: Engine, shelf: Shelf, text_ids: list[int]
) -> None:
    prompt = tuple(text_ids[:20])
    plan = shelf.plan(1, 0.5, (10, 14), "all")
    wanted = [one.tokens for one in engine.ask(Ask(prompt, plan), Ask(prompt))]
    use = {"id": "v1", "coefficient": 0.5, "layers": [10, 14], "positions": "all"}
    asked = {"prompt_token_ids": list(prompt)}
    steered = steer.generate(asked, PARAMS, steering={"vectors": [use]}, use_tqdm=False)
    plain = steer.generate(asked, PARAMS, use_tqdm=False)
    assert [*tokens(steered), *tokens(plain)] == wanted
    assert plain[0].steering is None
    receipt = steered[0].steering
    (vector,) = receipt["vectors"]
    # The last token of the answer is sampled, and computed no more.
    assert (vector["steered_tokens"], vector["layers"]) == (20 + 3, [10, 14])
    assert vector["relative_dose"].keys() == {"10", "14"}
    assert (receipt["source"], receipt["preset"]) == ("request", None)
    assert len(RECEIPTS) == 0


def test_each_prompt_has_a_receipt_of_its_own(steer: OfflineSteering, text_ids: list[int]) -> None:
    prompts = [{"prompt_token_ids": text_ids[:n]} for n in (5, 9)]
    use = {"id": "v1", "coefficient": 0.1, "positions": "prompt"}
    outputs = steer.generate(prompts, PARAMS, steering={"vectors": [use]}, use_tqdm=False)
    counts = [output.steering["vectors"][0]["steered_tokens"] for output in outputs]
    assert counts == [5, 9]


def test_a_chat_by_preset_by_short_form_and_by_field_is_the_same(
    steer: OfflineSteering, preset: str
) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    field = {"vectors": [{"id": "v1", "coefficient": 0.5, "layers": [10]}]}
    by_field, by_name = (
        steer.chat(messages, PARAMS, steering=value, use_tqdm=False) for value in (field, preset)
    )
    assert tokens(by_field) == tokens(by_name)
    assert by_name[0].steering["preset"] == preset
    (short,) = steer.chat(messages, PARAMS, steering="v1@0.5,v2@-0.1", use_tqdm=False)
    assert [one["coefficient"] for one in short.steering["vectors"]] == [0.5, -0.1]
    several = steer.chat([messages, messages], PARAMS, steering=field, use_tqdm=False)
    assert tokens(several) == tokens(by_field) * 2
    assert steer.presets()[preset] == {"vectors": field["vectors"]}
    with pytest.raises(PresetConflict):
        steer.delete("v1")


def test_a_dynamic_answer_has_its_coefficients(steer: OfflineSteering, text_ids: list[int]) -> None:
    field = {"vectors": {"v1": 0.3}, "dynamic": {"kl": "sum", "start": 0.3}}
    asked = {"prompt_token_ids": text_ids[:12]}
    (output,) = steer.generate(asked, PARAMS, steering=field, use_tqdm=False)
    assert len(output.steering["dynamic"]["v1"]["coefficients"]) == 4


@pytest.mark.parametrize(
    ("steering", "param"),
    [
        ({"vectors": {"nobody": 1}}, "steering.vectors[0].id"),
        ({"vectors": {"v1": 1e9}}, "steering.vectors[0].coefficient"),
        ({"vectors": {"v1": 1}, "colour": 1}, "steering.colour"),
        ("nobody", "steering"),
        ("v1@x", "steering"),
        ({"vectors": [{"id": "v1", "positions": {"start": 900, "stop": 901}}]},
         "steering.positions"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_and_leaves_nothing(
    steer: OfflineSteering, text_ids: list[int], steering: Any, param: str
) -> None:
    asked = {"prompt_token_ids": text_ids[:5]}
    with pytest.raises((steersman.PlanInvalid, steersman.SteersmanError)) as refused:
        steer.generate(asked, PARAMS, steering=steering, use_tqdm=False)
    assert refused.value.param == param  # type: ignore[attr-defined]
    assert len(RECEIPTS) == 0
    assert steer.generate(asked, PARAMS, use_tqdm=False)[0].steering is None


def test_vectors_come_as_files_as_vectors_and_in_the_request(
    steer: OfflineSteering, tmp_path: Path, text_ids: list[int]
) -> None:
    row = torch.randn(576, generator=torch.Generator().manual_seed(7))
    vector = SteeringVector({HookPoint("resid_post", 12): 20 * row / row.norm()})
    (tmp_path / "mine.safetensors").write_bytes(write_vector(vector))
    try:
        mine = steer.add(tmp_path / "mine.safetensors")
        assert mine.startswith("mine@")
        assert steer.add(vector, "other").startswith("other@")
        assert {"mine", "other"} <= set(steer.vectors())
        assert steer.vector("mine").digest == vector.digest
        asked = {"prompt_token_ids": text_ids[:8]}
        data = base64.b64encode(write_vector(vector)).decode()
        found = [
            steer.generate(asked, PARAMS, steering={"vectors": [use]}, use_tqdm=False)
            for use in ({"id": mine}, {"data": data})
        ]
        assert tokens(found[0]) == tokens(found[1])
        digests = {one[0].steering["vectors"][0]["digest"] for one in found}
        assert digests == {vector.digest}
    finally:
        for name in ("mine", "other"):
            steer.delete(name)


def test_a_vector_is_made_from_texts(steer: OfflineSteering) -> None:
    positive = [f"I am so happy about the {x}." for x in ("sun", "rain", "wind", "snow")]
    negative = [f"I am so sad about the {x}." for x in ("sun", "rain", "wind", "snow")]
    (made,) = steer.extract(
        method="mean_difference", name="made", positive=positive, negative=negative, layers=[14]
    )
    try:
        assert made.startswith("made@")
        assert steer.vector("made").layers == (14,)
        (answer,) = steer.generate("Hello", PARAMS, steering={"vectors": [{"id": made}]})
        assert answer.steering["vectors"][0]["steered_tokens"] == 4
        with pytest.raises(steersman.SteersmanError, match="in use"):
            steer.extract(method="mean_difference", name="made", positive=["a"], negative=["b"])
    finally:
        steer.delete("made")


async def test_it_works_where_an_event_loop_runs(
    steer: OfflineSteering, text_ids: list[int]
) -> None:
    asked = {"prompt_token_ids": text_ids[:5]}
    (output,) = steer.generate(asked, PARAMS, steering="v1@0.1", use_tqdm=False)
    assert output.steering["vectors"][0]["steered_tokens"] == 4


def test_capabilities(steer: OfflineSteering) -> None:
    found = steer.capabilities()
    assert (found["num_layers"], found["hidden_size"]) == (30, 576)
    assert found["median_norms"]
