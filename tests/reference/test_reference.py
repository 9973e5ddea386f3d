"""The reference itself: on a tiny random Llama, every change is the one asked for and no other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tests.reference.reference import Positions, ReferenceModel, Term, is_steered

LAYERS, HIDDEN, VOCAB = 4, 32, 97
TOKENS = [5, 17, 3, 88, 41, 2, 60, 9]
PROMPT_LEN = 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ReferenceModel:
    directory: Path = tmp_path_factory.mktemp("tiny-llama")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return ReferenceModel(directory)


def vector(seed: int = 1) -> Tensor:
    return torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))


def outputs(model: ReferenceModel, path: str, terms: Sequence[Term]) -> Tensor:
    """What the module at `path` puts out in a steered pass, after steering: [tokens, hidden]."""
    seen: list[Tensor] = []

    def watch(_module: object, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    # Steering hooks are registered inside steered_logprobs; this one must come after them.
    part = model.model.get_submodule(path)
    model_call = model.model.forward

    def call_watched(*args: object, **kwargs: object) -> object:
        handle = part.register_forward_hook(watch)
        try:
            return model_call(*args, **kwargs)
        finally:
            handle.remove()

    model.model.forward = call_watched
    try:
        model.steered_logprobs(TOKENS, PROMPT_LEN, terms)
    finally:
        model.model.forward = model_call
    (output,) = seen
    return output.reshape(len(TOKENS), HIDDEN)


def block(layer: int) -> str:
    return f"model.layers.{layer}"


@pytest.mark.parametrize(
    ("positions", "steered"),
    [
        ("generation", [4, 5, 6, 7]),
        ("after_prompt", [5, 6, 7]),
        ("prompt", [0, 1, 2, 3, 4]),
        ("all", [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"start": 1, "stop": 3}, [1, 2]),
        ({"start": -2, "stop": 5}, [3, 4]),
        ({"start": 0, "stop": -1}, [0, 1, 2, 3]),
        ({"start": -3, "stop": -1}, [2, 3]),
        ({"start": 4, "stop": 7}, [4, 5, 6]),
    ],
)
def test_each_rule_changes_exactly_its_tokens(
    model: ReferenceModel, positions: Positions, steered: list[int]
) -> None:
    assert [t for t in range(8) if is_steered(t, PROMPT_LEN, positions)] == steered

    change = torch.zeros(len(TOKENS), HIDDEN)
    change[steered] = 0.7 * vector()
    original = outputs(model, block(2), [])
    seen = outputs(model, block(2), [Term("resid_post", 2, 0.7, vector(), positions)])
    torch.testing.assert_close(seen, original + change)


def test_unknown_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="sometimes"):
        is_steered(0, 1, "sometimes")


@pytest.mark.parametrize(
    ("site", "path"),
    [("resid_post", ""), ("attn_out", ".self_attn"), ("mlp_out", ".mlp")],
)
def test_the_site_moves_by_the_change_and_layers_before_do_not(
    model: ReferenceModel, site: str, path: str
) -> None:
    term = Term(site, 2, -1.5, vector(), "all")
    original = outputs(model, block(2) + path, [])
    seen = outputs(model, block(2) + path, [term])
    torch.testing.assert_close(seen, original - 1.5 * vector())

    for layer in (0, 1):
        assert torch.equal(outputs(model, block(layer), [term]), outputs(model, block(layer), []))
    moved = outputs(model, block(3), [term]) - outputs(model, block(3), [])
    assert (moved.abs().amax(dim=1) > 1e-3).all()


def test_mlp_out_is_added_before_the_residual_stream(model: ReferenceModel) -> None:
    at_mlp = model.steered_logprobs(TOKENS, PROMPT_LEN, [Term("mlp_out", 1, 2.0, vector(), "all")])
    at_block = model.steered_logprobs(
        TOKENS, PROMPT_LEN, [Term("resid_post", 1, 2.0, vector(), "all")]
    )
    torch.testing.assert_close(at_mlp, at_block)


def test_attn_out_passes_through_the_mlp(model: ReferenceModel) -> None:
    term = Term("attn_out", 1, 2.0, vector(), "all")
    moved = outputs(model, block(1), [term]) - outputs(model, block(1), [])
    mlp_moved = outputs(model, block(1) + ".mlp", [term]) - outputs(model, block(1) + ".mlp", [])
    torch.testing.assert_close(moved, 2.0 * vector() + mlp_moved, atol=1e-4, rtol=1e-4)
    assert mlp_moved.abs().max() > 1e-3


def test_terms_at_one_layer_add_up(model: ReferenceModel) -> None:
    terms = [
        Term("resid_post", 1, 0.5, vector(1), "all"),
        Term("resid_post", 1, -2.0, vector(2), "prompt"),
        Term("resid_post", 1, 3.0, vector(3), "after_prompt"),
    ]
    change = (0.5 * vector(1)).repeat(len(TOKENS), 1)
    change[:PROMPT_LEN] -= 2.0 * vector(2)
    change[PROMPT_LEN:] += 3.0 * vector(3)
    torch.testing.assert_close(
        outputs(model, block(1), terms), outputs(model, block(1), []) + change
    )


def test_last_layer_steering_reaches_the_logits_through_the_final_norm(
    model: ReferenceModel,
) -> None:
    term = Term("resid_post", LAYERS - 1, 1.0, vector(), "all")
    stream = outputs(model, block(LAYERS - 1), []) + vector()
    with torch.no_grad():
        logits = model.model.lm_head(model.model.model.norm(stream))
    torch.testing.assert_close(
        model.steered_logprobs(TOKENS, PROMPT_LEN, [term]), torch.log_softmax(logits, dim=-1)
    )


def test_no_term_and_zero_coefficient_leave_the_model_as_it_is(model: ReferenceModel) -> None:
    with torch.no_grad():
        logits = model.model(torch.tensor([TOKENS])).logits[0]
    expected = torch.log_softmax(logits, dim=-1)
    assert expected.shape == (len(TOKENS), VOCAB)
    torch.testing.assert_close(model.steered_logprobs(TOKENS, PROMPT_LEN), expected)
    zero = [Term("resid_post", 0, 0.0, vector(), "all")]
    torch.testing.assert_close(model.steered_logprobs(TOKENS, PROMPT_LEN, zero), expected)


def test_earlier_tokens_do_not_see_later_steering(model: ReferenceModel) -> None:
    term = Term("resid_post", 1, 4.0, vector(), "generation")
    steered = model.steered_logprobs(TOKENS, PROMPT_LEN, [term])
    plain = model.steered_logprobs(TOKENS, PROMPT_LEN)
    torch.testing.assert_close(steered[: PROMPT_LEN - 1], plain[: PROMPT_LEN - 1])
    assert (steered[PROMPT_LEN - 1 :] - plain[PROMPT_LEN - 1 :]).abs().amax(dim=1).min() > 1e-3


def test_greedy_agrees_with_one_pass_over_its_own_answer(model: ReferenceModel) -> None:
    terms = [Term("resid_post", 1, 6.0, vector(), "generation")]
    prompt = TOKENS[:PROMPT_LEN]
    answer = model.greedy(prompt, 6, terms)
    assert answer != model.greedy(prompt, 6)
    logprobs = model.steered_logprobs([*prompt, *answer], PROMPT_LEN, terms)
    assert logprobs[PROMPT_LEN - 1 : -1].argmax(dim=-1).tolist() == answer
