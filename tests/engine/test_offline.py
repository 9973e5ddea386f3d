"""`steersman.offline` on one engine: the field, batches, presets, receipts and extraction, against
Hugging Face with hooks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from vllm import SamplingParams

import steersman
from steersman.server.offline.steer import OfflineSteering
from steersman.vectors.errors import PresetConflict, SteersmanError, VectorNotFound
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.tensors import HookPoint
from tests.reference.reference import ReferenceModel, Term
from tests.support.engine.engine import Engine
from tests.support.matrix import tiny

LAYER = 1
NEW = 6
GREEDY = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
CHATS = [
    [{"role": "user", "content": "When does the ferry leave?"}],
    [{"role": "user", "content": "Who bakes the bread, and where is it from?"}],
]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
CHAT: dict[str, Any] = {"chat_template": TEMPLATE, "use_tqdm": False}
PROMPT = list(b"The ferry leaves the harbour at seven.")


@dataclass(frozen=True)
class Ship:
    """The engine, what steers it, and what judges it."""

    engine: Engine
    steer: OfflineSteering
    reference: ReferenceModel
    vectors: dict[str, torch.Tensor]

    def wanted(self, output: Any, **coefficients: float) -> list[int]:
        """The tokens that Hugging Face finds likeliest behind the prompt of `output`."""
        terms = [Term("resid_post", LAYER, c, self.vectors[n]) for n, c in coefficients.items()]
        return self.reference.greedy(output.prompt_token_ids, NEW, terms)


@pytest.fixture(scope="module")
def ship(
    start_engine: Callable[..., Engine], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ship]:
    folder = tmp_path_factory.mktemp("offline")
    model = tiny.make_model(folder / "model")
    norm = tiny.stream_norms(model, tuple(PROMPT))[LAYER]
    vectors: dict[str, torch.Tensor] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERSMAN_HOME", str(folder))
        engine = start_engine(
            {"library": str(folder / "library")},
            model=model,
            kv_cache_memory_bytes=2**26,
            max_num_seqs=8,
        )
        steer = steersman.offline(engine.llm)
        for seed, name in enumerate(("glad", "calm")):
            v = torch.randn(tiny.HIDDEN, generator=torch.Generator().manual_seed(seed))
            vectors[name] = v * (norm / v.norm())
            made = SteeringVector({HookPoint("resid_post", LAYER): vectors[name]})
            path = folder / f"{name}.safetensors"
            path.write_bytes(write_vector(made))
            assert steer.add(path, name).startswith(f"{name}@")
        yield Ship(engine, steer, ReferenceModel(model), vectors)


def tokens(output: Any) -> list[int]:
    return list(output.outputs[0].token_ids)


def test_several_conversations_with_a_receipt_each(ship: Ship) -> None:
    field = {"vectors": {"glad": 1.5, "calm": -1.0}}
    outputs = ship.steer.chat(CHATS, GREEDY, steering=field, **CHAT)
    plain = ship.steer.chat(CHATS, GREEDY, **CHAT)
    for output, unsteered in zip(outputs, plain, strict=True):
        assert tokens(output) == ship.wanted(output, glad=1.5, calm=-1.0)
        assert tokens(unsteered) == ship.wanted(unsteered)
        assert tokens(output) != tokens(unsteered)
        assert unsteered.steering is None
        used = output.steering["vectors"]
        assert [(x["id"], x["coefficient"], x["steered_tokens"]) for x in used] == [
            ("glad", 1.5, NEW),
            ("calm", -1.0, NEW),
        ]
        assert (output.steering["source"], output.steering["preset"]) == ("request", None)
    (one,) = ship.steer.chat(CHATS[0], GREEDY, steering=field, **CHAT)
    assert tokens(one) == tokens(outputs[0])


def test_prompts_of_every_kind_and_parameters_of_their_own(ship: Ship) -> None:
    field = {"vectors": {"glad": 2.0}}
    several = SamplingParams(n=2, temperature=1.0, seed=1, max_tokens=3, ignore_eos=True)
    prompts = ["The sky is", {"prompt_token_ids": PROMPT}]
    text, ids = ship.steer.generate(prompts, [GREEDY, several], steering=field, use_tqdm=False)
    assert tokens(text) == ship.wanted(text, glad=2.0)
    assert [len(choice.token_ids) for choice in ids.outputs] == [3, 3]
    assert [x.steering["vectors"][0]["steered_tokens"] for x in (text, ids)] == [NEW, 6]
    (alone,) = ship.steer.generate("The sky is", GREEDY, steering=field, use_tqdm=False)
    (listed,) = ship.steer.generate(PROMPT, GREEDY, steering=field, use_tqdm=False)
    assert tokens(alone) == tokens(text)
    assert tokens(listed) == ship.wanted(listed, glad=2.0)
    # What was given is the caller's, and carries no plan.
    assert GREEDY.extra_args is None
    with pytest.raises(ValueError, match="1 sampling parameters for 2 prompts"):
        ship.steer.generate(prompts, [GREEDY], steering=field, use_tqdm=False)


def test_a_dynamic_answer_has_its_coefficients(ship: Ship) -> None:
    field = {"vectors": {"glad": 1.0}, "dynamic": {}}
    (output,) = ship.steer.generate(PROMPT, GREEDY, steering=field, use_tqdm=False)
    assert len(output.steering["dynamic"]["glad"]["coefficients"]) == len(tokens(output))


def test_presets_and_the_short_form(ship: Ship) -> None:
    steer = ship.steer

    def ask(steering: Any) -> Any:
        return steer.chat(CHATS[0], GREEDY, steering=steering, **CHAT)[0]

    steer.add_preset("loud", {"vectors": {"glad": 2.0}}, description="d")
    assert steer.presets() == {"loud": {"vectors": [{"id": "glad", "coefficient": 2.0}]}}
    named = ask("loud")
    assert tokens(named) == ship.wanted(named, glad=2.0)
    assert (named.steering["source"], named.steering["preset"]) == ("request", "loud")
    short = ask("glad@1.5,calm@-1")
    assert tokens(short) == ship.wanted(short, glad=1.5, calm=-1.0)
    assert ask(None).steering is None
    with pytest.raises(PresetConflict, match="loud"):
        steer.delete("glad")
    with pytest.raises(PresetConflict):
        steer.add_preset("loud", {"vectors": {"glad": 1.0}})
    steer.delete_preset("loud")
    assert steer.presets() == {}
    with pytest.raises(SteersmanError, match="loud") as refused:
        ask("loud")
    assert refused.value.param == "steering"


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"vectors": {"nobody": 1.0}}, "steering.vectors[0].id"),
        ({"vectors": {"glad": 1.0}, "strength": 2}, "steering.strength"),
        ({"vectors": {"glad": 1e30}}, "steering.vectors[0].coefficient"),
        ({"vectors": [{"id": "glad", "layers": [2]}]}, "steering.vectors[0].layers"),
        # Only the engine knows how long the prompt is.
        (
            {"vectors": [{"id": "glad", "positions": {"start": 900, "stop": 901}}]},
            "steering.positions",
        ),
        ("glad@x", "steering"),
    ],
)
def test_what_is_wrong_names_the_key_and_leaves_nothing(ship: Ship, field: Any, param: str) -> None:
    with pytest.raises((steersman.PlanInvalid, SteersmanError)) as refused:
        ship.steer.generate([PROMPT, PROMPT], GREEDY, steering=field, use_tqdm=False)
    assert getattr(refused.value, "param", None) == param
    assert not any(ship.engine.left())


def test_an_llm_that_is_called_directly_is_unsteered_and_says_no(ship: Ship) -> None:
    llm = ship.engine.llm
    prompt = {"prompt_token_ids": PROMPT}
    (output,) = llm.generate(prompt, GREEDY, use_tqdm=False)  # type: ignore[arg-type]
    assert tokens(output) == ship.wanted(output)
    wrong = SamplingParams(max_tokens=1, extra_args={"steering": {"vectors": {"glad": 1.0}}})
    with pytest.raises(Exception, match="steering"):
        llm.generate(prompt, wrong, use_tqdm=False)  # type: ignore[arg-type]
    assert not any(ship.engine.left())


async def test_where_a_loop_runs_as_in_a_notebook(ship: Ship) -> None:
    """A vector is made there: the mean difference that Hugging Face has, and it steers."""
    glad = [f"I am glad of it, {n}" for n in ("one", "two", "three", "four")]
    sad = [f"It is a pity: {n}" for n in ("one", "two", "three", "four")]
    (made,) = ship.steer.extract(
        method="mean_difference", name="made", positive=glad, negative=sad, layers=[LAYER],
        tokens="last",
    )  # fmt: skip
    found = ship.steer.vector(made).tensors[HookPoint("resid_post", LAYER)]
    tokenizer = ship.engine.llm.get_tokenizer()

    def mean(texts: list[str]) -> torch.Tensor:
        """Over the texts, of the stream at their last tokens: [hidden]."""
        ids = [tokenizer.encode(text) for text in texts]
        place = [("resid_post", LAYER)]
        return torch.stack([ship.reference.streams(one, place)[0, -1] for one in ids]).mean(0)

    np.testing.assert_allclose(found, mean(glad) - mean(sad), rtol=1e-3, atol=1e-3)
    ship.vectors["made"] = torch.as_tensor(found)
    field = {"vectors": {"made": 3.0}}
    (output,) = ship.steer.chat(CHATS[0], GREEDY, steering=field, **CHAT)
    assert tokens(output) == ship.wanted(output, made=3.0)
    assert output.steering["vectors"][0]["id"] == "made"
    assert "made" in ship.steer.vectors()
    ship.steer.delete("made")
    with pytest.raises(VectorNotFound):
        ship.steer.vector("made")
    with pytest.raises(SteersmanError) as refused:
        ship.steer.extract(method="mean_difference", positive=["one"], negative=["two"])
    assert refused.value.code == "too_few_rows"


def test_capabilities_are_those_of_the_engine(ship: Ship) -> None:
    found = ship.steer.capabilities()
    assert (found["num_layers"], found["hidden_size"]) == (tiny.LAYERS, tiny.HIDDEN)
    assert len(found["median_norms"]) >= tiny.LAYERS


def test_an_engine_without_the_plugin_says_how_it_gets_there(
    ship: Ship, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.engine.input_processor import InputProcessor

    def process_inputs() -> None:
        """vLLM's own, as it were."""

    monkeypatch.setattr(InputProcessor, "process_inputs", process_inputs)
    with pytest.raises(RuntimeError, match="VLLM_PLUGINS=steersman"):
        steersman.offline(ship.engine.llm)
