"""Files of vectors for another operation than `add`: read back whole, of their own digest, or
refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save

from steersman import load
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import (
    METADATA_KEY,
    SteeringVector,
    read_tensors,
    read_vector,
    write_vector,
)
from steersman.vectors.formats.gguf_export import expressible
from steersman.vectors.library.library import Library
from steersman.vectors.operation import Operation
from steersman.vectors.served import ServedModel
from steersman.vectors.tensors import HookPoint

HIDDEN = 8
POINT = HookPoint("resid_post", 3)
PLAIN = "sha256:e1994c17ab271c32244f4ede55c5e3f3d2f60571b5ef10cf5e2dfe3a1382d37d"
"""Of ones at `POINT` with coefficient 2, as it was before there were operations."""

Make = Callable[[], SteeringVector]


def direction(*operation: Any, **settings: Any) -> SteeringVector:
    return SteeringVector({POINT: torch.ones(HIDDEN)}, operation=Operation(*operation, **settings))


def basis() -> SteeringVector:
    return SteeringVector({POINT: torch.eye(HIDDEN)[:3]}, operation=Operation("project"))


def feature(**settings: Any) -> SteeringVector:
    rows = torch.arange(1.0, 1 + 4 * HIDDEN).reshape(4, HIDDEN)
    numbers = {POINT: torch.tensor([[0.5, 1.5], [0.0, 2.5]])}
    return SteeringVector(
        {POINT: rows}, operation=Operation("feature", **settings), numbers=numbers
    )


def transport() -> SteeringVector:
    rows = torch.arange(4.0 * HIDDEN).reshape(4, HIDDEN)
    return SteeringVector({POINT: rows}, operation=Operation("transport"))


def rotate() -> SteeringVector:
    return SteeringVector({POINT: torch.eye(HIDDEN)[:2]}, operation=Operation("rotate", angle=30.0))


ALL: list[Make] = [
    lambda: direction("project"),
    lambda: direction("clamp", min=-1.0, max=2.0, unit="median_norm"),
    lambda: direction("replace"),
    basis,
    feature,
    lambda: feature(value=2.0),
    transport,
    rotate,
]


@pytest.mark.parametrize("make", ALL)
def test_what_is_written_is_read_back(make: Make, tmp_path: Path) -> None:
    written = make()
    data = write_vector(written)
    found = read_vector(data)
    assert found.operation == written.operation
    assert found.digest == written.digest
    assert torch.equal(found.tensors[POINT], written.tensors[POINT])
    assert found.numbers.keys() == written.numbers.keys()
    assert write_vector(found) == data
    file = tmp_path / "it.safetensors"
    file.write_bytes(data)
    assert load(file).digest == written.digest
    entry, _ = Library(tmp_path).add(data, "it")
    assert entry.operation == written.operation
    assert entry.tensors[POINT] == tuple(written.tensors[POINT].shape)
    assert torch.equal(read_tensors(entry.path, [POINT])[POINT], written.tensors[POINT])


def test_the_digest_of_a_vector_that_adds_is_what_it_was() -> None:
    assert SteeringVector({POINT: torch.ones(HIDDEN)}, coefficient=2.0).digest == PLAIN


def test_what_changes_the_behaviour_changes_the_digest() -> None:
    others = {make().digest for make in ALL}
    others |= {
        direction("add").digest,
        direction("clamp", min=-1.0, max=2.0).digest,
        direction("clamp", min=-1.0, unit="median_norm").digest,
        feature(value=3.0).digest,
        feature(multiply=2.0).digest,
        SteeringVector(
            feature().tensors, operation=Operation("feature"), numbers={POINT: torch.zeros(2, 2)}
        ).digest,
    }
    assert len(others) == len(ALL) + 6


def test_parts_have_names_in_the_file() -> None:
    assert set(load_tensors(write_vector(feature()))) == {
        f"resid_post.3.{part}" for part in ("encoder", "decoder", "bias", "threshold")
    }
    assert set(load_tensors(write_vector(rotate()))) == {"resid_post.3.b1", "resid_post.3.b2"}


def test_a_file_of_named_parts_alone_is_a_vector() -> None:
    """Without a word of metadata; what is left out of a transport has no effect."""
    only = read_vector(save({"resid_post.3.bias": torch.ones(HIDDEN)}))
    assert only.operation == Operation("transport")
    weight, bias, low, high = only.tensors[POINT]
    assert weight.tolist() == bias.tolist() == [1.0] * HIDDEN
    assert float(low.max()) < -1e38
    assert float(high.min()) > 1e38
    one = read_vector(
        save(
            {
                "resid_post.3.encoder": torch.ones(HIDDEN),
                "resid_post.3.decoder": torch.ones(HIDDEN),
                "resid_post.3.bias": torch.tensor([0.5]),
            }
        )
    )
    assert one.operation == Operation("feature")
    assert one.numbers[POINT].tolist() == [[0.5], [0.0]]


def tensors(**parts: torch.Tensor) -> dict[str, torch.Tensor]:
    # Cloned, because safetensors refuses tensors that share memory.
    return {
        "resid_post.3" + (f".{part}" if part != "v" else ""): tensor.clone()
        for part, tensor in parts.items()
    }


ONE, TWO = torch.ones(HIDDEN), torch.ones(2, HIDDEN)


@pytest.mark.parametrize(
    ("said", "parts", "param", "code"),
    [
        ('{"operation": "multiply"}', {"v": ONE}, "operation", "unknown_operation"),
        ('{"operation": "clamp", "min": 2, "max": 1}', {"v": ONE}, "min", "invalid_operation"),
        ('{"operation": "clamp", "angle": 2}', {"v": ONE}, "angle", "invalid_operation"),
        ('{"operation": "clamp", "unit": "inch"}', {"v": ONE}, "unit", "invalid_operation"),
        ('{"max": 1}', {"v": ONE}, "max", "bad_metadata"),
        ('{"operation": "project"}', {"v": 0 * ONE}, "resid_post.3", "zero_direction"),
        ('{"operation": "project"}', {"v": 1e20 * ONE}, "resid_post.3", "direction_too_long"),
        ('{"operation": "project"}', {"v": TWO}, "resid_post.3", "not_orthonormal"),
        ('{"operation": "clamp"}', {"v": torch.eye(HIDDEN)[:2]}, "resid_post.3", "bad_shape"),
        ('{"operation": "rotate"}', {"v": ONE}, "operation", "operation_needs_tensors"),
        ('{"operation": "add"}', {"b1": ONE, "b2": ONE}, "operation", "operation_needs_tensors"),
        ("{}", {"b1": ONE, "b2": ONE}, "resid_post.3", "not_orthonormal"),
        ("{}", {"b1": ONE}, "resid_post.3", "incomplete_operation"),
        ("{}", {"b1": ONE, "b2": ONE, "v": ONE}, "resid_post.3", "incomplete_operation"),
        ("{}", {"encoder": ONE, "decoder": ONE}, "resid_post.3", "incomplete_operation"),
        (
            "{}",
            {"encoder": ONE, "decoder": torch.ones(HIDDEN + 1), "bias": torch.ones(1)},
            "resid_post.3.encoder",
            "mixed_hidden_sizes",
        ),
        (
            "{}",
            {"encoder": ONE, "decoder": ONE, "bias": torch.ones(2)},
            "resid_post.3.bias",
            "bad_shape",
        ),
        (
            "{}",
            {"encoder": torch.ones(2, HIDDEN), "decoder": ONE, "bias": torch.ones(2)},
            "resid_post.3.decoder",
            "bad_shape",
        ),
        ("{}", {"bias": ONE, "low": ONE, "high": 0 * ONE}, "resid_post.3.low", "low_over_high"),
        ("{}", {"bias": torch.ones(2, HIDDEN)}, "resid_post.3.bias", "bad_shape"),
    ],
)
def test_files_that_make_no_operation_are_refused(
    said: str, parts: dict[str, torch.Tensor], param: str, code: str
) -> None:
    with pytest.raises(VectorInvalid) as refused:
        read_vector(save(tensors(**parts), metadata={METADATA_KEY: said}))
    assert (refused.value.param, refused.value.code) == (param, code)


def test_two_operations_in_a_file_are_refused() -> None:
    parts = {"resid_post.3.bias": ONE, "resid_post.4": ONE.clone()}
    with pytest.raises(VectorInvalid) as refused:
        read_vector(save(parts))
    assert (refused.value.param, refused.value.code) == ("resid_post.4", "mixed_operations")


def test_a_feature_of_another_width_does_not_fit() -> None:
    misfit = ServedModel(hidden_size=HIDDEN + 1).misfit(feature_entry())
    assert misfit is not None
    assert misfit.code == "wrong_hidden_size"


def feature_entry() -> Any:
    from steersman.vectors.library.entry import described

    return described(feature())


@pytest.mark.parametrize(
    ("served", "param"),
    [
        (ServedModel(operations=("add", "project")), "operation"),
        (
            ServedModel(sites=("resid_post", "mlp_out"), reading_sites=("mlp_out",)),
            "resid_post.3",
        ),
    ],
)
def test_what_a_server_does_not_do_is_refused_at_the_upload(
    served: ServedModel, param: str
) -> None:
    misfit = served.misfit(feature_entry())
    assert misfit is not None
    assert misfit.param == param


@pytest.mark.parametrize("make", ALL)
def test_no_control_vector_is_made_of_another_operation(make: Make) -> None:
    """Whoever reads one adds it, or projects it out if it says so."""
    if make().operation.name == "project":
        assert expressible(make(), [3]).operation.name == "project"
        return
    with pytest.raises(VectorInvalid) as refused:
        expressible(make(), [3])
    assert refused.value.code == "operation_not_expressible"
