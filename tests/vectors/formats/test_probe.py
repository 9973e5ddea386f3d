"""The layer is right: ours moves the residual stream exactly as the file's own library does.

Ours is what the engine does: add to the outputs of blocks, at the tokens of the vector's rule. For
repeng and dialz the other side was recorded while they steered (make_fixtures); for the others it
is their hook, restated from the lines that `steersman.vectors.formats.conventions` names.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file

from steersman.vectors.file.format import SteeringVector
from steersman.vectors.formats import load
from tests.support.vectors.tiny import LAYERS, residuals, tiny_model
from tests.vectors.formats.make_fixtures import FIXTURES, PROMPT, STRENGTH

TOKENS = len(PROMPT[0])
CAA_MODEL = "Llama-2-7b-chat-hf"


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(weights=FIXTURES / "tiny_model.safetensors")


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    return load_file(FIXTURES / "expected.safetensors")


def steered(model: Any, vector: SteeringVector, shift: int = 0) -> torch.Tensor:
    """The residual stream under `vector`, as the engine adds it, `shift` blocks late."""
    first = {"all": 0, "generation": TOKENS - 1}[str(vector.positions)]
    handles = []
    for (site, layer), direction in vector.tensors.items():
        assert site == "resid_post"
        if layer + shift < LAYERS:
            block = model.model.layers[layer + shift]
            handles.append(block.register_forward_hook(_adder(direction, first)))
    return _run(model, handles)


def _adder(direction: torch.Tensor, first: int) -> Callable[..., torch.Tensor]:
    def add(_module: Any, _arguments: Any, output: torch.Tensor) -> torch.Tensor:
        moved = output.clone()
        moved[:, first:] += STRENGTH * direction
        return moved

    return add


def _run(model: Any, handles: list[Any]) -> torch.Tensor:
    try:
        return residuals(model, PROMPT)
    finally:
        for handle in handles:
            handle.remove()


def llama_cpp(model: Any) -> torch.Tensor:
    """common_control_vector_load_one, llama_adapter_cvec::apply and build_cvec, line by line."""
    data: dict[int, float] = {}
    n_embd = 8
    for tensor in GGUFReader(FIXTURES / "cvector-generator.gguf").tensors:
        layer_idx = int(tensor.name.split(".")[1])
        for j in range(n_embd):
            data[n_embd * (layer_idx - 1) + j] = float(tensor.data[j]) * STRENGTH
    handles = []
    for il in range(1, LAYERS):
        off = n_embd * (il - 1)
        cvec = torch.tensor([data[off + j] for j in range(n_embd)])
        block = model.model.layers[il]
        handles.append(block.register_forward_hook(lambda _m, _a, out, v=cvec: out + v))
    return _run(model, handles)


def activation_steering(model: Any) -> torch.Tensor:
    """LeashLayer.forward: operator(hidden_states[0], control), then the block; layers 1, 2, 3."""
    import json

    directions = json.loads((FIXTURES / "activation-steering.svec").read_text())["directions"]
    return _run(model, [_before(model, n, directions[str(n)]) for n in (1, 2, 3)])


def refusal(model: Any) -> torch.Tensor:
    """get_activation_addition_input_pre_hook on block 2, the layer of direction_metadata.json."""
    direction = torch.load(FIXTURES / "refusal" / "direction.pt", weights_only=True)
    return _run(model, [_before(model, 2, direction.tolist())])


def _before(model: Any, layer: int, values: list[float]) -> Any:
    def add(_module: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (arguments[0] + STRENGTH * torch.tensor(values), *arguments[1:])

    return model.model.layers[layer].register_forward_pre_hook(add)


def caa(model: Any) -> torch.Tensor:
    """BlockOutputWrapper.forward with add_vector_from_position: position_ids >= from_pos."""
    handles = []
    for n in (1, 2, 3):
        path = FIXTURES / "caa" / f"vec_layer_{n}_{CAA_MODEL}.pt"
        vector = torch.load(path, weights_only=True).float() * STRENGTH
        mask = (torch.arange(TOKENS) >= TOKENS - 1).float()[:, None]
        block = model.model.layers[n]
        handles.append(block.register_forward_hook(lambda _m, _a, o, d=mask * vector: o + d))
    return _run(model, handles)


def easyedit(model: Any) -> torch.Tensor:
    """BlockOutputWrapper.forward with from_position None: every token."""
    handles = []
    for n in (0, 2):
        path = FIXTURES / "easyedit" / f"layer_{n}.pt"
        vector = torch.load(path, weights_only=True).float() * STRENGTH
        block = model.model.layers[n]
        handles.append(block.register_forward_hook(lambda _m, _a, out, v=vector: out + v))
    return _run(model, handles)


RESTATED = {
    "cvector-generator.gguf": (llama_cpp, {}),
    "activation-steering.svec": (activation_steering, {}),
    "refusal": (refusal, {}),
    "caa": (caa, {"model": CAA_MODEL}),
    "easyedit": (easyedit, {}),
}


def test_the_tiny_model_is_the_one_that_was_recorded(model: Any, expected: Any) -> None:
    assert torch.allclose(residuals(model, PROMPT), expected["plain"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("library", ["repeng", "dialz"])
def test_ours_moves_what_the_library_moved(library: str, model: Any, expected: Any) -> None:
    vector = load(FIXTURES / f"{library}.gguf")
    ours, theirs = steered(model, vector), expected[library]
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    # The probe would see a layer's difference: blocks late, and block 0, which nothing steers.
    assert not torch.allclose(steered(model, vector, shift=1), theirs, atol=0.1)
    assert not torch.allclose(theirs, expected["plain"], atol=0.1)


@pytest.mark.parametrize("path", RESTATED)
def test_ours_moves_what_the_restated_hook_moves(path: Any, model: Any) -> None:
    theirs, options = RESTATED[path]
    given: dict[str, Any] = options
    vector = load(FIXTURES / path, **given)
    assert torch.allclose(steered(model, vector), theirs(model), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(steered(model, vector, shift=1), theirs(model), atol=0.1)


def test_as_extracted_is_another_layer_where_there_is_a_skew(model: Any) -> None:
    for path in ("cvector-generator.gguf", "activation-steering.svec"):
        vector = load(FIXTURES / path, as_extracted=True)
        theirs = RESTATED[path][0](model)
        assert not torch.allclose(steered(model, vector), theirs, atol=0.1)
