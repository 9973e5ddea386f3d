"""Relative doses and the limit on them: of one vector, and of several together."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from server.doses import Doses
from server.resolve import Resolved, resolve
from server.steering_field import SteeringField
from steering.plan import Limits, PlanInvalid, PlannedVector
from steering.plan.settings import Settings
from tests.server import make
from tests.server.make import steersman
from vectors.format import SteeringVector, write_vector
from vectors.library import Library

MEDIANS = {f"resid_post.{layer}": 10.0 * (layer + 1) for layer in range(4)}
Ask = Callable[..., Resolved]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Resolves vectors, named, at coefficients, on a server whose limit is a dose of 0.5."""
    library = Library(tmp_path)
    tensors = {
        "one": {("resid_post", 1): torch.tensor([6.0, 8.0])},
        "other": {("resid_post", 1): torch.tensor([0.0, 10.0]), ("resid_post", 2): torch.ones(2)},
        "both": {("attn_out", 1): torch.tensor([6.0, 8.0]), ("mlp_out", 1): torch.ones(2)},
    }
    for name, given in tensors.items():
        library.add(write_vector(SteeringVector(given)), name)
    limits = Limits.of(Settings(), num_layers=4)

    def resolved(*uses: tuple[str, float], limit: float | None = 0.5) -> Resolved:
        field: Any = {"vectors": [{"id": name, "coefficient": c} for name, c in uses]}
        return resolve(
            SteeringField.model_validate(field), "r", library, limits, Doses(MEDIANS, limit)
        )

    return resolved


def test_the_dose_is_a_share_of_the_stream(ask: Ask) -> None:
    (one,) = ask(("one", -0.5)).draft
    assert one["relative_dose"] == {"1": 0.25}


def test_sites_of_one_layer_add_up(ask: Ask) -> None:
    (both,) = ask(("both", 0.1)).draft
    assert both["relative_dose"] == {"1": pytest.approx(0.1 * (10 + 2**0.5) / 20, abs=1e-4)}


def test_of_a_schedule_the_strongest_coefficient_counts(tmp_path: Path) -> None:
    app = steersman(tmp_path, dose=0.5)
    use = {"id": "plain", "schedule": [0.1, -1.0, 0.5]}
    (draft,) = make.ask(app, {"vectors": [use]}).draft
    assert draft["relative_dose"] == {"1": 0.5}
    terms = (("resid_post", 1),)
    planned = PlannedVector(draft["digest"], 0.1, terms, "all", schedule=(0.2, -0.5, 0.3))
    assert app.doses.relative(app.library.resolve("plain"), planned) == {"1": 0.25}
    with pytest.raises(PlanInvalid) as refused:
        make.ask(app, {"vectors": [{"id": "plain", "schedule": [0.1, 1.1, 0.5]}]})
    assert (refused.value.code, refused.value.param) == (
        "dose_over_limit",
        "steering.vectors[0].schedule",
    )


def test_of_several_steps_the_longest_counts(tmp_path: Path) -> None:
    (draft,) = make.ask(steersman(tmp_path), {"vectors": {"steps": 1.0}}).draft
    assert draft["relative_dose"] == {"1": 1.0}


def test_of_a_dynamic_request_the_cap_counts(tmp_path: Path) -> None:
    app = steersman(tmp_path, dose=0.5)
    asked: Any = {"vectors": [{"id": "plain"}], "dynamic": {"start": 9.0, "max": 1.0}}
    (draft,) = make.ask(app, asked).draft
    assert draft["relative_dose"] == {"1": 0.5}
    asked["dynamic"]["max"] = 1.1
    with pytest.raises(PlanInvalid) as refused:
        make.ask(app, asked)
    assert refused.value.param == "steering.dynamic.max"
    asked["vectors"] = {"plain": 1.2}
    with pytest.raises(PlanInvalid) as refused:
        make.ask(app, asked)
    assert refused.value.param == "steering.vectors[0].coefficient"


def test_one_vector_over_the_limit(ask: Ask) -> None:
    with pytest.raises(
        PlanInvalid, match=r"'one' at layer 1 has a relative dose of 0\.6"
    ) as refused:
        ask(("other", 0.1), ("one", 1.2))
    assert (refused.value.code, refused.value.param) == (
        "dose_over_limit",
        "steering.vectors[1].coefficient",
    )


@pytest.mark.parametrize("uses", [[("one", 0.6), ("other", -0.6)], [("one", 0.3)] * 4])
def test_several_over_the_limit_together(ask: Ask, uses: list[tuple[str, float]]) -> None:
    with pytest.raises(PlanInvalid, match=r"all vectors add at layer 1 .* of 0\.6") as refused:
        ask(*uses)
    assert (refused.value.code, refused.value.param) == ("dose_over_limit", "steering.vectors")


def test_within_the_limit_or_without_one(ask: Ask) -> None:
    assert len(ask(("one", 0.4), ("other", 0.5)).draft) == 2
    assert len(ask(("one", 9.0), ("other", 9.0), limit=None).draft) == 2
