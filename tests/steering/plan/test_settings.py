"""Settings as they come out of vLLM's `additional_config`."""

from pathlib import Path
from typing import Any

import pytest

from steersman.steering.plan import Settings


def test_defaults_without_a_section() -> None:
    sections: tuple[dict[str, Any] | None, ...] = (None, {}, {"other": {}}, {"steersman": {}})
    for additional in sections:
        assert Settings.read(additional) == Settings()


def test_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERSMAN_HOME", "/srv/steersman")
    assert Settings().library == "/srv/steersman/library"
    monkeypatch.delenv("STEERSMAN_HOME")
    assert Settings().library == str(Path.home() / ".cache/steersman/library")


def test_round_trip() -> None:
    settings = Settings(library="/v", bank_rows=3, max_relative_dose=0.5, calibrate=False)
    assert Settings.read({"steersman": settings.to_dict()}) == settings


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ValueError, match="setting 'bank_row'; known: allow_activations"):
        Settings.read({"steersman": {"bank_row": 3}})


@pytest.mark.parametrize("section", [3, "x", ["bank_rows"], None])
def test_a_section_that_is_no_object_is_refused(section: object) -> None:
    with pytest.raises(ValueError, match="must be an object"):
        Settings.read({"steersman": section})


@pytest.mark.parametrize(
    "name", ["bank_rows", "max_terms", "max_vectors", "max_segments", "max_upload_bytes"]
)
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", None])
def test_counts_are_whole_numbers_of_at_least_one(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Settings.read({"steersman": {name: value}})


def test_nobody_may_be_let_wait() -> None:
    assert Settings.read({"steersman": {"max_waiting": 0}}).max_waiting == 0
    for value in (-1, 0.5, True, None):
        with pytest.raises(ValueError, match="max_waiting"):
            Settings.read({"steersman": {"max_waiting": value}})


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_coefficient", "3"), ("max_coefficient", float("nan")), ("library", 3)],
)
def test_other_wrong_values_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        Settings.read({"steersman": {name: value}})
