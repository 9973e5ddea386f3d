"""Relative doses and the limit on them: of one vector, and of several together."""

import logging
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.server.auth.library_view import LibraryView
from steersman.server.auth.permissions import OPEN
from steersman.server.chat.field import SteeringField
from steersman.server.chat.resolve import Resolved, resolve
from steersman.server.doses import Doses, check_doses_known
from steersman.server.state import Steersman
from steersman.steering.plan import Limits, PlanInvalid, PlannedVector
from steersman.steering.plan.settings import Settings
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint
from tests.support.server import make
from tests.support.server.make import steersman

MEDIANS = {f"resid_post.{layer}": 10.0 * (layer + 1) for layer in range(4)}
Ask = Callable[..., Resolved]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Resolves vectors, named, at coefficients, on a server whose limit is a dose of 0.5."""
    library = Library(tmp_path)
    tensors = {
        "one": {HookPoint("resid_post", 1): torch.tensor([6.0, 8.0])},
        "other": {
            HookPoint("resid_post", 1): torch.tensor([0.0, 10.0]),
            HookPoint("resid_post", 2): torch.ones(2),
        },
        "both": {
            HookPoint("attn_out", 1): torch.tensor([6.0, 8.0]),
            HookPoint("mlp_out", 1): torch.ones(2),
        },
    }
    for name, given in tensors.items():
        library.add(write_vector(SteeringVector(given)), name)
    limits = Limits.of(Settings(), num_layers=4)
    whole = LibraryView(library, OPEN, 10)

    def resolved(*uses: tuple[str, float], limit: float | None = 0.5) -> Resolved:
        field: Any = {"vectors": [{"id": name, "coefficient": c} for name, c in uses]}
        return resolve(
            SteeringField.model_validate(field), "r", whole, limits, Doses(MEDIANS, limit)
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
    terms = (HookPoint("resid_post", 1),)
    planned = PlannedVector(draft["digest"], 0.1, terms, "all", schedule=(0.2, -0.5, 0.3))
    assert app.all_doses.relative(app.whole_library.resolve("plain"), planned) == {"1": 0.25}
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
    asked: Any = {"vectors": [{"id": "plain"}], "dynamic": {"start": 0.5, "max": 1.0}}
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


def refused(app: Steersman, field: Any) -> PlanInvalid:
    with pytest.raises(PlanInvalid) as caught:
        make.ask(app, field)
    return caught.value


def test_what_a_dynamic_request_starts_at_is_a_dose(tmp_path: Path) -> None:
    """Its companions run at `start`, each with one vector alone."""
    app = steersman(tmp_path, dose=0.5)
    for start in ({"start": 1.1}, {"start": 9999}, {}):
        asked: Any = {"vectors": [{"id": "plain"}], "dynamic": {"max": 0.1, **start}}
        error = refused(app, asked)
        assert (error.code, error.param) == ("dose_over_limit", "steering.dynamic.start")
        assert "--max-relative-dose" in error.message
    both: Any = {
        "vectors": [{"id": "plain"}, {"id": "other"}],
        "dynamic": {"max": 0.1, "start": 1.0},
    }
    assert len(make.ask(app, both).draft) == 2


def add(app: Steersman, name: str, tensors: dict[HookPoint, list[float]]) -> None:
    vector = SteeringVector({key: torch.tensor(row) for key, row in tensors.items()})
    app.whole_library.add(write_vector(vector), name)


@pytest.mark.parametrize("size", [1e19, 3e38])
def test_huge_vectors_have_a_dose(tmp_path: Path, size: float) -> None:
    """Squares of their elements are over float32; a coefficient of 0 makes NaN of infinity."""
    add(free := steersman(tmp_path), "huge", {HookPoint("resid_post", 1): [size, size]})
    (draft,) = make.ask(free, {"vectors": {"huge": 1.0}}).draft
    assert draft["relative_dose"] == {"1": pytest.approx(size * 2**0.5 / 20)}
    limited = steersman(tmp_path, dose=0.5)
    for c in (1.0, -1.0, 1e-9):
        assert refused(limited, {"vectors": {"huge": c}}).code == "dose_over_limit"
    assert make.ask(limited, {"vectors": {"huge": 0.0}}).draft[0]["relative_dose"] == {"1": 0.0}
    norms = free.all_doses.norms_of(free.whole_library.resolve("huge"))
    assert list(norms[HookPoint("resid_post", 1)]) == pytest.approx([size * 2**0.5, size])


@pytest.mark.parametrize("dose", [math.nan, math.inf])
@pytest.mark.parametrize("limit", [None, 2.0])
def test_a_dose_that_is_no_number_is_refused(dose: float, limit: float | None) -> None:
    """Wherever it stands among the others."""
    doses = Doses(MEDIANS, limit)
    for given in ({"1": dose}, {"0": 0.1, "1": dose}, {"1": dose, "2": 0.1}):
        with pytest.raises(PlanInvalid) as caught:
            doses.check(given, "'v'", "steering.vectors[0].coefficient")
        assert caught.value.code == "dose_over_limit"
        with pytest.raises(PlanInvalid):
            doses.check_sum([{"1": 0.1}, given])


def test_the_sum_over_layers_has_a_limit_of_its_own(tmp_path: Path) -> None:
    layers = {
        HookPoint("resid_post", layer): [6.0 * (layer + 1), 8.0 * (layer + 1)] for layer in range(4)
    }
    app = steersman(tmp_path, dose=1.0, total=1.0)
    add(app, "wide", layers)
    (draft,) = make.ask(app, {"vectors": {"wide": 0.25}}).draft
    assert draft["relative_dose"] == {str(layer): 0.25 for layer in range(4)}
    assert draft["total_dose"] == 1.0
    error = refused(app, {"vectors": {"wide": 0.3}})
    assert (error.code, error.param) == ("dose_over_limit", "steering.vectors[0].coefficient")
    assert "--max-total-dose" in error.message
    assert "1.2 over 4 layers" in error.message
    assert make.ask(app, {"vectors": [{"id": "wide", "coefficient": 0.5, "layers": [1, 2]}]})
    # Of several vectors together, at other layers; and of a companion alone.
    parts = [
        {"id": "wide", "coefficient": 0.2},
        {"id": "wide", "coefficient": 0.2, "layers": [0, 3]},
    ]
    assert refused(app, {"vectors": parts}).param == "steering.vectors"
    dynamic = {"vectors": [{"id": "wide"}], "dynamic": {"start": 0.3, "max": 0.1}}
    assert refused(app, dynamic).param == "steering.dynamic.start"


def test_the_message_names_who_sets_the_limit() -> None:
    server = Doses(MEDIANS, 2.0, 3.0)
    key, loose = server.within(1.0, 1.5), server.within(5.0, 5.0)
    assert (key.limit, key.total_limit, loose.limit, loose.total_limit) == (1.0, 1.5, 2.0, 3.0)
    assert (server.limit, server.within(None, 1.0).limit) == (2.0, 2.0)
    for doses, given, who in (
        (server, {"1": 2.1}, "this server's limit of 2 (--max-relative-dose)"),
        (loose, {"1": 2.1}, "this server's limit of 2 (--max-relative-dose)"),
        (key, {"1": 1.1}, "this key's limit of 1 (max_relative_dose in the keys file)"),
        (key, {"1": 0.8, "2": 0.8}, "this key's limit of 1.5 (max_total_dose in the keys file)"),
        (server, {"1": 1.8, "2": 1.8}, "this server's limit of 3 (--max-total-dose)"),
    ):
        with pytest.raises(PlanInvalid, match=re.escape(who)):
            doses.check(given, "'v'", "p")


def test_a_dose_at_the_limit_is_not_over_it() -> None:
    doses = Doses(MEDIANS, 0.1)
    doses.check({"1": 0.1 + 1e-9}, "'v'", "p")
    with pytest.raises(PlanInvalid):
        doses.check({"1": 0.10001}, "'v'", "p")


class TestAtTheStart:
    """A server whose doses are not known says so, once."""

    def test_with_a_limit_it_does_not_start(self) -> None:
        for name in ("max_relative_dose", "max_total_dose"):
            limit: dict[str, Any] = {name: 1.0}
            option = "--" + name.replace("_", "-")
            with pytest.raises(RuntimeError, match=f"{option} .*--enforce-eager.*STEERSMAN_HOME"):
                check_doses_known(None, Settings(**limit), keyed=False)
            check_doses_known(MEDIANS, Settings(**limit), keyed=True)

    @pytest.mark.parametrize("keyed", [False, True])
    def test_without_one_it_tells(self, caplog: pytest.LogCaptureFixture, keyed: bool) -> None:
        with caplog.at_level("WARNING", "vllm.steersman"):
            logging.getLogger("vllm.steersman").addHandler(caplog.handler)
            try:
                check_doses_known(None, Settings(calibrate=False), keyed=keyed)
            finally:
                logging.getLogger("vllm.steersman").removeHandler(caplog.handler)
        text = caplog.messages[0]
        assert "the setting calibrate on" in text
        assert ("under a key" in text) == keyed
