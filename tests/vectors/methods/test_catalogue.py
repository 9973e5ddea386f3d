"""`METHODS` is what a job endpoint goes by: it must be true of every method."""

import inspect
from pathlib import Path

import pytest
import torch

from steersman.vectors.methods import METHODS, PROJECTION_INPUT, ActivationsInvalid, Method, caa
from steersman.vectors.tensors import SITES
from tests.support.vectors.activations import two_sides

FITS = {name: method for name, method in METHODS.items() if method.fit is not None}


def fit(method: Method, positive: object, negative: object, **settings: object) -> torch.Tensor:
    assert method.fit is not None
    return method.fit(positive, negative, **settings)


def test_every_method_of_the_issue_is_there() -> None:
    adding = {"caa", "style", "mean_difference", "repe", "probe", "per_step"}
    adding.add("cast_condition")
    assert set(METHODS) == adding | {"act_linear", "act_mean", "directional_ablation"}
    assert adding == {name for name, method in METHODS.items() if method.operation == "add"}


@pytest.mark.parametrize("name", METHODS)
def test_what_is_said_of_a_method_makes_sense(name: str) -> None:
    method = METHODS[name]
    assert method.token_rules
    assert method.paired == (method.inputs == "pairs")
    if name == "per_step":
        assert method.sites == (PROJECTION_INPUT, "attn_out")
    elif method.trials:
        assert method.sites == ("resid_post",)
    else:
        assert set(method.sites) == set(SITES)


@pytest.mark.parametrize("name", FITS)
def test_fit_gives_float32_directions_and_takes_its_settings(name: str) -> None:
    method = FITS[name]
    positive, negative = two_sides(0, 8)
    plain = fit(method, positive, negative)
    layers, hidden = positive.shape[1:]
    transports = method.operation == "transport"
    assert plain.shape == ((layers, 4, hidden) if transports else (layers, hidden))
    assert plain.dtype == torch.float32
    unit = torch.allclose(plain.norm(dim=-1), torch.ones(plain.shape[:-1]))
    assert unit == (name in ("repe", "probe", "cast_condition"))
    assert method.fit is not None
    taken = set(inspect.signature(method.fit).parameters) - {"positive", "negative"}
    assert taken == set(method.settings)
    for setting, allowed in method.settings.items():
        for value in allowed if isinstance(allowed, tuple) else (allowed(2),):
            assert fit(method, positive, negative, **{setting: value}).isfinite().all()


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("kind", ["tensor", "list", "iterator"])
def test_rows_come_in_any_form_and_are_not_changed(name: str, kind: str) -> None:
    positive, negative = two_sides(0, 8)
    before = positive.clone(), negative.clone()
    form = {"tensor": lambda t: t, "list": list, "iterator": iter}[kind]
    found = fit(FITS[name], form(positive), form(negative))
    assert torch.equal(found, fit(FITS[name], *before))
    assert torch.equal(positive, before[0])
    assert torch.equal(negative, before[1])


@pytest.mark.parametrize("name", FITS)
def test_degenerate_rows_are_a_clear_value_error(name: str) -> None:
    method = FITS[name]
    positive, negative = two_sides(0, 8)
    broken = positive.clone()
    broken[3, 1, 2] = float("nan")
    infinite = negative.clone()
    infinite[5, 0, 0] = float("-inf")
    wide = torch.cat([negative, negative], dim=-1)
    cases = {
        "too_few_rows": [(positive[:1], negative[:1]), (positive[:0], negative[:0])],
        "not_finite": [(broken, negative), (positive, infinite)],
        "bad_shape": [(positive, wide), (positive[0], negative[0]), (positive, negative[:, :2])],
        "wrong_dtype": [(positive.double(), negative), (positive, negative.half())],
        "identical_sides": [(positive, positive), (positive, positive.clone())],
    }
    if method.paired:
        cases["unpaired"] = [(positive, negative[:6])]
    for code, sides in cases.items():
        for side in sides:
            with pytest.raises(ValueError) as caught:  # noqa: PT011  (the class is checked below)
                fit(method, *side)
            assert isinstance(caught.value, ActivationsInvalid)
            assert caught.value.code == code
            assert str(caught.value)
    with pytest.raises(ActivationsInvalid) as caught:
        fit(method, broken, negative)
    assert (caught.value.samples, caught.value.layers, caught.value.param) == (
        (3,),
        (1,),
        "positive",
    )
    with pytest.raises(ActivationsInvalid) as caught:
        fit(method, positive, torch.cat([positive[:, :1], negative[:, 1:]], dim=1))
    assert caught.value.layers == (0,)


def test_the_same_rows_give_the_same_bytes() -> None:
    for method in FITS.values():
        sides = two_sides(0, 12)
        assert torch.equal(fit(method, *sides), fit(method, *sides))


def test_a_memory_mapped_stack_will_do(tmp_path: Path) -> None:
    positive, negative = two_sides(0, 8)
    file = tmp_path / "rows"
    file.write_bytes(positive.numpy().tobytes())
    mapped = torch.from_file(str(file), size=positive.numel(), dtype=torch.float32)
    mapped = mapped.reshape(positive.shape)
    assert torch.equal(caa(mapped, negative), caa(positive, negative))
    for method in FITS.values():
        assert torch.equal(fit(method, mapped, negative), fit(method, positive, negative))
